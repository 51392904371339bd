"""Features <-> the one plane that a learned codec's network sees, and what a payload says beside it.

    features --levels--> [H, W] --network--> --centroids, between them linear--> features        (`hyperprior`, `elic`)
    features --klt_transform, to one power--> [H, W] --network--> --its inverse--> features      (`kltprior`)

A plane is float32, in levels around `MIDDLE`. What is far from it goes apart, in the payload's head, so that no outlier
is clipped. This module needs no network.
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
from dtufc.coding.codecs.klt_transform import KltTransform, Parts, far_beyond, read_sparse, write_parts, write_sparse
from dtufc.coding.layout import Layout
from dtufc.coding.transform import NUM_LEVELS, PeakyToBalanced
from dtufc.errors import Corrupt

UNIT: Final = 64.0  # levels in one unit of a network's input
MIDDLE: Final = 127.5
_ORDINARY: Final = (0.001, 0.999)  # quantiles between which values are ordinary
_WIDEST_STEP: Final = 0.5  # of the spread of ordinary values: between levels further apart, values go apart
_MOST_FITS: Final = 4
_MOST_APART: Final = 8  # one value in so many
_FAR: Final = 256  # units: whole units beyond go apart
_MOST_UNITS: Final = 1 << 24


class Head(Protocol):
    """What a payload said before its coded symbols, of features of one shape."""

    @property
    def plane_shape(self) -> tuple[int, int]:
        """(H, W)."""

    def features(self, plane: Array) -> Array:
        """The features, floats, of a decoded plane without NaN."""


class Preparation(Protocol):
    """One way to bring features of one layout onto a plane."""

    @property
    def padding(self) -> float | None:
        """The level that a plane is filled up with to a network's stride; None: its border, repeated."""

    def to_plane(self, features: Array) -> tuple[Array, bytes]:
        """([H, W] float32, the payload's head) of features of a shape that the layout knows.

        Raises:
            InputError: features too far from those that were fitted, or of other channels.
        """

    def read_head(self, data: bytes, offset: int, shape: tuple[int, ...]) -> tuple[Head, int]:
        """What `to_plane` wrote, and the offset behind it. Raises BitstreamError."""


class Assignment(IntEnum):
    """How a value finds its level."""

    nearest = 0  # eq. 5
    floor = 1  # the centroid below, as the paper's public code does
    between = 2  # no level: its place between two centroids; of the baseline, which is not quantized


@dataclass(frozen=True, slots=True, kw_only=True)
class Levels:
    """The paper's: each value's level, wherever it is.

    Attributes:
        transform: the 256 levels; evenly spaced ones for the paper's baseline.
        range: [2] float32; for values beyond, no level, or none that is near, stands: they go apart, as they are.
        layout: of the features.
        assignment: how a value finds its level.
    """

    padding: ClassVar[float | None] = None

    transform: PeakyToBalanced
    range: Array
    layout: Layout
    assignment: Assignment = Assignment.nearest

    def to_plane(self, features: Array) -> tuple[Array, bytes]:
        values = np.ascontiguousarray(features, dtype=np.float32)
        is_far = (values < self.range[0]) | (values > self.range[1])
        apart = np.flatnonzero(is_far)
        if len(apart) * _MOST_APART > values.size:
            raise far_beyond()
        levels = np.where(is_far, np.float32(MIDDLE), self._to_levels(values))
        return self.layout.to_plane(levels), _write_apart(apart, values)

    def read_head(self, data: bytes, offset: int, shape: tuple[int, ...]) -> tuple[Head, int]:
        at, values, offset = _read_apart(data, offset, prod(shape))
        return _LevelsHead(preparation=self, shape=shape, at=at, values=values), offset

    def from_levels(self, levels: Array) -> Array:
        """Levels, between two of them linear, to values; those beyond 0 and 255 are clipped."""
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
    preparation: Levels
    shape: tuple[int, ...]
    at: Array  # places of the values apart
    values: Array

    @property
    def plane_shape(self) -> tuple[int, int]:
        return self.preparation.layout.plane_shape(self.shape)

    def features(self, plane: Array) -> Array:
        levels = self.preparation.layout.from_plane(plane, self.shape)
        features = np.ascontiguousarray(self.preparation.from_levels(levels))
        features.ravel()[self.at] = self.values
        return features


@dataclass(frozen=True, slots=True, kw_only=True)
class Coefficients:
    """Ours: rows of `klt`'s coefficients; across, components of falling variance; down, tokens or rising frequencies.

    Attributes:
        transform: fitted for `klt`.
        scale: units of a network's input in one of a coefficient.
    """

    padding: ClassVar[float | None] = MIDDLE  # coefficients of nothing, which cost next to nothing

    transform: KltTransform
    scale: float

    @np.errstate(over="ignore", invalid="ignore")  # what overflows is found, and refused
    def to_plane(self, features: Array) -> tuple[Array, bytes]:
        coefficients, parts = self.transform.forward(features)
        units = coefficients * np.float32(self.scale)
        if not np.abs(units).max(initial=0) < _MOST_UNITS:
            raise far_beyond()
        wholes = np.where(np.abs(units) > _FAR, np.rint(units), 0).astype(np.int32)
        apart = write_sparse(wholes.ravel(), np.flatnonzero(wholes))
        plane = (units - wholes) * np.float32(UNIT) + np.float32(MIDDLE)
        return plane.astype(np.float32), write_parts(parts) + write_varint(len(apart)) + apart

    def read_head(self, data: bytes, offset: int, shape: tuple[int, ...]) -> tuple[Head, int]:
        parts, offset = self.transform.read_parts(data, offset, shape)
        length, offset = read_varint(data, offset)
        wholes = np.zeros(parts.num_rows * parts.rows_shape[-1], np.int32)
        read_sparse(data[offset : offset + length], wholes)
        return _CoefficientsHead(preparation=self, shape=shape, parts=parts, wholes=wholes), offset + length


@dataclass(frozen=True, slots=True, kw_only=True)
class _CoefficientsHead:
    preparation: Coefficients
    shape: tuple[int, ...]
    parts: Parts
    wholes: Array  # flat, int32: whole units that went apart

    @property
    def plane_shape(self) -> tuple[int, int]:
        return self.parts.num_rows, self.parts.rows_shape[-1]

    def features(self, plane: Array) -> Array:
        units = np.clip((plane.astype(np.float64) - MIDDLE) / UNIT, -2 * _FAR, 2 * _FAR)
        units += self.wholes.reshape(plane.shape)
        return self.preparation.transform.inverse(units / self.preparation.scale, self.parts, self.shape)


def fit_levels(samples: Sequence[Array], layout: Layout) -> Levels:
    """Learns levels from about ten features, float32, for the values that do not go apart."""
    transform, ends = near_levels(np.concatenate([sample.ravel() for sample in samples]))
    return Levels(transform=transform, range=ends, layout=layout)


def fit_coefficients(samples: Sequence[Array], transform: KltTransform) -> Coefficients:
    """Brings the coefficients of about ten features, float32, to a mean square of one."""
    planes = [transform.forward(sample)[0] for sample in samples]
    power = np.mean([np.mean(plane * plane, dtype=np.float64) for plane in planes])
    return Coefficients(transform=transform, scale=float(np.float32(1 / np.sqrt(power or 1.0))))


def near_levels(values: Array) -> tuple[PeakyToBalanced, Array]:
    """Levels for the values that do not go apart, and the [2] range of those.

    The paper learns levels from all values, and a few far ones take many of them. Here they are learned again from
    those that stay, until none goes any more; the last of `_MOST_FITS` fits stands as it is.
    """
    for _ in range(_MOST_FITS):
        transform = PeakyToBalanced.fit(values)
        ends = _range(transform.centroids, values)
        near = values[(values >= ends[0]) & (values <= ends[1])]
        if near.size == values.size:
            break
        values = near
    return transform, ends


def _range(centroids: Array, values: Array) -> Array:
    """[2], of the values that levels stand for well.

    Few levels have to cover the long tails of a language model: there, a network's error of some levels is an error
    larger than most values are. From where neighbouring levels are further apart than half the spread of ordinary
    values, values go apart. Where no level is, the range ends as far beyond the outermost levels as their neighbours
    are away on the other side.
    """
    levels = centroids.astype(np.float64)
    low, high = np.quantile(values, _ORDINARY)
    spread = values[(values >= low) & (values <= high)].std(dtype=np.float64)
    steps = np.diff(levels)
    near = np.flatnonzero(steps <= _WIDEST_STEP * spread)
    first, last = (near[0], near[-1] + 1) if len(near) else (0, len(steps))
    below = steps[0] if first == 0 else steps[first - 1] / 2
    above = steps[-1] if last == len(steps) else steps[last] / 2
    tiny = 1e-6 * max(abs(levels[0]), abs(levels[-1]), 1e-30)
    return np.array([levels[first] - below - tiny, levels[last] + above + tiny], dtype=np.float32)


def _write_apart(at: Array, values: Array) -> bytes:
    """The values that go apart: how many, then for each the values skipped before it, then all of them as float32."""
    skips = np.diff(at, prepend=-1) - 1
    listed = b"".join(write_varint(skip) for skip in skips.tolist())
    return write_varint(len(at)) + listed + values.ravel()[at].astype("<f4").tobytes()


def _read_apart(data: bytes, offset: int, num_values: int) -> tuple[Array, Array, int]:
    """(positions, values, offset behind them)."""
    count, offset = read_varint(data, offset)
    if count * 5 > len(data) or count * _MOST_APART > num_values:
        raise Corrupt(problem=f"{count} values apart in {len(data)} bytes")
    at, position = [], -1
    for _ in range(count):
        skip, offset = read_varint(data, offset)
        position += skip + 1
        at.append(position)
    if position >= num_values or offset + 4 * count > len(data):
        raise Corrupt(problem="a value apart beyond the feature")
    values = np.frombuffer(data, "<f4", count, offset)
    if not np.isfinite(values).all():
        raise Corrupt(problem="a value apart that is not finite")
    return np.array(at, dtype=np.int64), values, offset + struct.calcsize("<f") * count
