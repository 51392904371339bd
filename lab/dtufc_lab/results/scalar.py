"""No network at all: one step for all levels of a plane, one table for all symbols.

What a learned codec must beat, and what the transform alone is worth: where neighbours on a plane have little in
common, a network has little to add.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from dtufc.arrays import Array
from dtufc.codecs.learned.networks import MIDDLE
from dtufc.codecs.learned.plane import Preparation
from dtufc.entropy import Decoder, Encoder, Tables, quantize_frequencies
from dtufc.layout import Layout

_SMOOTHING: Final = 0.5  # counts added to each symbol's
_APART: Final = np.dtype([("at", "<u4"), ("value", "<f4")])


class ScalarCodec:
    """features --preparation--> levels / step, rounded --one table--> bytes; back to the mean of what was rounded."""

    def __init__(self, preparation: Preparation, layout: Layout, samples: Sequence[Array], step: float) -> None:
        """Counts the symbols of `samples`, features that belong to nobody's test."""
        self._preparation, self._layout, self._step = preparation, layout, step
        levels = np.concatenate([preparation.to_plane(sample, layout).ravel() for sample in samples])
        symbols = self._symbols(levels)
        self._radius = int(np.rint(MIDDLE / step))
        counts = np.bincount(symbols + self._radius, minlength=2 * self._radius + 1)
        sums = np.bincount(symbols + self._radius, levels, minlength=len(counts))
        middles = (np.arange(len(counts)) - self._radius) * step + MIDDLE
        self._means = ((sums + _SMOOTHING * middles) / (counts + _SMOOTHING)).astype(np.float32)
        self._tables = Tables([quantize_frequencies(counts + _SMOOTHING)], escape=False)

    def encode(self, features: Array) -> bytes:
        """The coded symbols, the values apart behind them and how many there are at the end."""
        symbols = self._symbols(self._preparation.to_plane(features, self._layout))
        encoder = Encoder()
        encoder.write(self._tables, 0, symbols.ravel() + np.int32(self._radius))
        at = np.flatnonzero(self._preparation.is_far(features, self._layout))
        apart = np.empty(len(at), _APART)
        apart["at"], apart["value"] = at, features.ravel()[at]
        return encoder.finish() + apart.tobytes() + np.uint32(len(at)).tobytes()

    def decode(self, data: bytes, shape: tuple[int, ...]) -> Array:
        """The features, float32."""
        count = int(np.frombuffer(data, "<u4", 1, len(data) - 4)[0])
        end = len(data) - 4 - count * _APART.itemsize
        plane_shape = self._preparation.plane_shape(shape, self._layout)
        entries = Decoder(data[:end]).read(self._tables, 0, int(np.prod(plane_shape)))
        plane = self._means[entries].reshape(plane_shape)
        features = np.ascontiguousarray(self._preparation.from_plane(plane, shape, self._layout))
        apart = np.frombuffer(data, _APART, count, end)
        features.ravel()[apart["at"]] = apart["value"]
        return features

    def _symbols(self, levels: Array) -> Array:
        return np.rint((levels - MIDDLE) / self._step).astype(np.int32)
