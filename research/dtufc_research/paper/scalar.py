"""A codec without a network: one step for all levels of a plane, one table for all symbols.

It is the reference for learned codecs, and measures the gain of the plane transform alone.
"""

from collections.abc import Sequence
from math import prod
from typing import Final

import numpy as np

from dtufc.coding.arrays import Array
from dtufc.coding.codecs.learned.plane import MIDDLE, PlaneTransform
from dtufc.coding.entropy import Decoder, Encoder, Tables, quantize_frequencies

_SMOOTHING: Final = 0.5  # counts added to each symbol's


class ScalarCodec:
    """features --plane transform--> levels / step, rounded --one table--> bytes; decoded to the mean of each symbol."""

    def __init__(self, plane_transform: PlaneTransform, samples: Sequence[Array], step: float) -> None:
        """Counts the symbols of `samples`, which are not test features."""
        self._plane_transform, self._step = plane_transform, step
        levels = np.concatenate([plane_transform.to_plane(sample)[0].ravel() for sample in samples])
        symbols = self._symbols(levels)
        self._radius = int(np.rint(MIDDLE / step))
        counts = np.bincount(symbols + self._radius, minlength=2 * self._radius + 1)
        sums = np.bincount(symbols + self._radius, levels, minlength=len(counts))
        middles = (np.arange(len(counts)) - self._radius) * step + MIDDLE
        self._means = ((sums + _SMOOTHING * middles) / (counts + _SMOOTHING)).astype(np.float32)
        self._tables = Tables([quantize_frequencies(counts + _SMOOTHING)], escape=False)

    def encode(self, features: Array) -> bytes:
        """The plane transform's head, and the coded symbols behind it."""
        plane, head = self._plane_transform.to_plane(features)
        encoder = Encoder()
        encoder.write(self._tables, 0, self._symbols(plane).ravel() + np.int32(self._radius))
        return head + encoder.finish()

    def decode(self, data: bytes, shape: tuple[int, ...]) -> Array:
        """The features, float32."""
        head, offset = self._plane_transform.read_head(data, 0, shape)
        entries = Decoder(data[offset:]).read(self._tables, 0, prod(head.plane_shape))
        return head.features(self._means[entries].reshape(head.plane_shape))

    def _symbols(self, levels: Array) -> Array:
        return np.rint((levels - MIDDLE) / self._step).astype(np.int32)
