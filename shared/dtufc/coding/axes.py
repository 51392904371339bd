"""The order of a feature tensor's axes, by name: "NHWC", "TC", "CT".

One letter an axis, in the order of memory. `C` is the channels; `H` and `W`, always together, are a grid; every other
capital letter counts rows: of a sequence where there is no grid, else images, each with a grid of its own.

    features [axes]  <-->  plain [tokens, channels]                 without a grid
                     <-->  plain [images, channels, height, width]  with one
"""

from dataclasses import dataclass
from math import prod
from typing import Final, Self

import numpy as np

from dtufc.coding.arrays import Array
from dtufc.coding.bitstream import MAX_RANK
from dtufc.errors import InputError

_GRID: Final = "HW"
_WORDS: Final = {"C": "channels", "H": "height", "W": "width"}


@dataclass(frozen=True, slots=True)
class Axes:
    """Axes that `parse` let pass.

    Attributes:
        names: one capital letter an axis.
    """

    names: str

    @classmethod
    def parse(cls, names: str) -> Self:
        """Raises InputError, which says what is missing, unless the names say where everything is."""
        problem, remedy = _fault(names)
        if problem:
            raise InputError(field="axes", problem=f"{names[:20]!r} {problem}", remedy=remedy)
        return cls(names)

    @property
    def has_grid(self) -> bool:
        return "H" in self.names

    def describe(self, channels: int | None) -> str:
        """The shape in words: "[N, height, width, 384]"."""
        words = {**_WORDS, "C": str(channels or "channels")}
        return f"[{', '.join(words.get(name, name) for name in self.names)}]"

    def token_axis(self, shape: tuple[int, ...]) -> int:
        """The axis, counted from the end, with the most rows."""
        longest = max((axis for axis, name in enumerate(self.names) if name != "C"), key=lambda axis: shape[axis])
        return longest - len(shape)

    def plain_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Of features of `shape`, which has as many axes as there are names."""
        sizes = [shape[axis] for axis in self._order]
        rows = len(sizes) - self._last
        return prod(sizes[:rows]), *sizes[rows:]

    def shape_of(self, plain_shape: tuple[int, ...]) -> tuple[int, ...]:
        """A shape of features with this plain shape: all the rows are in the last of the axes that count them."""
        rows = len(self.names) - self._last
        sizes = ((*(1,) * (rows - 1), plain_shape[0]) if rows else ()) + plain_shape[1:]
        return tuple(sizes[self._order.index(axis)] for axis in range(len(self.names)))

    def to_plain(self, features: Array) -> Array:
        """Features -> plain, contiguous."""
        ordered = np.ascontiguousarray(features.transpose(self._order))
        return ordered.reshape(self.plain_shape(features.shape))

    def from_plain(self, plain: Array, shape: tuple[int, ...]) -> Array:
        """The inverse of `to_plain` for features of `shape`, contiguous."""
        ordered = plain.reshape([shape[axis] for axis in self._order])
        return np.ascontiguousarray(ordered.transpose(np.argsort(self._order)))

    @property
    def _last(self) -> int:
        """Number of axes behind the rows, or images."""
        return 3 if self.has_grid else 1

    @property
    def _order(self) -> tuple[int, ...]:
        behind = "CHW" if self.has_grid else "C"
        rows = [name for name in self.names if name not in behind]
        return tuple(self.names.index(name) for name in (*rows, *behind))


def _fault(names: str) -> tuple[str, str]:
    """(what is wrong, what to do); twice nothing for good names."""
    if not names.isascii() or not names.isalpha() or not names.isupper():
        return "is no row of capital letters", 'Name each axis by one, such as "NHWC" or "TC"'
    if len(set(names)) < len(names):
        return "names an axis twice", "Give every axis a letter of its own"
    if "C" not in names:
        return "has no channel axis", "Write C where the channels are"
    if len(set(names) & set(_GRID)) == 1:
        missing = "W" if "H" in names else "H"
        return f"has no {missing}", "Write H and W for a grid, and other letters (T, N, B) for rows"
    if not 2 <= len(names) <= MAX_RANK:
        return f"has {len(names)} axes", f"Name 2 to {MAX_RANK}, and join others into one"
    return "", ""
