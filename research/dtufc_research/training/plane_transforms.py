"""Plane transforms by name: the product's, the paper's, its baseline's, and those of ablations."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, prod, sqrt
from typing import ClassVar, Final, Literal

import numpy as np

from dtufc.coding.arrays import Array
from dtufc.coding.codecs.calibration import is_outlier_row
from dtufc.coding.codecs.klt_transform import KltTransform
from dtufc.coding.codecs.learned.plane import (
    MIDDLE,
    NETWORK_SCALE,
    Assignment,
    Head,
    Levels,
    PlaneTransform,
    fit_coefficients,
    fit_levels,
    trimmed_levels,
)
from dtufc.coding.layout import Family, Layout, mosaic
from dtufc.coding.transform import NUM_LEVELS, PeakyToBalanced
from dtufc.models.profile import Profile

PlaneTransformKind = Literal[
    "paper", "trimmed", "affine", "affine-grid", "pca-arranged", "pca-arranged-lloyd", "truncate", "klt"
]
_TRUNCATION: Final = (0.001, 0.999)  # quantiles between which the baseline keeps values
_NUM_FITTED: Final = 10
_MAX_SPREADS: Final = 24  # of the ordinary values: values further from their mean are outliers
_FINENESS: Final = 16  # levels to a spread
_NUM_BINS: Final = 256
_NUM_DENSITIES: Final = 1 << 14
_MIN_SHARE: Final = 1e-9
_HALVINGS: Final = 100
_UNLIMITED: Final = np.array([-np.inf, np.inf], np.float32)


def evenly(samples: Sequence[Array], count: int) -> Sequence[Array]:
    """`count` of the samples, evenly spaced."""
    return samples[:: max(1, len(samples) // count)][:count]


def fit_plane_transform(kind: PlaneTransformKind, profile: Profile, samples: Sequence[Array]) -> PlaneTransform:
    """The plane transform of that kind, fitted to ten of the samples.

    - `paper`: the paper's levels, fitted to all values; nothing is an outlier.
    - `truncate`: the paper's baseline. Values beyond two quantiles are clipped, the others scaled evenly.
    - `trimmed`: the product's levels, fitted without outliers.
    - `klt`: the product's coefficients, from what the profile keeps for `klt`.
    - `affine`: a mean and a scale for each channel, then `trimmed`. `affine-grid` also keeps the token grid.
    - `pca-arranged`: channels are centred and rotated to their principal components (of image tokens, only ordered by
      variance), the token grid is kept, and levels are entropy-constrained. `pca-arranged-lloyd` has levels as
      `trimmed`.
    """
    layout = profile.layout
    chosen = [sample.astype(np.float32) for sample in evenly(samples, _NUM_FITTED)]
    match kind:
        case "paper":
            return Levels(transform=PeakyToBalanced.fit(chosen), range=_UNLIMITED, layout=layout)
        case "trimmed":
            return fit_levels(chosen, layout)
        case "truncate":
            low, high = np.quantile(np.concatenate([sample.ravel() for sample in chosen]), _TRUNCATION)
            even = PeakyToBalanced(np.linspace(low, high, NUM_LEVELS, dtype=np.float32))
            return Levels(transform=even, range=_UNLIMITED, layout=layout, assignment=Assignment.between)
        case "klt":
            return fit_coefficients(chosen, KltTransform.from_arrays(profile.of_codec("klt"), layout))
        case "affine" | "affine-grid":
            return _fit_affine(chosen, layout, keeps_grid=kind == "affine-grid")
        case "pca-arranged" | "pca-arranged-lloyd":
            return _fit_pca_arranged(chosen, layout, is_entropy_constrained=kind == "pca-arranged")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelMapped:
    """An affine map of the channels, before another plane transform.

    Attributes:
        inner: the other plane transform.
        layout: of the features; its rows have the channels.
        mean: [C] float32.
        forward: [C, C] float32: (row - mean) @ forward is the input of `inner`.
        backward: [C, C] float32, the inverse of `forward`.
        spacing: of two neighbouring levels of `inner`, on the plane.
    """

    padding: ClassVar[float | None] = None

    inner: Levels
    layout: Layout
    mean: Array
    forward: Array
    backward: Array
    spacing: float = 1.0

    def to_plane(self, features: Array) -> tuple[Array, bytes]:
        rows = self.layout.to_rows(features.astype(np.float32))
        plane, head = self.inner.to_plane(self.layout.from_rows((rows - self.mean) @ self.forward, features.shape))
        return MIDDLE + (plane - MIDDLE) * self.spacing, head

    def read_head(self, data: bytes, offset: int, shape: tuple[int, ...]) -> tuple[Head, int]:
        head, offset = self.inner.read_head(data, offset, shape)
        return _MappedHead(plane_transform=self, inner=head, shape=shape), offset


@dataclass(frozen=True, slots=True, kw_only=True)
class _MappedHead:
    plane_transform: ChannelMapped
    inner: Head
    shape: tuple[int, ...]

    @property
    def plane_shape(self) -> tuple[int, int]:
        return self.inner.plane_shape

    def features(self, plane: Array) -> Array:
        plane_transform = self.plane_transform
        levels = MIDDLE + (plane - MIDDLE) / plane_transform.spacing
        rows = plane_transform.layout.to_rows(self.inner.features(levels))
        return plane_transform.layout.from_rows(rows @ plane_transform.backward + plane_transform.mean, self.shape)


def entropy_constrained_levels(values: Array, step: float) -> PeakyToBalanced:
    """256 entropy-constrained levels: uniform where values are dense, with wider steps where they are sparse.

    The density d of the levels minimizes the squared error under constraints on the entropy and the number of levels:

        p ((step d)^2 - 1) + nu d^3 = 0        and d integrates to 256

    With nu = 0 the levels are uniform with distance `step`, which is optimal for a given entropy (Gish and Pierce
    1968). With only the constraint on the number of levels, d is proportional to the cube root of p (Panter and Dite
    1951), to which the paper's Lloyd iteration converges.

    Args:
        values: [n] finite, not all equal.
        step: distance of levels where values are dense. If uniform levels cover all values, it is the same everywhere.
    """
    low, high = float(values.min()), float(values.max())
    if high - low < step * NUM_LEVELS:
        even = (low + high) / 2 + (np.arange(NUM_LEVELS) - MIDDLE) * step
        return PeakyToBalanced(even.astype(np.float32))
    quantiles = np.quantile(values, np.linspace(0, 1, _NUM_BINS))
    edges = np.unique(np.concatenate([np.linspace(low, high, _NUM_BINS), quantiles]))
    p = np.histogram(values, edges, density=True)[0]
    p = np.maximum(p, _MIN_SHARE * p.max())  # no bin is empty
    d = np.linspace(0, 1 / step, _NUM_DENSITIES, endpoint=False)
    p_by_nu = d**3 / (1 - (step * d) ** 2)
    low_nu, high_nu = 1e-30, 1e30
    for _ in range(_HALVINGS):
        nu = sqrt(low_nu * high_nu)
        levels = np.interp(p / nu, p_by_nu, d) * np.diff(edges)
        low_nu, high_nu = (nu, high_nu) if levels.sum() > NUM_LEVELS else (low_nu, nu)
    before = np.concatenate([[0.0], np.cumsum(levels)])
    wanted = (np.arange(NUM_LEVELS) + 0.5) / NUM_LEVELS * before[-1]
    return PeakyToBalanced(np.interp(wanted, before, edges).astype(np.float32))


def _fit_affine(samples: Sequence[Array], layout: Layout, *, keeps_grid: bool) -> ChannelMapped:
    """Fits means and scales of the channels."""
    ordinary = _ordinary_rows(samples, layout)
    mean = ordinary.mean(axis=0, dtype=np.float64).astype(np.float32)
    scale = np.maximum(ordinary.std(axis=0, dtype=np.float64), 1e-6).astype(np.float32)
    transform, ends = trimmed_levels(((ordinary - mean) / scale).ravel())
    mosaic_layout = _channel_mosaic(layout) if keeps_grid else layout
    inner = Levels(transform=transform, range=ends, layout=mosaic_layout)
    return ChannelMapped(inner=inner, layout=layout, mean=mean, forward=np.diag(1 / scale), backward=np.diag(scale))


def _fit_pca_arranged(samples: Sequence[Array], layout: Layout, *, is_entropy_constrained: bool) -> ChannelMapped:
    """Fits means and an orthonormal map of the channels, by falling variance. A latent's are those of one position.

    The channels of image tokens are only ordered by variance: rotated, a few components would be dozens of times larger
    than the others (docs/decisions/0006).
    """
    layout = replace(layout, patch=1)
    ordinary = _ordinary_rows(samples, layout)
    mean = ordinary.mean(axis=0, dtype=np.float64).astype(np.float32)
    if layout.family == Family.vit:
        basis = np.eye(len(mean), dtype=np.float32)[:, np.argsort(-ordinary.var(axis=0))]
    else:
        basis = np.linalg.eigh(np.cov(ordinary.T, dtype=np.float64))[1][:, ::-1].astype(np.float32)
    values = ((ordinary - mean) @ basis).ravel()
    transform, ends = _trimmed_entropy_constrained_levels(values) if is_entropy_constrained else trimmed_levels(values)
    inner = Levels(transform=transform, range=ends, layout=_channel_mosaic(layout))
    spacing = NETWORK_SCALE / _FINENESS if is_entropy_constrained else 1.0  # a spread is 1.0 at network scale
    return ChannelMapped(inner=inner, layout=layout, mean=mean, forward=basis, backward=basis.T, spacing=spacing)


def _trimmed_entropy_constrained_levels(values: Array) -> tuple[PeakyToBalanced, Array]:
    """Levels fitted without outliers, and the [2] range of the other values: half a step beyond the last levels."""
    low, high = np.quantile(values, _TRUNCATION)
    ordinary = values[(values >= low) & (values <= high)]
    middle, spread = float(ordinary.mean(dtype=np.float64)), float(ordinary.std(dtype=np.float64))
    transform = entropy_constrained_levels(values[np.abs(values - middle) <= _MAX_SPREADS * spread], spread / _FINENESS)
    first, second, *_, last_but_one, last = transform.centroids.tolist()
    return transform, np.array([1.5 * first - 0.5 * second, 1.5 * last - 0.5 * last_but_one], np.float32)


def _ordinary_rows(samples: Sequence[Array], layout: Layout) -> Array:
    """[n, C] of all samples, without outlier rows."""
    rows = np.concatenate([_flat_rows(sample, layout) for sample in samples])
    sizes = np.sqrt(np.mean(rows * rows, axis=1, dtype=np.float64))
    on_grid = all(layout.grid(sample.shape) for sample in samples)
    return rows[~is_outlier_row(sizes, max(float(np.median(sizes)), 1e-30), on_grid=on_grid)]


def _channel_mosaic(layout: Layout) -> Layout:
    return ChannelMosaic(family=layout.family, prefix=layout.prefix, patch=layout.patch)


def _flat_rows(features: Array, layout: Layout) -> Array:
    rows = layout.to_rows(features)
    return rows.reshape(-1, rows.shape[-1])


class ChannelMosaic(Layout):
    """A layout whose plane is a mosaic of the channels of a token grid, with the prefix in rows below."""

    def to_plane(self, features: Array) -> Array:
        """[N H, W]: the images stacked vertically."""
        if not self._has_grid(features.shape):
            return super().to_plane(features)
        tokens, channels = features.shape[-2:]
        images = features.reshape(-1, tokens, channels)
        height, width = self._image_shape(tokens, channels)
        side, (down, across) = _side(tokens, self.prefix), mosaic(channels)
        tiles = images[:, self.prefix :].reshape(-1, side, side, down, across).transpose(0, 3, 1, 4, 2)
        below = images[:, : self.prefix].reshape(len(images), -1)
        missing = (height - down * side) * width - below.shape[1]
        below = np.pad(below, ((0, 0), (0, missing)), mode="edge") if self.prefix else below
        image = np.concatenate([tiles.reshape(len(images), -1), below], axis=1)
        return image.reshape(len(images) * height, width)

    def from_plane(self, plane: Array, shape: tuple[int, ...]) -> Array:
        """The inverse of `to_plane`."""
        if not self._has_grid(shape):
            return super().from_plane(plane, shape)
        tokens, channels = shape[-2:]
        side, (down, across) = _side(tokens, self.prefix), mosaic(channels)
        image = plane.reshape(prod(shape[:-2]), -1)
        tiles = image[:, : channels * side * side].reshape(-1, down, side, across, side)
        grid = tiles.transpose(0, 2, 4, 1, 3).reshape(len(image), side * side, channels)
        start = channels * side * side
        prefix = image[:, start : start + self.prefix * channels].reshape(len(image), self.prefix, channels)
        return np.concatenate([prefix, grid], axis=1).reshape(shape)

    def plane_shape(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """(H, W)."""
        if not self._has_grid(shape):
            return super().plane_shape(shape)
        height, width = self._image_shape(*shape[-2:])
        return prod(shape[:-2]) * height, width

    def _has_grid(self, shape: tuple[int, ...]) -> bool:
        return self.family == "vit" and self.grid(shape) is not None

    def _image_shape(self, tokens: int, channels: int) -> tuple[int, int]:
        side, (down, across) = _side(tokens, self.prefix), mosaic(channels)
        return down * side + ceil(self.prefix * channels / (across * side)), across * side


def _side(tokens: int, prefix: int) -> int:
    return int(np.sqrt(tokens - prefix) + 0.5)
