"""The cloud's half of the way.

bytes --bitstream--> Frame --codec--> features --head--> result
"""

import io
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from dtufc import bitstream
from dtufc.bitstream import Frame
from dtufc.errors import InputError
from dtufc.feature_codec import FeatureCodec
from dtufc.features import as_tensor
from dtufc.profile import Profile
from dtufc.telemetry import Request
from dtufc.zoo import weights_folder
from dtufc_cloud.heads.dinov2 import Dinov2Head
from dtufc_cloud.heads.llama import LlamaHead


class CloudPipeline:
    """One profile's decoder and head; a mirror of the edge's pipeline."""

    def __init__(self, profile: Profile, device: torch.device, dtype: torch.dtype, max_tokens: int = 2048) -> None:
        self.profile = profile
        self.codec = FeatureCodec(profile)
        self._max_tokens = max_tokens
        folder = weights_folder(profile.spec)
        head_class: type[LlamaHead | Dinov2Head] = LlamaHead if profile.spec.model == "llama" else Dinov2Head
        self._head = head_class(folder, profile.split, device, dtype)

    def decode(self, data: bytes, request: Request) -> Tensor:
        """Frame to features [tokens, d].

        Raises:
            BitstreamError, ProfileMismatch, Desync: the frame cannot be decoded here.
            InputError: more tokens than this service takes.
        """
        with request.stages.measure("cloud.parse"):
            frame = bitstream.parse(data)
        self.codec.check_frame(frame)
        self._check_tokens(frame)
        request.codec = frame.codec.name
        with request.stages.measure("cloud.decode"):
            features = as_tensor(self.codec.decode_frame(frame))
        request.add_frame(
            raw_bytes=features.nbytes,
            payload_bytes=len(frame.payload),
            wire_bytes=len(data),
            num_values=frame.num_values,
        )
        return features.reshape(-1, features.shape[-1])

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
        with request.stages.measure("cloud.png"):
            file = io.BytesIO()
            Image.fromarray(labels).save(file, "PNG")
            return file.getvalue()

    def _llama(self) -> LlamaHead:
        if not isinstance(self._head, LlamaHead):
            raise self._no_task("answer or complete")
        return self._head

    def _no_task(self, task: str) -> InputError:
        return InputError(
            field="profile", problem=f"{self.profile.name} does not {task}", remedy="Name a profile that does"
        )

    def _check_tokens(self, frame: Frame) -> None:
        images, tokens, _ = self.profile.layout.rows_shape(frame.shape)
        if images > 1 or tokens > self._max_tokens:
            problem = f"{images} inputs of {tokens} tokens"
            raise InputError(field="frame", problem=problem, remedy=f"Send one, of at most {self._max_tokens} tokens")
