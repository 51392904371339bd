"""The edge's half of the way, for one profile.

input --backbone--> features --codec--> frame
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dtufc.coding import bitstream
from dtufc.coding.feature_codec import EncodedFrame, FeatureCodec
from dtufc.coding.rate import Rate
from dtufc.models import plugins
from dtufc.models.profile import Profile
from dtufc.serving.telemetry import Record


class EdgePipeline:
    """One profile's backbone and encoder; a mirror of the cloud's pipeline."""

    def __init__(self, profile: Profile, device: torch.device, dtype: torch.dtype) -> None:
        self.backbone: Any = plugins.built(plugins.BACKBONES, profile, device, dtype)
        self.profile = profile.with_prefix(getattr(self.backbone, "prefix", 0))
        self.codec = FeatureCodec(self.profile)
        self.codec.prepare(self.codec.default_codec)  # before the first request; a damaged one ends the start

    def encode(
        self,
        features: Tensor,
        codec: str,
        rate: Rate,
        record: Record,
        focus: Sequence[int] = (),
        step_at: int | None = None,
    ) -> EncodedFrame:
        """Features to one frame.

        Args:
            features: of a shape that the profile's layout knows.
            codec: one of the profile's.
            rate: of the frame.
            record: that counts it.
            focus: rows that the result depends on most.
            step_at: the position of a step frame, as which it will be sent; None for a whole one.
        """
        record.quality = rate.label if self.codec.has_rate(codec) else "none"
        with record.stages.measure("edge.encode"):
            data = self.codec.encode(
                features,
                quality=rate.quality,
                target_bpfp=rate.target_bpfp,
                max_bytes=rate.max_bytes,
                codec=codec,
                focus=focus,
            )
        record.add_frame(
            raw_bytes=features.nbytes,
            payload_bytes=len(data.frame.payload),
            wire_bytes=len(data) if step_at is None else len(bitstream.pack_step(data.frame, step_at)),
            num_values=features.numel(),
        )
        return data
