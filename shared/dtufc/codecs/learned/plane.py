"""Features <-> the one plane of levels that a learned codec sees.

    features --(x - mean) / scale--> --levels--> [H, W] float32 in [0, 255] --network--> --centroids, between
    them linear--> --scale x + mean--> features

Hides what the paper's method and what was added to it have in common: the map to levels is a table of 256 centroids
(the peaky-to-balanced transform's, or evenly spaced ones for the paper's baseline), a channel may have a mean and a
scale of its own, and a picture of tokens may keep its grid.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from math import ceil
from typing import Final

import numpy as np

from dtufc.arrays import Array
from dtufc.codecs.calibration import is_apart
from dtufc.layout import Family, Layout, mosaic
from dtufc.transform import NUM_LEVELS, PeakyToBalanced

_MIDDLE: Final = 127.5
_ORDINARY: Final = (0.001, 0.999)  # quantiles of ordinary values, where channels have been brought to one scale
_WIDEST_STEP: Final = 0.5  # of the spread of ordinary values: between levels further apart, values go apart
_MOST_FITS: Final = 4


class Assignment(IntEnum):
    """How a value finds its level."""

    nearest = 0  # eq. 5
    floor = 1  # the centroid below, as the paper's public code does
    between = 2  # no level: its place between two centroids; of the baseline, which is not quantized


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """One way to bring features of a layout onto a plane.

    Attributes:
        transform: the 256 levels, of values after the affine map.
        mean: [C] float32, or empty: no affine map.
        scale: [C] float32, positive, or empty.
        range: [2] float32, of values after the affine map; those beyond are far: no level, or none that is near, stands
            for them, and a codec sends them apart.
        keeps_grid: lay the tokens of a picture out channel by channel, not as tokens x channels.
        assignment: how a value finds its level.
    """

    transform: PeakyToBalanced
    mean: Array
    scale: Array
    range: Array
    keeps_grid: bool = False
    assignment: Assignment = Assignment.nearest

    def to_plane(self, features: Array, layout: Layout) -> Array:
        """Features of a shape that the layout knows -> [H, W] float32 levels in [0, 255]; far values in the middle."""
        values = self._normalized(features, layout)
        levels = np.where(self._is_beyond(values), np.float32(_MIDDLE), self._to_levels(values))
        if not self._is_picture(layout, features.shape):
            return layout.to_plane(levels)
        return _lay_out(levels.reshape(-1, *features.shape[-2:]), layout.prefix)

    def is_far(self, features: Array, layout: Layout) -> Array:
        """Which values no level stands for; of the features' shape."""
        return self._is_beyond(self._normalized(features, layout))

    def from_plane(self, plane: Array, shape: tuple[int, ...], layout: Layout) -> Array:
        """[H, W] levels, decoded, -> features of `shape`, float32."""
        levels = plane
        if self._is_picture(layout, shape):
            images = shape[0] if len(shape) == 3 else 1
            levels = _take_up(plane, (images, *shape[-2:]), layout.prefix).reshape(shape)
        else:
            levels = layout.from_plane(plane, shape)
        values = self.from_levels(levels)
        if self.mean.size:
            rows = layout.to_rows(values) * self.scale + self.mean
            values = layout.from_rows(rows, shape)
        return values

    def from_levels(self, levels: Array) -> Array:
        """Levels, between two of them linear, to values before the affine map; those beyond 0 and 255 are clipped."""
        centroids = self.transform.centroids
        low = np.clip(levels, 0, NUM_LEVELS - 1 - 1e-4).astype(np.uint8)
        share = np.clip(levels, 0, NUM_LEVELS - 1) - low
        return centroids.take(low) + share * np.diff(centroids).take(low)

    def plane_shape(self, shape: tuple[int, ...], layout: Layout) -> tuple[int, int]:
        """(H, W) of the plane of features of `shape`."""
        if self._is_picture(layout, shape):
            height, width = _picture_shape(shape[-2:], layout.prefix)
            return (shape[0] if len(shape) == 3 else 1) * height, width
        if layout.family in (Family.llm, Family.vit):
            return int(np.prod(shape[:-1])), shape[-1]
        down, across = mosaic(shape[-3])
        return down * shape[-2], across * shape[-1]

    def _normalized(self, features: Array, layout: Layout) -> Array:
        values = features.astype(np.float32)
        if self.mean.size:
            with np.errstate(over="ignore"):
                values = layout.from_rows((layout.to_rows(values) - self.mean) / self.scale, features.shape)
        return np.ascontiguousarray(values)

    def _is_beyond(self, values: Array) -> Array:
        return (values < self.range[0]) | (values > self.range[1])

    def _is_picture(self, layout: Layout, shape: tuple[int, ...]) -> bool:
        return self.keeps_grid and layout.family == Family.vit and layout.grid(shape) is not None

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


def _picture_shape(rows: tuple[int, ...], prefix: int) -> tuple[int, int]:
    """(H, W) of one image: a mosaic of its channels, and the prefix tokens' values in rows below."""
    tokens, channels = rows
    side = int(np.sqrt(tokens - prefix) + 0.5)
    down, across = mosaic(channels)
    return down * side + ceil(prefix * channels / (across * side)), across * side


def _lay_out(levels: Array, prefix: int) -> Array:
    """[images, tokens, C] -> [images H, W]."""
    images, tokens, channels = levels.shape
    height, width = _picture_shape((tokens, channels), prefix)
    side = int(np.sqrt(tokens - prefix) + 0.5)
    down, across = mosaic(channels)
    tiles = levels[:, prefix:].reshape(images, side, side, down, across).transpose(0, 3, 1, 4, 2)
    below = levels[:, :prefix].reshape(images, -1)
    missing = (height - down * side) * width - below.shape[1]
    below = np.pad(below, ((0, 0), (0, missing)), mode="edge") if prefix else below
    picture = np.concatenate([tiles.reshape(images, -1), below], axis=1)
    return picture.reshape(images * height, width)


def _take_up(plane: Array, shape: tuple[int, ...], prefix: int) -> Array:
    """The inverse of `_lay_out`; shape is (images, tokens, C)."""
    images, tokens, channels = shape
    side = int(np.sqrt(tokens - prefix) + 0.5)
    down, across = mosaic(channels)
    picture = plane.reshape(images, -1)
    tiles = picture[:, : down * across * side * side].reshape(images, down, side, across, side)
    grid = tiles.transpose(0, 2, 4, 1, 3).reshape(images, side * side, channels)
    start = channels * side * side
    return np.concatenate(
        [picture[:, start : start + prefix * channels].reshape(images, prefix, channels), grid], axis=1
    )


def fit_preparation(samples: Sequence[Array], layout: Layout, *, per_channel: bool, keeps_grid: bool) -> Preparation:
    """Learns a preparation from about ten features.

    Args:
        samples: float32, of shapes that the layout knows.
        layout: of the features.
        per_channel: bring each channel to mean 0 and scale 1 before the transform. Rows of unusual size do not count.
        keeps_grid: see `Preparation`.
    """
    mean = scale = np.empty(0, np.float32)
    values = np.concatenate([sample.ravel() for sample in samples])
    if per_channel:
        rows = np.concatenate([_flat_rows(sample, layout) for sample in samples])
        sizes = np.sqrt(np.mean(rows * rows, axis=1, dtype=np.float64))
        on_grid = all(layout.grid(sample.shape) for sample in samples)
        usual = rows[~is_apart(sizes, max(float(np.median(sizes)), 1e-30), on_grid=on_grid)]
        mean = usual.mean(axis=0, dtype=np.float64).astype(np.float32)
        scale = np.maximum(usual.std(axis=0, dtype=np.float64), 1e-6).astype(np.float32)
        values = ((usual - mean) / scale).ravel()
    transform, ends = _near_levels(values)
    return Preparation(transform=transform, mean=mean, scale=scale, range=ends, keeps_grid=keeps_grid)


def _near_levels(values: Array) -> tuple[PeakyToBalanced, Array]:
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


def _flat_rows(features: Array, layout: Layout) -> Array:
    rows = layout.to_rows(features)
    return rows.reshape(-1, rows.shape[-1])
