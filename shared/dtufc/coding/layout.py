"""The layout of a feature tensor: one plane for an image codec, or rows of channels.

Four families, or axes by name (`docs/bitstream.md`, "Layouts"), each an exact round trip between three views of the
same values:

    features [...]  <-->  plane [H, W]           the input of a single-channel codec
                    <-->  rows [images, tokens, channels]

Features with named axes are brought into the order of a family first (`dtufc.coding.axes`): nothing else here knows
them.
"""

from dataclasses import dataclass
from enum import StrEnum
from math import isqrt, prod
from typing import Self

import numpy as np

from dtufc.coding.arrays import Array
from dtufc.coding.axes import Axes
from dtufc.errors import InputError

MAX_SIDE = 1024  # of a token grid; a decoder's work grows with its square


class Family(StrEnum):
    llm = "llm"  # [T, d] or [1, T, d]: tokens of a decoder
    vit = "vit"  # [tokens, d] or [N, tokens, d]: prefix tokens, then a square grid
    latent = "latent"  # [C, h, w] or [1, C, h, w]: a diffusion model's latent
    cnn = "cnn"  # [C, h, w] or [1, C, h, w]: feature maps


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The layout of one model's features.

    Attributes:
        family: which of the four; of named axes `cnn` where they have a grid, else `llm`.
        channels: d or C. None if any number is accepted.
        prefix: tokens before the grid (the class token, registers); `vit` only.
        patch: side of the square of positions that forms one token, with all of their channels; `latent` only. If it
            is not 1, the tokens keep their order but form no grid, because the detail of an image is local.
        axes: the order of the axes by name, instead of the family's. Then the rank is fixed, no leading 1 is left out,
            and there may be several images.
    """

    family: Family
    channels: int | None = None
    prefix: int = 0
    patch: int = 1
    axes: str | None = None

    def __post_init__(self) -> None:
        if self.axes is not None:
            Axes.parse(self.axes)
            if self.family != family_of(self.axes) or self.prefix or self.patch != 1:
                problem = f"axes {self.axes} with family {self.family}, prefix {self.prefix}, patch {self.patch}"
                raise InputError(field="layout", problem=problem, remedy="Give axes alone")

    @classmethod
    def of_axes(cls, axes: str, channels: int | None = None) -> Self:
        """Raises InputError where the axes are no sound names."""
        return cls(family=family_of(axes), channels=channels, axes=axes)

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises InputError, naming the shape that fits, unless this one does."""
        expected = self.describe()
        if len(shape) not in self._ranks() or min(shape) < 1:
            raise InputError(field="features", problem=f"shape {shape} does not fit", remedy=f"Give {expected}")
        if not self._takes_many and len(shape) == max(self._ranks()) and shape[0] != 1:
            raise InputError(field="features", problem=f"{shape[0]} samples in one array", remedy=f"Give {expected}")
        plain = self._plain(shape)
        if self.channels is not None and self._channels_of(plain) != self.channels:
            problem = f"{self._channels_of(plain)} channels in shape {shape}"
            raise InputError(field="features", problem=problem, remedy=f"Give {expected}")
        if self.family == Family.vit and shape[-2] <= self.prefix:
            raise InputError(field="features", problem=f"{shape[-2]} tokens", remedy=f"Give {expected}")
        if self.family == Family.latent and (shape[-2] % self.patch or shape[-1] % self.patch):
            raise InputError(field="features", problem=f"shape {shape}", remedy=f"Give {expected}")
        if self.is_map and max(plain[-2:]) > MAX_SIDE:
            raise InputError(field="features", problem=f"shape {shape}", remedy=f"Give at most {MAX_SIDE} a side")

    def describe(self) -> str:
        """The shapes that fit, in words."""
        if self.axes is not None:
            return f"{Axes(self.axes).describe(self.channels)} (axes {self.axes})"
        channels = self.channels or "channels"
        match self.family:
            case Family.llm:
                return f"[tokens, {channels}] or [1, tokens, {channels}]"
            case Family.vit:
                return f"[tokens, {channels}] or [crops, tokens, {channels}], more than {self.prefix} tokens"
            case Family.latent:
                sides = f", sides divisible by {self.patch}" if self.patch > 1 else ""
                return f"[{channels}, height, width] or [1, {channels}, height, width]{sides}"
            case Family.cnn:
                return f"[{channels}, height, width] or [1, {channels}, height, width]"

    def grid(self, shape: tuple[int, ...]) -> tuple[int, int] | None:
        """(height, width) of the token grid behind the prefix, or None if the tokens form no grid."""
        match self.family:
            case Family.llm:
                return None
            case Family.vit:
                side = isqrt(shape[-2] - self.prefix)
                return (side, side) if side * side == shape[-2] - self.prefix else None
            case _:
                height, width = self._plain(shape)[-2:]
                return (height, width) if self.patch == 1 else None

    def rows_shape(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """(images, tokens, channels) of features of `shape`. Raises InputError for one that does not fit."""
        self.check(shape)
        shape = self._plain(shape)
        if not self.is_map:
            return (shape[0] if len(shape) == 3 else 1), shape[-2], shape[-1]
        area = self.patch**2
        return prod(shape[:-3]), shape[-2] * shape[-1] // area, shape[-3] * area

    def to_rows(self, features: Array) -> Array:
        """Features of any layout -> [images, tokens, channels]; a view where memory order allows."""
        rows_shape = self.rows_shape(features.shape)
        features = self._to_plain(features)
        if not self.is_map:
            return features.reshape(rows_shape)
        channels, height, width = features.shape[-3:]
        side = self.patch
        squares = features.reshape(-1, channels, height // side, side, width // side, side)
        return squares.transpose(0, 2, 4, 1, 3, 5).reshape(rows_shape)

    def from_rows(self, rows: Array, shape: tuple[int, ...]) -> Array:
        """The inverse of `to_rows` for features of `shape`."""
        if not self.is_map:
            return self._from_plain(rows, shape)
        channels, height, width = self._plain(shape)[-3:]
        side = self.patch
        squares = rows.reshape(-1, height // side, width // side, channels, side, side).transpose(0, 3, 1, 4, 2, 5)
        return self._from_plain(np.ascontiguousarray(squares), shape)

    def to_plane(self, features: Array) -> Array:
        """Features -> one plane [H, W]: tokens stacked, or the mosaics of each image's channels, stacked."""
        self.check(features.shape)
        height, width = self.plane_shape(features.shape)
        features = self._to_plain(features)
        if not self.is_map:
            return features.reshape(height, width)
        down, across = mosaic(features.shape[-3])
        tiles = features.reshape(-1, down, across, *features.shape[-2:])
        return np.ascontiguousarray(tiles.transpose(0, 1, 3, 2, 4)).reshape(height, width)

    def from_plane(self, plane: Array, shape: tuple[int, ...]) -> Array:
        """The inverse of `to_plane` for features of `shape`."""
        if not self.is_map:
            return self._from_plain(plane, shape)
        channels, height, width = self._plain(shape)[-3:]
        down, across = mosaic(channels)
        tiles = plane.reshape(-1, down, height, across, width).transpose(0, 1, 3, 2, 4)
        return self._from_plain(np.ascontiguousarray(tiles), shape)

    def plane_shape(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """(H, W) of the plane of features of `shape`."""
        shape = self._plain(shape)
        if not self.is_map:
            return prod(shape[:-1]), shape[-1]
        down, across = mosaic(shape[-3])
        return prod(shape[:-3]) * down * shape[-2], across * shape[-1]

    def cropped(self, features: Array, max_values: int) -> Array:
        """The middle of one input's features, of at most so many values or of 8 tokens a side, if that is more."""
        self.check(features.shape)
        plain = self._to_plain(features)
        rank = 3 if self.is_map else 2
        crop = self._cropped(plain.reshape(-1, *plain.shape[-rank:])[0], max_values)
        if self.axes is None:
            return crop
        crop = crop[None] if self.is_map else crop
        return self._from_plain(crop, Axes(self.axes).shape_of(crop.shape))

    def _cropped(self, features: Array, max_values: int) -> Array:
        """`cropped`, of [tokens, channels] or [channels, height, width]."""
        at_most = max_values // self._channels_of(features.shape)
        side = max(8, isqrt(at_most)) // self.patch * self.patch
        if self.is_map:
            down, across = (_middle(size, side, self.patch) for size in features.shape[-2:])
            return np.ascontiguousarray(features[:, down, across])
        grid = self.grid(features.shape)
        if not grid:
            length = min(len(features), max(64, at_most))
            while length > self.prefix + 2 and self.grid((length, features.shape[-1])):
                length -= 1
            return features[:length]
        tokens = features[self.prefix :].reshape(*grid, -1)[_middle(grid[0], side), _middle(grid[1], side)]
        return np.concatenate([features[: self.prefix], tokens.reshape(-1, features.shape[-1])])

    @property
    def is_map(self) -> bool:
        """Whether positions are a map [channels, height, width], not rows [tokens, channels]."""
        return self.family in (Family.latent, Family.cnn)

    def single(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of one input's features: without the leading 1 that some models have."""
        return shape[-self._ranks()[0] :]

    def token_axis(self, shape: tuple[int, ...]) -> int:
        """The axis, counted from the end, along which rows can be taken apart; of tokens that form no grid."""
        return -2 if self.axes is None else Axes(self.axes).token_axis(shape)

    @property
    def _takes_many(self) -> bool:
        return self.family == Family.vit or self.axes is not None

    def _ranks(self) -> tuple[int, ...]:
        if self.axes is not None:
            return (len(self.axes),)
        return (3, 4) if self.is_map else (2, 3)

    def _channels_of(self, plain: tuple[int, ...]) -> int:
        return plain[-3] if self.is_map else plain[-1]

    def _plain(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape if self.axes is None else Axes(self.axes).plain_shape(shape)

    def _to_plain(self, features: Array) -> Array:
        return features if self.axes is None else Axes(self.axes).to_plain(features)

    def _from_plain(self, plain: Array, shape: tuple[int, ...]) -> Array:
        return plain.reshape(shape) if self.axes is None else Axes(self.axes).from_plain(plain, shape)


def family_of(axes: str) -> Family:
    """The family that features with these axes are coded as. Raises InputError where they are no sound names."""
    return Family.cnn if Axes.parse(axes).has_grid else Family.llm


def _middle(size: int, wanted: int, unit: int = 1) -> slice:
    start = max(0, size - wanted) // 2 // unit * unit
    return slice(start, start + min(size, wanted))


def mosaic(channels: int) -> tuple[int, int]:
    """(down, across) of a mosaic of `channels` tiles, as near to square as the divisors allow; never taller."""
    down = next(d for d in range(isqrt(channels), 0, -1) if channels % d == 0)
    return down, channels // down
