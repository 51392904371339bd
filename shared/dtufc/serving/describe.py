"""A profile as a service describes it, and as the other side compares it."""

from dtufc.coding.feature_codec import FeatureCodec
from dtufc.models.profile import Profile
from dtufc.v1 import head_pb2


def profile_info(profile: Profile, codec: FeatureCodec, num_layers: int) -> head_pb2.ProfileInfo:
    """What ListModels and Describe say of one profile; `num_layers` is the model's own."""
    return head_pb2.ProfileInfo(
        name=profile.name,
        family=profile.spec.family,
        split=profile.split,
        num_layers=num_layers,
        digest=profile.digest,
        codecs=codec.codecs,
        tasks=profile.spec.tasks,
        qualities={
            name: head_pb2.QualityRange(lowest=low, highest=high) for name, (low, high) in codec.quality_ranges.items()
        },
    )
