"""The edge's half of the way, for one profile.

input --backbone--> features --codec--> frame
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from dtufc.coding import bitstream
from dtufc.coding.feature_codec import EncodedFrame, FeatureCodec
from dtufc.coding.rate import Rate
from dtufc.models import plugins
from dtufc.models.capabilities import Generation, ImageFeatures, LatentFeatures, PatchFeatures, TokenFeatures
from dtufc.models.profile import Profile
from dtufc.serving.telemetry import Record


class EdgePipeline:
    """One profile's backbone and encoder; a mirror of the cloud's pipeline."""

    def __init__(self, profile: Profile, device: torch.device, dtype: torch.dtype) -> None:
        self.backbone: Any = plugins.built(plugins.BACKBONES, profile, device, dtype)
        self.profile = profile.with_prefix(getattr(self.backbone, "prefix", 0))
        self.codec = FeatureCodec(self.profile)
        self.codec.prepare(self.codec.default_codec)  # before the first request; a damaged one ends the start

    def warm_up(self) -> None:
        """One pass of the default way, on an input of its own: what is done once is done before the first request.

        A family without any of our capabilities is not warmed up.
        """
        for features in self._examples():
            self.codec.encode(features)

    def _examples(self) -> Iterator[Tensor]:
        backbone, profile = self.backbone, self.profile
        if isinstance(backbone, TokenFeatures):
            state = backbone.start()
            yield backbone.features(state, backbone.plain_ids("a") or [0])
            yield backbone.features(state, [0])
        elif isinstance(backbone, PatchFeatures) and "classify" not in profile.spec.tasks:
            yield backbone.features(backbone.fit(Image.new("RGB", (64, 64)))[0])
        elif isinstance(backbone, ImageFeatures):
            yield backbone.features(backbone.crop(Image.new("RGB", (64, 64))))
        elif isinstance(backbone, LatentFeatures):
            defaults, side = profile.spec.generation, backbone.default_pixels
            one_step = Generation(prompt="a", seed=0, steps=1, guidance=defaults.guidance, width=side, height=side)
            yield backbone.latent(one_step, defaults, lambda _: None)

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
