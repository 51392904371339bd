"""Plane transforms: features <-> the single plane that a learned codec's network codes, and the payload's head.

    features --levels--> [H, W] --network--> --interpolated centroids--> features                 (`hyperprior`, `elic`)
    features --klt_transform, scaled to unit power--> [H, W] --network--> --inverse--> features  (`kltprior`)

A plane is float32, in levels around `MIDDLE`. Outliers are stored in the payload's head, so that none is clipped. This
module needs no network.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from math import prod
from typing import ClassVar, Final, Protocol

import numpy as np

from dtufc.coding.arrays import Array
from dtufc.coding.bitstream import read_varint, write_varint
from dtufc.coding.codecs.klt_transform import (
    KltTransform,
    Partition,
    out_of_range,
    read_sparse,
    write_partition,
    write_sparse,
)
from dtufc.coding.layout import Layout
from dtufc.coding.transform import NUM_LEVELS, PeakyToBalanced
from dtufc.errors import Corrupt

NETWORK_SCALE: Final = 64.0  # levels in 1.0 of a network's input
MIDDLE: Final = 127.5
_ORDINARY: Final = (0.001, 0.999)  # quantiles between which values are ordinary
_MAX_STEP: Final = 0.5  # of the spread of ordinary values: values between levels of a wider distance are outliers
_MAX_FITS: Final = 4
_MIN_VALUES_PER_OUTLIER: Final = 8
_MAX_INPUT: Final = 256  # of a network: the integer part of a larger coefficient is an outlier
_MAX_COEFFICIENT: Final = 1 << 24


class Head(Protocol):
    """The decoded head of a payload, for features of one shape."""

    @property
    def plane_shape(self) -> tuple[int, int]:
        """(H, W)."""

    def features(self, plane: Array) -> Array:
        """Floating-point features from a decoded plane without NaN."""


class PlaneTransform(Protocol):
    """A transform of features of one layout to a plane, and back."""

    @property
    def padding(self) -> float | None:
        """The level that pads a plane to a network's stride; None repeats its edge."""

    def to_plane(self, features: Array) -> tuple[Array, bytes]:
        """([H, W] float32, the payload's head) of features of a shape that fits the layout.

        Raises:
            InputError: the features are out of the range of the fit, or have another number of channels.
        """

    def read_head(self, data: bytes, offset: int, shape: tuple[int, ...]) -> tuple[Head, int]:
        """Reads the head that `to_plane` wrote; returns it and the offset behind it. Raises BitstreamError."""


class Assignment(IntEnum):
    """How a value is assigned to a level."""

    nearest = 0  # eq. 5
    floor = 1  # the centroid below, as the paper's public code does
    between = 2  # interpolated between two centroids, not rounded; for the baseline, which is not quantized


@dataclass(frozen=True, slots=True, kw_only=True)
class Levels:
    """The paper's plane transform: each value is replaced by its level.

    Attributes:
        transform: the 256 levels; evenly spaced ones for the paper's baseline.
        range: [2] float32; values out of it are outliers and are stored as float32.
        layout: of the features.
        assignment: how a value is assigned to a level.
    """

    padding: ClassVar[float | None] = None

    transform: PeakyToBalanced
    range: Array
    layout: Layout
    assignment: Assignment = Assignment.nearest

    def to_plane(self, features: Array) -> tuple[Array, bytes]:
        values = np.ascontiguousarray(features, dtype=np.float32)
        is_outlier = (values < self.range[0]) | (values > self.range[1])
        outliers = np.flatnonzero(is_outlier)
        if len(outliers) * _MIN_VALUES_PER_OUTLIER > values.size:
            raise out_of_range()
        levels = np.where(is_outlier, np.float32(MIDDLE), self._to_levels(values))
        return self.layout.to_plane(levels), _write_outliers(outliers, values)

    def read_head(self, data: bytes, offset: int, shape: tuple[int, ...]) -> tuple[Head, int]:
        at, values, offset = _read_outliers(data, offset, prod(shape))
        return _LevelsHead(plane_transform=self, shape=shape, at=at, values=values), offset

    def from_levels(self, levels: Array) -> Array:
        """Levels to values, linear between two levels; levels out of [0, 255] are clipped."""
        centroids = self.transform.centroids
        low = np.clip(levels, 0, NUM_LEVELS - 1 - 1e-4).astype(np.uint8)
        share = np.clip(levels, 0, NUM_LEVELS - 1) - low
        return centroids.take(low) + share * np.diff(centroids).take(low)

    def _to_levels(self, values: Array) -> Array:
        centroids = self.transform.centroids
        match self.assignment:
            case Assignment.nearest:
                return self.transform.forward(values).astype(np.float32)
            case Assignment.floor:
                found = np.searchsorted(centroids, values, side="right") - 1
                return np.clip(found, 0, NUM_LEVELS - 1).astype(np.float32)
            case Assignment.between:
                return np.interp(values, centroids, np.arange(NUM_LEVELS)).astype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class _LevelsHead:
    plane_transform: Levels
    shape: tuple[int, ...]
    at: Array  # positions of the outliers
    values: Array

    @property
    def plane_shape(self) -> tuple[int, int]:
        return self.plane_transform.layout.plane_shape(self.shape)

    def features(self, plane: Array) -> Array:
        levels = self.plane_transform.layout.from_plane(plane, self.shape)
        features = np.ascontiguousarray(self.plane_transform.from_levels(levels))
        features.ravel()[self.at] = self.values
        return features


@dataclass(frozen=True, slots=True, kw_only=True)
class Coefficients:
    """The plane transform of `kltprior`: coefficients of `klt`, one column a component, one row a token or frequency.

    Variances fall from left to right, frequencies rise from top to bottom.

    Attributes:
        transform: fitted for `klt`.
        scale: multiplies coefficients to network scale.
    """

    padding: ClassVar[float | None] = MIDDLE  # zero coefficients, which cost next to nothing

    transform: KltTransform
    scale: float

    @np.errstate(over="ignore", invalid="ignore")  # overflow is detected and rejected
    def to_plane(self, features: Array) -> tuple[Array, bytes]:
        coefficients, partition = self.transform.forward(features)
        scaled = coefficients * np.float32(self.scale)
        if not np.abs(scaled).max(initial=0) < _MAX_COEFFICIENT:
            raise out_of_range()
        offsets = np.where(np.abs(scaled) > _MAX_INPUT, np.rint(scaled), 0).astype(np.int32)
        outliers = write_sparse(offsets.ravel(), np.flatnonzero(offsets))
        plane = (scaled - offsets) * np.float32(NETWORK_SCALE) + np.float32(MIDDLE)
        return plane.astype(np.float32), write_partition(partition) + write_varint(len(outliers)) + outliers

    def read_head(self, data: bytes, offset: int, shape: tuple[int, ...]) -> tuple[Head, int]:
        partition, offset = self.transform.read_partition(data, offset, shape, in_blocks=False)
        length, offset = read_varint(data, offset)
        offsets = np.zeros(partition.num_rows * partition.rows_shape[-1], np.int32)
        read_sparse(data[offset : offset + length], offsets)
        return _CoefficientsHead(
            plane_transform=self, shape=shape, partition=partition, offsets=offsets
        ), offset + length


@dataclass(frozen=True, slots=True, kw_only=True)
class _CoefficientsHead:
    plane_transform: Coefficients
    shape: tuple[int, ...]
    partition: Partition
    offsets: Array  # flat, int32: the integer parts of outliers

    @property
    def plane_shape(self) -> tuple[int, int]:
        return self.partition.num_rows, self.partition.rows_shape[-1]

    def features(self, plane: Array) -> Array:
        scaled = np.clip((plane.astype(np.float64) - MIDDLE) / NETWORK_SCALE, -2 * _MAX_INPUT, 2 * _MAX_INPUT)
        scaled += self.offsets.reshape(plane.shape)
        return self.plane_transform.transform.inverse(scaled / self.plane_transform.scale, self.partition, self.shape)


def fit_levels(samples: Sequence[Array], layout: Layout) -> Levels:
    """Fits levels to about ten features, float32, without their outliers."""
    transform, ends = trimmed_levels(np.concatenate([sample.ravel() for sample in samples]))
    return Levels(transform=transform, range=ends, layout=layout)


def fit_coefficients(samples: Sequence[Array], transform: KltTransform) -> Coefficients:
    """Fits the scale that gives the coefficients of about ten features, float32, a mean square of one."""
    planes = [transform.forward(sample)[0] for sample in samples]
    power = np.mean([np.mean(plane * plane, dtype=np.float64) for plane in planes])
    return Coefficients(transform=transform, scale=float(np.float32(1 / np.sqrt(power or 1.0))))


def trimmed_levels(values: Array) -> tuple[PeakyToBalanced, Array]:
    """Levels fitted to the values without outliers, and the [2] range of those.

    The paper fits levels to all values, and a few outliers take many of the levels. Here the fit is repeated without
    the outliers of the previous fit, until it finds none, or for `_MAX_FITS` fits.
    """
    for _ in range(_MAX_FITS):
        transform = PeakyToBalanced.fit(values)
        ends = _range(transform.centroids, values)
        kept = values[(values >= ends[0]) & (values <= ends[1])]
        if kept.size == values.size:
            break
        values = kept
    return transform, ends


def _range(centroids: Array, values: Array) -> Array:
    """[2], the range of the values that are not outliers.

    Few levels have to cover the long tails of a language model: there, a network's error of some levels is larger than
    most values. The range ends where the distance of neighbouring levels exceeds half the spread of ordinary values. If
    it does not, the range ends beyond the outermost levels, by their distance to the next level.
    """
    levels = centroids.astype(np.float64)
    low, high = np.quantile(values, _ORDINARY)
    spread = values[(values >= low) & (values <= high)].std(dtype=np.float64)
    steps = np.diff(levels)
    dense = np.flatnonzero(steps <= _MAX_STEP * spread)
    first, last = (dense[0], dense[-1] + 1) if len(dense) else (0, len(steps))
    below = steps[0] if first == 0 else steps[first - 1] / 2
    above = steps[-1] if last == len(steps) else steps[last] / 2
    tiny = 1e-6 * max(abs(levels[0]), abs(levels[-1]), 1e-30)
    return np.array([levels[first] - below - tiny, levels[last] + above + tiny], dtype=np.float32)


def _write_outliers(at: Array, values: Array) -> bytes:
    """The outliers: their number, then for each the values skipped before it, then all of them as float32."""
    skips = np.diff(at, prepend=-1) - 1
    listed = b"".join(write_varint(skip) for skip in skips.tolist())
    return write_varint(len(at)) + listed + values.ravel()[at].astype("<f4").tobytes()


def _read_outliers(data: bytes, offset: int, num_values: int) -> tuple[Array, Array, int]:
    """(positions, values, offset behind them)."""
    count, offset = read_varint(data, offset)
    if count * 5 > len(data) or count * _MIN_VALUES_PER_OUTLIER > num_values:
        raise Corrupt(problem=f"{count} outliers in {len(data)} bytes")
    at, position = [], -1
    for _ in range(count):
        skip, offset = read_varint(data, offset)
        position += skip + 1
        at.append(position)
    if position >= num_values or offset + 4 * count > len(data):
        raise Corrupt(problem="an outlier out of range")
    values = np.frombuffer(data, "<f4", count, offset)
    if not np.isfinite(values).all():
        raise Corrupt(problem="an outlier that is not finite")
    return np.array(at, dtype=np.int64), values, offset + struct.calcsize("<f") * count
