"""The edge's half of the way.

input --backbone--> features --codec--> payload --bitstream--> bytes
"""

import io
import struct
from collections.abc import Callable, Mapping
from typing import Final

import torch
from PIL import Image, ImageOps
from torch import Tensor

from dtufc.coding import bitstream
from dtufc.coding.feature_codec import FeatureCodec, Rate
from dtufc.errors import InputError
from dtufc.models.profile import Profile
from dtufc.models.zoo import weights_folder
from dtufc.serving.telemetry import Request
from dtufc_edge.backbones.cnn import CnnBackbone
from dtufc_edge.backbones.dinov2 import Box, Dinov2Backbone
from dtufc_edge.backbones.llama import LlamaBackbone, LlamaSession
from dtufc_edge.backbones.sd3 import Sd3Backbone, Wish

_FORMATS = ("JPEG", "PNG", "WEBP")
Backbone = LlamaBackbone | Dinov2Backbone | CnnBackbone | Sd3Backbone
_BACKBONES: Final[Mapping[str, type[Backbone]]] = {
    "llama": LlamaBackbone,
    "dinov2": Dinov2Backbone,
    "cnn": CnnBackbone,
    "sd3": Sd3Backbone,
}


class EdgePipeline:
    """One profile's backbone and encoder; a mirror of the cloud's pipeline."""

    def __init__(self, profile: Profile, device: torch.device, dtype: torch.dtype) -> None:
        self.profile = profile
        self.codec = FeatureCodec(profile)
        folder = weights_folder(profile.spec)
        self._backbone = _BACKBONES[profile.spec.model](folder, profile.split, device, dtype)

    @property
    def llama(self) -> LlamaBackbone:
        """The backbone of a profile that reads text. Raises InputError for one that does not."""
        if not isinstance(self._backbone, LlamaBackbone):
            raise self._wrong_input("text")
        return self._backbone

    @property
    def dinov2(self) -> Dinov2Backbone:
        """The backbone of a profile that sees images. Raises InputError for one that does not."""
        if not isinstance(self._backbone, Dinov2Backbone):
            raise self._wrong_input("images")
        return self._backbone

    @property
    def cnn(self) -> CnnBackbone:
        """The backbone of a profile that classifies images. Raises InputError for one that does not."""
        if not isinstance(self._backbone, CnnBackbone):
            raise self._wrong_input("images to classify")
        return self._backbone

    @property
    def sd3(self) -> Sd3Backbone:
        """The backbone of a profile that draws. Raises InputError for one that does not."""
        if not isinstance(self._backbone, Sd3Backbone):
            raise self._wrong_input("prompts for pictures")
        return self._backbone

    def see(self, image: Image.Image, request: Request) -> tuple[Tensor, Box]:
        """Image to features [1 + patches, d], and where the image lies in the model's picture."""
        with request.stages.measure("edge.prepare"):
            pixels, box = self.dinov2.prepare(image)
        with request.stages.measure("edge.backbone"):
            return self.dinov2.features(pixels), box

    def look(self, image: Image.Image, request: Request) -> Tensor:
        """Image to feature maps [C, h, w]."""
        with request.stages.measure("edge.prepare"):
            pixels = self.cnn.prepare(image)
        with request.stages.measure("edge.backbone"):
            return self.cnn.features(pixels)

    def read(self, session: LlamaSession, token_ids: list[int], request: Request) -> Tensor:
        """Tokens that follow those the session has seen, to features [tokens, d]."""
        with request.stages.measure("edge.backbone"):
            return session.features(token_ids)

    def imagine(self, wish: Wish, on_step: Callable[[int], None], request: Request) -> Tensor:
        """Prompt to latent [16, h, w]; what `on_step` raises ends it."""
        with request.stages.measure("edge.backbone"):
            return self.sd3.latent(wish, self.profile.spec.imagine, on_step)

    def encode(self, features: Tensor, codec: str, rate: Rate, request: Request) -> bytes:
        """Features to one frame."""
        request.quality = rate.label if self.codec.has_rate(codec) else "none"
        with request.stages.measure("edge.encode"):
            data = self.codec.encode(
                features, quality=rate.quality, target_bpfp=rate.target_bpfp, max_bytes=rate.max_bytes, codec=codec
            )
        request.add_frame(
            raw_bytes=features.nbytes,
            payload_bytes=len(bitstream.parse(data).payload),
            wire_bytes=len(data),
            num_values=features.numel(),
        )
        return data

    def _wrong_input(self, what: str) -> InputError:
        return InputError(
            field="profile", problem=f"{self.profile.name} does not take {what}", remedy="Name a profile that does"
        )


def open_image(data: bytes, max_bytes: int, max_pixels: int) -> Image.Image:
    """An image file's pixels, upright; its size is checked before anything is unpacked.

    Raises:
        InputError: no image, one that is cut off, or one that is too large.
    """
    if not 0 < len(data) <= max_bytes:
        raise InputError(field="image", problem=f"{len(data)} bytes", remedy=f"Send a file of 1 to {max_bytes} bytes")
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
        if image.width * image.height > max_pixels:
            problem = f"{image.width} x {image.height} pixels"
            raise InputError(field="image", problem=problem, remedy=f"Send at most {max_pixels} pixels")
        return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, SyntaxError, ValueError, KeyError, TypeError, struct.error, Image.DecompressionBombError) as error:
        raise InputError(
            field="image", problem=f"cannot be read: {error}", remedy=f"Send a whole {', '.join(_FORMATS)} file"
        ) from error
