"""How features come onto a plane: the product's ways, the paper's, its baseline's, and what ablations try."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, prod
from typing import ClassVar, Final, Literal, Self

import numpy as np

from dtufc.arrays import Array
from dtufc.codecs.calibration import is_apart
from dtufc.codecs.klt_transform import KltTransform
from dtufc.codecs.learned.plane import (
    MIDDLE,
    UNIT,
    Assignment,
    Head,
    Levels,
    Preparation,
    fit_coefficients,
    fit_levels,
    near_levels,
)
from dtufc.layout import Family, Layout, mosaic
from dtufc.profile import Profile
from dtufc.transform import NUM_LEVELS, PeakyToBalanced

Kind = Literal["paper", "near", "affine", "affine-grid", "arranged", "truncate", "klt"]
_TRUNCATION: Final = (0.001, 0.999)  # quantiles between which the baseline keeps values
_NUM_FITTED: Final = 10
_MOST_SPREADS: Final = 24  # of the ordinary values: further away, values go apart
_EVERYTHING: Final = np.array([-np.inf, np.inf], np.float32)


def evenly(samples: Sequence[Array], count: int) -> Sequence[Array]:
    """`count` of the samples, from all along the list."""
    return samples[:: max(1, len(samples) // count)][:count]


def prepare(kind: Kind, profile: Profile, samples: Sequence[Array]) -> Preparation:
    """The preparation of that kind, learned from ten of the samples.

    `paper` is the paper's: levels for all values, none apart. `truncate` is its baseline: values beyond two quantiles
    are clipped, those between scaled evenly. `near` and `klt` are the product's; `klt` takes what the profile has of
    that codec. `affine` gives each channel a mean and a scale of its own before `near`; `affine-grid` also keeps the
    grid of a picture's tokens, and so does `arranged`: even steps in place of levels, each channel's mean taken off,
    and channels turned to their principal components (those of a picture's tokens only brought into an order).
    """
    layout = profile.layout
    chosen = [sample.astype(np.float32) for sample in evenly(samples, _NUM_FITTED)]
    match kind:
        case "paper":
            return Levels(transform=PeakyToBalanced.fit(chosen), range=_EVERYTHING, layout=layout)
        case "near":
            return fit_levels(chosen, layout)
        case "truncate":
            low, high = np.quantile(np.concatenate([sample.ravel() for sample in chosen]), _TRUNCATION)
            even = PeakyToBalanced(np.linspace(low, high, NUM_LEVELS, dtype=np.float32))
            return Levels(transform=even, range=_EVERYTHING, layout=layout, assignment=Assignment.between)
        case "klt":
            return fit_coefficients(chosen, KltTransform.from_arrays(profile.of_codec("klt"), layout))
        case "affine" | "affine-grid":
            return _fit_affine(chosen, layout, keeps_grid=kind == "affine-grid")
        case "arranged":
            return _fit_arranged(chosen, layout)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelMapped:
    """An affine map of the channels, before another preparation.

    Attributes:
        inner: the other.
        layout: whose rows have the channels.
        mean: [C] float32.
        forward: [C, C] float32: (row - mean) @ forward is what `inner` sees.
        backward: [C, C] float32, its inverse to float32.
    """

    padding: ClassVar[float | None] = None

    inner: Levels
    layout: Layout
    mean: Array
    forward: Array
    backward: Array

    def to_plane(self, features: Array) -> tuple[Array, bytes]:
        rows = self.layout.to_rows(features.astype(np.float32))
        return self.inner.to_plane(self.layout.from_rows((rows - self.mean) @ self.forward, features.shape))

    def read_head(self, data: bytes, offset: int, shape: tuple[int, ...]) -> tuple[Head, int]:
        head, offset = self.inner.read_head(data, offset, shape)
        return _MappedHead(preparation=self, inner=head, shape=shape), offset


@dataclass(frozen=True, slots=True, kw_only=True)
class _MappedHead:
    preparation: ChannelMapped
    inner: Head
    shape: tuple[int, ...]

    @property
    def plane_shape(self) -> tuple[int, int]:
        return self.inner.plane_shape

    def features(self, plane: Array) -> Array:
        preparation = self.preparation
        rows = preparation.layout.to_rows(self.inner.features(plane))
        return preparation.layout.from_rows(rows @ preparation.backward + preparation.mean, self.shape)


class EvenSteps(Levels):
    """Levels of one step, 64 to the spread of the ordinary values; a value's place among them is not rounded.

    Such levels are best at a high rate where an entropy coder follows (Gish and Pierce 1968). `transform` has the
    256 in the middle, whatever `assignment` says; values further away than 24 spreads go apart.
    """

    @classmethod
    def fit(cls, values: Array, layout: Layout) -> Self:
        low, high = np.quantile(values, _TRUNCATION)
        ordinary = values[(values >= low) & (values <= high)]
        middle, spread = float(ordinary.mean(dtype=np.float64)), float(ordinary.std(dtype=np.float64))
        steps = middle + (np.arange(NUM_LEVELS) - MIDDLE) * spread / UNIT
        ends = np.array([middle - _MOST_SPREADS * spread, middle + _MOST_SPREADS * spread], np.float32)
        return cls(transform=PeakyToBalanced(steps.astype(np.float32)), range=ends, layout=layout)

    def from_levels(self, levels: Array) -> Array:
        first, step = self._first_and_step()
        return (first + levels * step).astype(np.float32)

    def _to_levels(self, values: Array) -> Array:
        first, step = self._first_and_step()
        return ((values - first) / step).astype(np.float32)

    def _first_and_step(self) -> tuple[float, float]:
        first, last = self.transform.centroids[[0, -1]].astype(np.float64)
        return first, (last - first) / (NUM_LEVELS - 1)


def _fit_affine(samples: Sequence[Array], layout: Layout, *, keeps_grid: bool) -> ChannelMapped:
    """Means and scales of the channels."""
    usual = _usual_rows(samples, layout)
    mean = usual.mean(axis=0, dtype=np.float64).astype(np.float32)
    scale = np.maximum(usual.std(axis=0, dtype=np.float64), 1e-6).astype(np.float32)
    transform, ends = near_levels(((usual - mean) / scale).ravel())
    pictures = _pictures(layout) if keeps_grid else layout
    inner = Levels(transform=transform, range=ends, layout=pictures)
    return ChannelMapped(inner=inner, layout=layout, mean=mean, forward=np.diag(1 / scale), backward=np.diag(scale))


def _fit_arranged(samples: Sequence[Array], layout: Layout) -> ChannelMapped:
    """Means and an orthonormal map of the channels, of falling variance. A latent's are those of one position.

    Tokens of pictures keep their channels, by falling variance: turned, a few would be dozens of times larger than the
    others (docs/decisions/0006).
    """
    layout = replace(layout, patch=1)
    usual = _usual_rows(samples, layout)
    mean = usual.mean(axis=0, dtype=np.float64).astype(np.float32)
    if layout.family == Family.vit:
        basis = np.eye(len(mean), dtype=np.float32)[:, np.argsort(-usual.var(axis=0))]
    else:
        basis = np.linalg.eigh(np.cov(usual.T, dtype=np.float64))[1][:, ::-1].astype(np.float32)
    inner = EvenSteps.fit(((usual - mean) @ basis).ravel(), _pictures(layout))
    return ChannelMapped(inner=inner, layout=layout, mean=mean, forward=basis, backward=basis.T)


def _usual_rows(samples: Sequence[Array], layout: Layout) -> Array:
    """[n, C] of all samples, without the rows of unusual size."""
    rows = np.concatenate([_flat_rows(sample, layout) for sample in samples])
    sizes = np.sqrt(np.mean(rows * rows, axis=1, dtype=np.float64))
    on_grid = all(layout.grid(sample.shape) for sample in samples)
    return rows[~is_apart(sizes, max(float(np.median(sizes)), 1e-30), on_grid=on_grid)]


def _pictures(layout: Layout) -> Layout:
    return ChannelPictures(family=layout.family, prefix=layout.prefix, patch=layout.patch)


def _flat_rows(features: Array, layout: Layout) -> Array:
    rows = layout.to_rows(features)
    return rows.reshape(-1, rows.shape[-1])


class ChannelPictures(Layout):
    """A layout whose plane lays a picture of tokens out channel by channel: a mosaic, and the prefix in rows below."""

    def to_plane(self, features: Array) -> Array:
        """[N H, W]: the images one below the other."""
        if not self._is_picture(features.shape):
            return super().to_plane(features)
        tokens, channels = features.shape[-2:]
        images = features.reshape(-1, tokens, channels)
        height, width = self._picture_shape(tokens, channels)
        side, (down, across) = _side(tokens, self.prefix), mosaic(channels)
        tiles = images[:, self.prefix :].reshape(-1, side, side, down, across).transpose(0, 3, 1, 4, 2)
        below = images[:, : self.prefix].reshape(len(images), -1)
        missing = (height - down * side) * width - below.shape[1]
        below = np.pad(below, ((0, 0), (0, missing)), mode="edge") if self.prefix else below
        picture = np.concatenate([tiles.reshape(len(images), -1), below], axis=1)
        return picture.reshape(len(images) * height, width)

    def from_plane(self, plane: Array, shape: tuple[int, ...]) -> Array:
        """The inverse of `to_plane`."""
        if not self._is_picture(shape):
            return super().from_plane(plane, shape)
        tokens, channels = shape[-2:]
        side, (down, across) = _side(tokens, self.prefix), mosaic(channels)
        picture = plane.reshape(prod(shape[:-2]), -1)
        tiles = picture[:, : channels * side * side].reshape(-1, down, side, across, side)
        grid = tiles.transpose(0, 2, 4, 1, 3).reshape(len(picture), side * side, channels)
        start = channels * side * side
        prefix = picture[:, start : start + self.prefix * channels].reshape(len(picture), self.prefix, channels)
        return np.concatenate([prefix, grid], axis=1).reshape(shape)

    def plane_shape(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """(H, W)."""
        if not self._is_picture(shape):
            return super().plane_shape(shape)
        height, width = self._picture_shape(*shape[-2:])
        return prod(shape[:-2]) * height, width

    def _is_picture(self, shape: tuple[int, ...]) -> bool:
        return self.family == "vit" and self.grid(shape) is not None

    def _picture_shape(self, tokens: int, channels: int) -> tuple[int, int]:
        side, (down, across) = _side(tokens, self.prefix), mosaic(channels)
        return down * side + ceil(self.prefix * channels / (across * side)), across * side


def _side(tokens: int, prefix: int) -> int:
    return int(np.sqrt(tokens - prefix) + 0.5)
