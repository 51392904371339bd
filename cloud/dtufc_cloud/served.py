"""What the cloud serves: all that depends on profiles. A reload replaces it as a whole."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dtufc.errors import InputError, ProfileMismatch
from dtufc.models import plugins
from dtufc.models.capabilities import SequenceLogits
from dtufc.models.profile import Profile
from dtufc.serving.describe import profile_info
from dtufc.serving.passes import Passes
from dtufc.serving.telemetry import Telemetry
from dtufc.serving.worker import Worker
from dtufc.v1 import head_pb2
from dtufc_cloud.pipeline import CloudPipeline

COMPLETE = "complete"  # the task of sessions, as profiles list it


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedProfile:
    """One profile, loaded.

    Attributes:
        pipeline: of the profile.
        passes: through its head, if it completes.
        info: what Describe says of it.
    """

    pipeline: CloudPipeline
    passes: Passes[Tensor, Tensor] | None
    info: head_pb2.ProfileInfo

    @classmethod
    def of(cls, pipeline: CloudPipeline, worker: Worker, telemetry: Telemetry) -> "ServedProfile":
        """Raises InputError for a task that no package has, or one that the profile's family cannot do."""
        _check_tasks(pipeline)
        profile, head = pipeline.profile, pipeline.head
        passes = None
        if COMPLETE in profile.spec.tasks:
            head.cache_bytes(1)  # is measured now, and not in the first request
            together = head.next_logits_together if head.shares_passes else None
            passes = Passes(worker, together, telemetry.watch_passes(profile.name))
            telemetry.expect_sessions(profile.name)
        return cls(pipeline=pipeline, passes=passes, info=profile_info(profile, pipeline.codec, head.num_layers))

    @classmethod
    def load(
        cls,
        device: torch.device,
        dtype: torch.dtype,
        max_tokens: int,
        worker: Worker,
        telemetry: Telemetry,
        profile: Profile,
    ) -> "ServedProfile":
        """`of` a pipeline that is loaded now."""
        return cls.of(CloudPipeline(profile, device, dtype, max_tokens), worker, telemetry)


@dataclass(frozen=True, slots=True, kw_only=True, weakref_slot=True)
class Served:
    """What a call takes once, at its beginning, and finishes on; a session too."""

    profiles: Mapping[str, ServedProfile]

    def pipeline(self, name: str) -> CloudPipeline:
        """Raises ProfileMismatch where the profile is not served."""
        if name not in self.profiles:
            raise ProfileMismatch(profile=name, expected="not served", found="asked for")
        return self.profiles[name].pipeline

    def completing(self, name: str) -> tuple[CloudPipeline, Passes[Tensor, Tensor]]:
        """A profile and its passes. Raises ProfileMismatch where none of this name completes."""
        found = self.profiles.get(name)
        if found is None or found.passes is None:
            raise ProfileMismatch(profile=name, expected=f"not served for {COMPLETE}", found="asked for")
        return found.pipeline, found.passes


def _check_tasks(pipeline: CloudPipeline) -> None:
    for name in pipeline.profile.spec.tasks:
        needed = SequenceLogits if name == COMPLETE else plugins.load(plugins.CLOUD_TASKS, name)().needs
        if not isinstance(pipeline.head, needed):
            family = pipeline.profile.spec.family
            problem = f"{pipeline.profile.name} lists {name}, and family {family} has no {needed.__name__}"
            raise InputError(field="tasks", problem=problem, remedy="List tasks that the family can do")
