"""No network at all: one step for all levels of a plane, one table for all symbols.

What a learned codec must beat, and what the transform alone is worth: where neighbours on a plane have little in
common, a network has little to add.
"""

from collections.abc import Sequence
from math import prod
from typing import Final

import numpy as np

from dtufc.coding.arrays import Array
from dtufc.coding.codecs.learned.plane import MIDDLE, Preparation
from dtufc.coding.entropy import Decoder, Encoder, Tables, quantize_frequencies

_SMOOTHING: Final = 0.5  # counts added to each symbol's


class ScalarCodec:
    """features --preparation--> levels / step, rounded --one table--> bytes; back to the mean of what was rounded."""

    def __init__(self, preparation: Preparation, samples: Sequence[Array], step: float) -> None:
        """Counts the symbols of `samples`, features that belong to nobody's test."""
        self._preparation, self._step = preparation, step
        levels = np.concatenate([preparation.to_plane(sample)[0].ravel() for sample in samples])
        symbols = self._symbols(levels)
        self._radius = int(np.rint(MIDDLE / step))
        counts = np.bincount(symbols + self._radius, minlength=2 * self._radius + 1)
        sums = np.bincount(symbols + self._radius, levels, minlength=len(counts))
        middles = (np.arange(len(counts)) - self._radius) * step + MIDDLE
        self._means = ((sums + _SMOOTHING * middles) / (counts + _SMOOTHING)).astype(np.float32)
        self._tables = Tables([quantize_frequencies(counts + _SMOOTHING)], escape=False)

    def encode(self, features: Array) -> bytes:
        """The preparation's head, and the coded symbols behind it."""
        plane, head = self._preparation.to_plane(features)
        encoder = Encoder()
        encoder.write(self._tables, 0, self._symbols(plane).ravel() + np.int32(self._radius))
        return head + encoder.finish()

    def decode(self, data: bytes, shape: tuple[int, ...]) -> Array:
        """The features, float32."""
        head, offset = self._preparation.read_head(data, 0, shape)
        entries = Decoder(data[offset:]).read(self._tables, 0, prod(head.plane_shape))
        return head.features(self._means[entries].reshape(head.plane_shape))

    def _symbols(self, levels: Array) -> Array:
        return np.rint((levels - MIDDLE) / self._step).astype(np.int32)
