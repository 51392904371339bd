"""Codecs: features <-> payload. One small interface, and one contract test that every codec passes.

features --encoder--> at(quality) --> Payload --decode--> features
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import numpy as np

from dtufc.coding.arrays import Array
from dtufc.coding.bitstream import CodecId
from dtufc.coding.layout import Layout


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """One encoded feature tensor.

    Attributes:
        data: the codec's own bytes.
        symbol_crc: CRC-32 of the symbols that the data decodes to; 0 where nothing is entropy coded.
    """

    data: bytes
    symbol_crc: int


class Codec(Protocol):
    """Features -> payload and back."""

    @property
    def id(self) -> CodecId:
        """The wire's number."""

    @property
    def has_rate(self) -> bool:
        """Whether `quality` changes anything."""

    def encoder(self, features: Array, focus: Sequence[int] = ()) -> Callable[[float], Payload]:
        """Encodes at any setting in [0, 1], from the fewest bytes; work that does not depend on it is done once.

        The setting is a quality for `klt` alone (`dtufc.coding.quality`).

        Args:
            features: any dtype and shape that the layout knows, finite.
            focus: indices of the rows that the result depends on most: a hint, which `klt` takes where tokens form no
                grid.
        """

    def decode(self, payload: Payload, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """The decoded features.

        Raises:
            BitstreamError: the payload is not one of this codec's.
            Desync: the decoded symbols differ from those that were encoded.
        """


class FittedCodec(Codec, Protocol):
    """A codec that is fitted to a few features and stores the fit as integers."""

    has_rate: ClassVar[bool]

    @classmethod
    def fit(cls, samples: Sequence[Array], layout: Layout) -> Self:
        """Fits the codec to about ten features, float32."""

    @classmethod
    def from_arrays(cls, arrays: dict[str, Array], layout: Layout) -> Self:
        """A codec from the result of `arrays`, read from a profile."""

    def arrays(self) -> dict[str, Array]:
        """All arrays that the decoder needs, for a profile."""
