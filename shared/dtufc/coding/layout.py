"""The layout of a feature tensor: one plane for an image codec, or rows of channels.

Four families (`docs/bitstream.md`, "Layouts"), each an exact round trip between three views of the same values:

    features [...]  <-->  plane [H, W]           the input of a single-channel codec
                    <-->  rows [images, tokens, channels]
"""

from dataclasses import dataclass
from enum import StrEnum
from math import isqrt, prod

import numpy as np

from dtufc.coding.arrays import Array
from dtufc.errors import InputError

MAX_SIDE = 1024  # of a token grid; a decoder's work grows with its square


class Family(StrEnum):
    llm = "llm"  # [T, d] or [1, T, d]: tokens of a decoder
    vit = "vit"  # [tokens, d] or [N, tokens, d]: prefix tokens, then a square grid
    latent = "latent"  # [16, h, w] or [1, 16, h, w]: a diffusion model's latent
    cnn = "cnn"  # [C, h, w] or [1, C, h, w]: feature maps


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The layout of one model's features.

    Attributes:
        family: which of the four.
        channels: d, 16 or C. None if any number is accepted.
        prefix: tokens before the grid (the class token, registers); `vit` only.
        patch: side of the square of positions that forms one token, with all of their channels; `latent` only. If it
            is not 1, the tokens keep their order but form no grid, because the detail of an image is local.
    """

    family: Family
    channels: int | None = None
    prefix: int = 0
    patch: int = 1

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises InputError, naming the shape that fits, unless this one does."""
        expected = self.describe()
        if len(shape) not in self._ranks() or min(shape) < 1:
            raise InputError(field="features", problem=f"shape {shape} does not fit", remedy=f"Give {expected}")
        if self.family != Family.vit and len(shape) == max(self._ranks()) and shape[0] != 1:
            raise InputError(field="features", problem=f"{shape[0]} samples in one array", remedy=f"Give {expected}")
        if self.channels is not None and self._channels_of(shape) != self.channels:
            problem = f"{self._channels_of(shape)} channels in shape {shape}"
            raise InputError(field="features", problem=problem, remedy=f"Give {expected}")
        if self.family == Family.latent and self._channels_of(shape) != 16:
            raise InputError(field="features", problem=f"shape {shape}", remedy=f"Give {expected}")
        if self.family == Family.vit and shape[-2] <= self.prefix:
            raise InputError(field="features", problem=f"{shape[-2]} tokens", remedy=f"Give {expected}")
        if self.family == Family.latent and (shape[-2] % self.patch or shape[-1] % self.patch):
            raise InputError(field="features", problem=f"shape {shape}", remedy=f"Give {expected}")
        if self.family in (Family.latent, Family.cnn) and max(shape[-2:]) > MAX_SIDE:
            raise InputError(field="features", problem=f"shape {shape}", remedy=f"Give at most {MAX_SIDE} a side")

    def describe(self) -> str:
        """The shapes that fit, in words."""
        channels = self.channels or "channels"
        match self.family:
            case Family.llm:
                return f"[tokens, {channels}] or [1, tokens, {channels}]"
            case Family.vit:
                return f"[tokens, {channels}] or [crops, tokens, {channels}], more than {self.prefix} tokens"
            case Family.latent:
                sides = f", sides divisible by {self.patch}" if self.patch > 1 else ""
                return f"[16, height, width] or [1, 16, height, width]{sides}"
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
                return (shape[-2], shape[-1]) if self.patch == 1 else None

    def rows_shape(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """(images, tokens, channels) of features of `shape`. Raises InputError for one that does not fit."""
        self.check(shape)
        if self.family in (Family.llm, Family.vit):
            return (shape[0] if len(shape) == 3 else 1), shape[-2], shape[-1]
        area = self.patch**2
        return 1, shape[-2] * shape[-1] // area, shape[-3] * area

    def to_rows(self, features: Array) -> Array:
        """Features of any layout -> [images, tokens, channels]; a view where memory order allows."""
        self.check(features.shape)
        if self.family in (Family.llm, Family.vit):
            return features.reshape(-1, *features.shape[-2:])
        channels, height, width = features.shape[-3:]
        side = self.patch
        squares = features.reshape(channels, height // side, side, width // side, side).transpose(1, 3, 0, 2, 4)
        return squares.reshape(self.rows_shape(features.shape))

    def from_rows(self, rows: Array, shape: tuple[int, ...]) -> Array:
        """The inverse of `to_rows` for features of `shape`."""
        if self.family in (Family.llm, Family.vit):
            return rows.reshape(shape)
        channels, height, width = shape[-3:]
        side = self.patch
        squares = rows.reshape(height // side, width // side, channels, side, side).transpose(2, 0, 3, 1, 4)
        return np.ascontiguousarray(squares).reshape(shape)

    def to_plane(self, features: Array) -> Array:
        """Features -> one plane [H, W]: tokens stacked, or channels as a mosaic."""
        self.check(features.shape)
        if self.family in (Family.llm, Family.vit):
            return features.reshape(-1, features.shape[-1])
        channels, height, width = features.shape[-3:]
        down, across = mosaic(channels)
        tiles = features.reshape(down, across, height, width)
        return np.ascontiguousarray(tiles.transpose(0, 2, 1, 3)).reshape(down * height, across * width)

    def from_plane(self, plane: Array, shape: tuple[int, ...]) -> Array:
        """The inverse of `to_plane` for features of `shape`."""
        if self.family in (Family.llm, Family.vit):
            return plane.reshape(shape)
        channels, height, width = shape[-3:]
        down, across = mosaic(channels)
        tiles = plane.reshape(down, height, across, width).transpose(0, 2, 1, 3)
        return np.ascontiguousarray(tiles).reshape(shape)

    def plane_shape(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """(H, W) of the plane of features of `shape`."""
        if self.family in (Family.llm, Family.vit):
            return prod(shape[:-1]), shape[-1]
        down, across = mosaic(shape[-3])
        return down * shape[-2], across * shape[-1]

    def cropped(self, features: Array, max_values: int) -> Array:
        """The middle of one input's features, of at most so many values or of 8 tokens a side, if that is more."""
        self.check(features.shape)
        features = features.reshape(-1, *self.single(features.shape))[0]
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

    def _ranks(self) -> tuple[int, int]:
        return (2, 3) if self.family in (Family.llm, Family.vit) else (3, 4)

    def _channels_of(self, shape: tuple[int, ...]) -> int:
        return shape[-1] if self.family in (Family.llm, Family.vit) else shape[-3]


def _middle(size: int, wanted: int, unit: int = 1) -> slice:
    start = max(0, size - wanted) // 2 // unit * unit
    return slice(start, start + min(size, wanted))


def mosaic(channels: int) -> tuple[int, int]:
    """(down, across) of a mosaic of `channels` tiles, as near to square as the divisors allow; never taller."""
    down = next(d for d in range(isqrt(channels), 0, -1) if channels % d == 0)
    return down, channels // down
