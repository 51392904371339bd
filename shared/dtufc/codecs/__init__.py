"""Codecs: features <-> payload. One small interface, and one contract test that every codec passes.

features --encode(quality)--> Payload --decode--> features
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import numpy as np

from dtufc.arrays import Array
from dtufc.bitstream import CodecId
from dtufc.layout import Layout


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """What a codec makes of one feature tensor.

    Attributes:
        data: the codec's own bytes.
        symbol_crc: CRC-32 of the symbols that the data decodes to; 0 where nothing is entropy coded.
    """

    data: bytes
    symbol_crc: int


class Codec(Protocol):
    """Features -> payload and back."""

    id: ClassVar[CodecId]
    has_rate: ClassVar[bool]  # whether `quality` changes anything

    def encode(self, features: Array, quality: float) -> Payload:
        """Any dtype and shape that the layout knows, finite; quality in [0, 1]."""

    def decode(self, payload: Payload, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """The features, as near as the codec keeps them.

        Raises:
            BitstreamError: the payload cannot be one of this codec's.
            Desync: it decoded to other symbols than were encoded.
        """


class FittedCodec(Codec, Protocol):
    """A codec that learns from a few features and keeps what it learnt as integers."""

    @classmethod
    def fit(cls, samples: Sequence[Array], layout: Layout) -> Self:
        """Learns from about ten features, float32."""

    @classmethod
    def from_arrays(cls, arrays: dict[str, Array], layout: Layout) -> Self:
        """What `arrays` returned, read back from a profile."""

    def arrays(self) -> dict[str, Array]:
        """All that the decoder needs, for a profile."""
