"""How features come onto a plane: the product's ways, the paper's, its baseline's, and what ablations try."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, prod, sqrt
from typing import ClassVar, Final, Literal

import numpy as np

from dtufc.coding.arrays import Array
from dtufc.coding.codecs.calibration import is_apart
from dtufc.coding.codecs.klt_transform import KltTransform
from dtufc.coding.codecs.learned.plane import (
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
from dtufc.coding.layout import Family, Layout, mosaic
from dtufc.coding.transform import NUM_LEVELS, PeakyToBalanced
from dtufc.models.profile import Profile

Kind = Literal["paper", "near", "affine", "affine-grid", "arranged", "arranged-lloyd", "truncate", "klt"]
_TRUNCATION: Final = (0.001, 0.999)  # quantiles between which the baseline keeps values
_NUM_FITTED: Final = 10
_MOST_SPREADS: Final = 24  # of the ordinary values: further away, values go apart
_FINENESS: Final = 16  # levels to a spread
_NUM_BINS: Final = 256
_NUM_DENSITIES: Final = 1 << 14
_LEAST_SHARE: Final = 1e-9
_HALVINGS: Final = 100
_EVERYTHING: Final = np.array([-np.inf, np.inf], np.float32)


def evenly(samples: Sequence[Array], count: int) -> Sequence[Array]:
    """`count` of the samples, from all along the list."""
    return samples[:: max(1, len(samples) // count)][:count]


def prepare(kind: Kind, profile: Profile, samples: Sequence[Array]) -> Preparation:
    """The preparation of that kind, learned from ten of the samples.

    `paper` is the paper's: levels for all values, none apart. `truncate` is its baseline: values beyond two quantiles
    are clipped, those between scaled evenly. `near` and `klt` are the product's; `klt` takes what the profile has of
    that codec. `affine` gives each channel a mean and a scale of its own before `near`; `affine-grid` also keeps the
    grid of a picture's tokens, and so does `arranged`: each channel's mean taken off, channels turned to their
    principal components (those of a picture's tokens only brought into an order), then `sparing_levels`. With
    `arranged-lloyd`, then `near`.
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
        case "arranged" | "arranged-lloyd":
            return _fit_arranged(chosen, layout, is_sparing=kind == "arranged")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelMapped:
    """An affine map of the channels, before another preparation.

    Attributes:
        inner: the other.
        layout: whose rows have the channels.
        mean: [C] float32.
        forward: [C, C] float32: (row - mean) @ forward is what `inner` sees.
        backward: [C, C] float32, its inverse to float32.
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
        levels = MIDDLE + (plane - MIDDLE) / preparation.spacing
        rows = preparation.layout.to_rows(self.inner.features(levels))
        return preparation.layout.from_rows(rows @ preparation.backward + preparation.mean, self.shape)


def sparing_levels(values: Array, step: float) -> PeakyToBalanced:
    """256 levels for an entropy coder: even ones where values are many, further apart where they are few.

    Their density d makes the squared error least that the entropy and the number of levels allow, with a price on each:

        p ((step d)^2 - 1) + nu d^3 = 0        and d adds up to 256

    Without a price nu on levels they are even, `step` apart: least at one entropy (Gish and Pierce 1968). With that
    price alone, d goes as the cube root of p: least for one number of levels (Panter and Dite 1951), where the paper's
    Lloyd iteration leads.

    Args:
        values: [n] finite, not all alike.
        step: where values are many. Even levels that reach further than all values have it everywhere.
    """
    low, high = float(values.min()), float(values.max())
    if high - low < step * NUM_LEVELS:
        even = (low + high) / 2 + (np.arange(NUM_LEVELS) - MIDDLE) * step
        return PeakyToBalanced(even.astype(np.float32))
    quantiles = np.quantile(values, np.linspace(0, 1, _NUM_BINS))
    edges = np.unique(np.concatenate([np.linspace(low, high, _NUM_BINS), quantiles]))
    p = np.histogram(values, edges, density=True)[0]
    p = np.maximum(p, _LEAST_SHARE * p.max())  # where none was seen, one may come
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
    """Means and scales of the channels."""
    usual = _usual_rows(samples, layout)
    mean = usual.mean(axis=0, dtype=np.float64).astype(np.float32)
    scale = np.maximum(usual.std(axis=0, dtype=np.float64), 1e-6).astype(np.float32)
    transform, ends = near_levels(((usual - mean) / scale).ravel())
    pictures = _pictures(layout) if keeps_grid else layout
    inner = Levels(transform=transform, range=ends, layout=pictures)
    return ChannelMapped(inner=inner, layout=layout, mean=mean, forward=np.diag(1 / scale), backward=np.diag(scale))


def _fit_arranged(samples: Sequence[Array], layout: Layout, *, is_sparing: bool) -> ChannelMapped:
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
    values = ((usual - mean) @ basis).ravel()
    transform, ends = _near_sparing_levels(values) if is_sparing else near_levels(values)
    inner = Levels(transform=transform, range=ends, layout=_pictures(layout))
    spacing = UNIT / _FINENESS if is_sparing else 1.0  # a spread is a unit of a network
    return ChannelMapped(inner=inner, layout=layout, mean=mean, forward=basis, backward=basis.T, spacing=spacing)


def _near_sparing_levels(values: Array) -> tuple[PeakyToBalanced, Array]:
    """Levels for the values that do not go apart, and the [2] range of those: half a step beyond the outermost."""
    low, high = np.quantile(values, _TRUNCATION)
    ordinary = values[(values >= low) & (values <= high)]
    middle, spread = float(ordinary.mean(dtype=np.float64)), float(ordinary.std(dtype=np.float64))
    transform = sparing_levels(values[np.abs(values - middle) <= _MOST_SPREADS * spread], spread / _FINENESS)
    first, second, *_, last_but_one, last = transform.centroids.tolist()
    return transform, np.array([1.5 * first - 0.5 * second, 1.5 * last - 0.5 * last_but_one], np.float32)


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
