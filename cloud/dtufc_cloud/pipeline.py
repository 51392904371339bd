"""The cloud's half of the way, for one profile.

frame --codec--> features --head--> result
"""

from typing import Any

import torch
from torch import Tensor

from dtufc.coding import bitstream
from dtufc.coding.feature_codec import FeatureCodec
from dtufc.coding.features import as_tensor
from dtufc.errors import InputError
from dtufc.models import plugins
from dtufc.models.capabilities import DenseLabels, ImageDecoder, Labels, NextTokenLogits, SequenceLogits
from dtufc.models.profile import Profile
from dtufc.serving.telemetry import Record


class CloudPipeline:
    """One profile's decoder and head; a mirror of the edge's pipeline."""

    def __init__(self, profile: Profile, device: torch.device, dtype: torch.dtype, max_tokens: int = 2048) -> None:
        self.head: Any = plugins.built(plugins.HEADS, profile, device, dtype)
        self.profile = profile.with_prefix(getattr(self.head, "prefix", 0))
        self.codec = FeatureCodec(self.profile)
        self.codec.prepare(self.codec.default_codec)  # before the first request; a damaged one ends the start
        self._max_tokens = max_tokens

    def warm_up(self) -> None:
        """One pass of the default way, on features of its own: what is done once is done before the first request.

        A family whose head names no `example_shape` is not warmed up.
        """
        shape: tuple[int, ...] | None = getattr(self.head, "example_shape", None)
        if shape is None:
            return
        record = Record("warm-up")
        frame = self.codec.encode(torch.zeros(shape))
        features, head = self.decode(self.parse(frame, record), len(frame), record), self.head
        if isinstance(head, SequenceLogits):
            state = head.start()
            head.next_logits(state, features, last=1)
            head.next_logits(state, features[-1:], last=1)
        if isinstance(head, NextTokenLogits):
            head.answer(features, [0])
        elif isinstance(head, Labels):
            head.labels(features, 1)
        elif isinstance(head, DenseLabels):
            head.label_map(features, (0, 0, 1, 1), (1, 1))
        elif isinstance(head, ImageDecoder):
            head.image(features)

    def parse(self, data: bytes, record: Record) -> bitstream.Frame:
        """Bytes to a frame that this profile can decode, and whose features the head takes. Decodes nothing yet.

        Raises:
            BitstreamError, ProfileMismatch: the frame cannot be decoded here.
            InputError: features that the head does not take, or more tokens than this service does.
        """
        with record.stages.measure("cloud.parse"):
            return self._checked(bitstream.parse(data), record)

    def parse_step(self, data: bytes, context: bitstream.StepContext, record: Record) -> tuple[int, bitstream.Frame]:
        """`parse`, of a step frame of a session: the position of its first row, and the frame."""
        with record.stages.measure("cloud.parse"):
            position, frame = bitstream.parse_step(data, context)
            return position, self._checked(frame, record)

    def _checked(self, frame: bitstream.Frame, record: Record) -> bitstream.Frame:
        self.codec.check_frame(frame)
        layout = self.profile.layout
        num_inputs, num_tokens, _ = layout.rows_shape(frame.shape)
        if num_inputs > 1 or (not layout.is_map and num_tokens > self._max_tokens):
            problem = f"{num_inputs} inputs of {num_tokens} tokens"
            raise InputError(field="frame", problem=problem, remedy=f"Send one, of at most {self._max_tokens} tokens")
        self.head.check(layout.single(frame.shape))
        record.codec = frame.codec.name
        return frame

    def decode(self, frame: bitstream.Frame, num_bytes: int, record: Record) -> Tensor:
        """A frame that `parse` let pass, to the features of one input: [tokens, d], or [C, h, w].

        Raises:
            BitstreamError, Desync: the payload cannot be decoded.
        """
        with record.stages.measure("cloud.decode"):
            features = as_tensor(self.codec.decode_checked(frame))
        record.add_frame(
            raw_bytes=features.nbytes,
            payload_bytes=len(frame.payload),
            wire_bytes=num_bytes,
            num_values=frame.num_values,
        )
        return features.reshape(self.profile.layout.single(frame.shape))
