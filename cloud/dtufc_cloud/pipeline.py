"""The cloud's half of the way.

bytes --bitstream--> Frame --codec--> features --head--> result
"""

import io
from collections.abc import Mapping, Sequence
from typing import Final

import torch
from PIL import Image
from torch import Tensor

from dtufc.coding import bitstream
from dtufc.coding.arrays import Array
from dtufc.coding.bitstream import Frame
from dtufc.coding.feature_codec import FeatureCodec
from dtufc.coding.features import as_tensor
from dtufc.coding.layout import Family
from dtufc.errors import InputError
from dtufc.models.profile import Profile
from dtufc.models.zoo import weights_folder
from dtufc.serving.limits import MAX_LATENT_POSITIONS
from dtufc.serving.telemetry import Request
from dtufc_cloud.heads.cnn import CnnHead, Label
from dtufc_cloud.heads.dinov2 import Dinov2Head
from dtufc_cloud.heads.llama import LlamaHead
from dtufc_cloud.heads.sd3 import Sd3Head

Head = LlamaHead | Dinov2Head | CnnHead | Sd3Head
_HEADS: Final[Mapping[str, type[Head]]] = {
    "llama": LlamaHead,
    "dinov2": Dinov2Head,
    "cnn": CnnHead,
    "sd3": Sd3Head,
}


class CloudPipeline:
    """One profile's decoder and head; a mirror of the edge's pipeline."""

    def __init__(self, profile: Profile, device: torch.device, dtype: torch.dtype, max_tokens: int = 2048) -> None:
        self.profile = profile
        self.codec = FeatureCodec(profile)
        self._max_tokens = max_tokens
        folder = weights_folder(profile.spec)
        self._head = _HEADS[profile.spec.model](folder, profile.split, device, dtype)

    def decode(self, data: bytes, request: Request) -> Tensor:
        """Frame to features: [tokens, d], or [C, h, w] of a CNN and of a latent.

        Raises:
            BitstreamError, ProfileMismatch, Desync: the frame cannot be decoded here.
            InputError: more tokens than this service takes.
        """
        with request.stages.measure("cloud.parse"):
            frame = bitstream.parse(data)
        self.codec.check_frame(frame)
        self._check_size(frame)
        request.codec = frame.codec.name
        with request.stages.measure("cloud.decode"):
            features = as_tensor(self.codec.decode_frame(frame))
        request.add_frame(
            raw_bytes=features.nbytes,
            payload_bytes=len(frame.payload),
            wire_bytes=len(data),
            num_values=frame.num_values,
        )
        return features.reshape(features.shape[-3 if self._keeps_grid else -2 :])

    def answer(self, data: bytes, token_ids: Sequence[int], request: Request) -> list[float]:
        """The probability of each of these tokens to come next, among them alone."""
        head = self._llama()
        features = self.decode(data, request)
        with request.stages.measure("cloud.head"):
            return head.answer(features, token_ids)

    def next_token(self, data: bytes, request: Request) -> int:
        """The most probable next token."""
        head = self._llama()
        features = self.decode(data, request)
        with request.stages.measure("cloud.head"):
            return head.next_token(features)

    def label_map(self, data: bytes, box: tuple[int, int, int, int], size: tuple[int, int], request: Request) -> bytes:
        """Label map of the image that lies at `box`, of `size` (height, width), as PNG."""
        if not isinstance(self._head, Dinov2Head):
            raise self._no_task("segment")
        features = self.decode(data, request)
        with request.stages.measure("cloud.head"):
            labels = self._head.label_map(features, box, size)
        return _as_png(labels, request)

    def picture(self, data: bytes, request: Request) -> bytes:
        """The picture of a latent, as PNG."""
        if not isinstance(self._head, Sd3Head):
            raise self._no_task("imagine")
        features = self.decode(data, request)
        with request.stages.measure("cloud.head"):
            picture = self._head.picture(features)
        return _as_png(picture, request)

    def labels(self, data: bytes, count: int, request: Request) -> list[Label]:
        """The most probable labels, at most `count`, best first."""
        if not isinstance(self._head, CnnHead):
            raise self._no_task("classify")
        features = self.decode(data, request)
        with request.stages.measure("cloud.head"):
            return self._head.labels(features, count)

    @property
    def _keeps_grid(self) -> bool:
        return self.profile.layout.family in (Family.latent, Family.cnn)

    def _llama(self) -> LlamaHead:
        if not isinstance(self._head, LlamaHead):
            raise self._no_task("answer or complete")
        return self._head

    def _no_task(self, task: str) -> InputError:
        return InputError(
            field="profile", problem=f"{self.profile.name} does not {task}", remedy="Name a profile that does"
        )

    def _check_size(self, frame: Frame) -> None:
        images, tokens, _ = self.profile.layout.rows_shape(frame.shape)
        if isinstance(self._head, CnnHead):
            if frame.shape[-3:] != self._head.shape:
                problem, remedy = f"features of shape {frame.shape}", f"Send one of shape {self._head.shape}"
                raise InputError(field="frame", problem=problem, remedy=remedy)
            return
        most = self._max_tokens
        if isinstance(self._head, Sd3Head):
            tokens, most = frame.shape[-2] * frame.shape[-1], MAX_LATENT_POSITIONS
        if images > 1 or tokens > most:
            problem = f"{images} inputs of {tokens} tokens"
            raise InputError(field="frame", problem=problem, remedy=f"Send one, of at most {most} tokens")


def _as_png(pixels: Array, request: Request) -> bytes:
    with request.stages.measure("cloud.png"):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        return file.getvalue()
