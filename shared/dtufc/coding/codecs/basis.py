"""Components <-> centred channels: a small matrix for the leading components, reflections for the rest.

    z [C] --> [z_1 ... z_r] T, [z_r+1 ... z_C] --> u [C] --> u - V' N V u --> channels in `order`, times `scale`

T is [r, r]. The rows of V are r vectors; together they swap the first r places with r chosen directions and leave the
rest of the space as near to the single channels as an orthogonal map can, so that C components stay C components. With
r = C there are no reflections, and T is the whole basis; with r = 0 the components are the channels. Work and memory
grow with r C, not with C^2.

The way from components to channels is exact: integers in float64, rounded to integers at fixed places. The way back is
an encoder's, in float32.
"""

from functools import cached_property
from typing import Final

import numpy as np

from dtufc.coding.arrays import Array
from dtufc.coding.codecs.exact import EXACT_BITS

BASIS_BITS: Final = 15
REFLECTION_BITS: Final = 7
HEAD_SHIFT: Final = 4  # fraction bits behind T
_FRACTION_SHIFT: Final = 8  # fraction bits of the reflections
_CHUNK: Final = 64  # rows that are worked on at a time, so that they stay in a processor's cache
_MAX_HEAD_BITS: Final = 20  # with more, the bound itself would not fit into 64 bits
UNIT: Final = 2.0 ** -(HEAD_SHIFT + _FRACTION_SHIFT)  # of what `to_channels` returns, where there are reflections


class Basis:
    """One fitted basis.

    Attributes:
        channels: C.
        rank: r.
        growth_bits: by how many bits `to_channels` can make an integer longer, in any intermediate sum.
    """

    def __init__(self, head: Array, head_scale: float, reflections: Array, order: Array, scale: Array) -> None:
        """Takes the arrays of `Calibration`, sound."""
        self._head = head.astype(np.float64)
        self._head_scale = head_scale
        self._reflections = reflections.astype(np.float64)  # V
        self._order, self._scale = order, scale
        self._places = np.argsort(order)
        self.channels, self.rank = len(order), len(head)
        self._is_whole = self.rank == self.channels
        integers = reflections.astype(np.int64)
        self._squares = (integers * integers).sum(axis=1)  # [r]
        self._weights = 2.0 ** (_FRACTION_SHIFT + 1) / self._squares
        whole = BASIS_BITS + self.channels.bit_length()
        self.growth_bits = whole if self._is_whole else self._growth(head.astype(np.int64), np.abs(integers))

    def _growth(self, head: Array, reflections: Array) -> int:
        """A bound in integer arithmetic: the same on every machine."""
        product = int(np.abs(head).sum(axis=0).max(initial=0))
        u = max(int(np.ceil(min(product * self._head_scale, 1 << _MAX_HEAD_BITS))) + 1, 1 << HEAD_SHIFT)
        if u.bit_length() > _MAX_HEAD_BITS:
            return EXACT_BITS
        sums = reflections.sum(axis=1)
        p = u * sums * (1 << _FRACTION_SHIFT + 1) // self._squares + 2
        w = (u << _FRACTION_SHIFT) + int((p @ reflections).max(initial=0))
        return max(product, u * int(sums.max(initial=0)), w).bit_length()

    @property
    def exact_bits(self) -> int:
        """The longest integers, in bits, for which `to_channels` is exact."""
        return EXACT_BITS - self.growth_bits

    def to_channels(self, z: Array, used: Array | None = None) -> Array:
        """[n, C] integers in float64, to be multiplied by the channels' scales; the same bits everywhere.

        Args:
            z: [n, C] integers in float64; or [n, len(used)].
            used: ascending, the components that z has; the others are zero.
        """
        used = None if used is not None and len(used) == self.channels else used
        rank = self.rank if used is None else int(np.searchsorted(used, self.rank))
        head = self._head if used is None else self._head[used[:rank]]
        if self._is_whole:
            return z @ head
        rest = slice(self.rank, None) if used is None else used[rank:]
        out = np.empty((len(z), self.channels))
        for start in range(0, len(z), _CHUNK):
            part = z[start : start + _CHUNK]
            u = np.zeros((len(part), self.channels))
            u[:, : self.rank] = np.rint(part[:, :rank] @ head * self._head_scale)
            u[:, rest] = part[:, rank:] * 2.0**HEAD_SHIFT
            p = u @ self._reflections.T
            p *= self._weights
            u *= 2.0**_FRACTION_SHIFT
            u -= np.rint(p, out=p) @ self._reflections
            np.take(u, self._places, axis=1, out=out[start : start + _CHUNK], mode="clip")
        return out

    def to_components(self, centred: Array) -> Array:
        """[n, C] float32, z of centred channels [n, C] float32; an encoder's, not exact."""
        if self._is_whole:
            return centred @ self._inverse_head
        out = np.empty_like(centred)
        for start in range(0, len(centred), _CHUNK):
            u = out[start : start + _CHUNK]
            np.take(centred[start : start + _CHUNK], self._order, axis=1, out=u, mode="clip")
            u *= self._inverse_scale
            u += (u @ self._inverse_reflections[0]) @ self._inverse_reflections[1]
            u[:, : self.rank] = u[:, : self.rank] @ self._inverse_head
        return out

    def to_channels_fast(self, z: Array) -> Array:
        """[n, C] float64: the channels of real components, to some last bits."""
        if self._is_whole:
            return z @ self._head * self._scale
        u = z.copy()
        u[:, : self.rank] = z[:, : self.rank] @ self._head * (self._head_scale * 2.0**-HEAD_SHIFT)
        return self._reflected(u)[:, self._places] * self._scale / UNIT

    def components_of_gradients(self, gradients: Array) -> Array:
        """[n, C] float64: gradients with respect to the components, from gradients with respect to the channels."""
        if self._is_whole:
            return (gradients * self._scale) @ self._head.T
        u = self._reflected((gradients * (self._scale / UNIT))[:, self._order])
        u[:, : self.rank] = u[:, : self.rank] @ self._head.T * (self._head_scale * 2.0**-HEAD_SHIFT)
        return u

    def _reflected(self, u: Array) -> Array:
        return u - (u @ self._reflections.T * (2.0 / self._squares)) @ self._reflections

    @cached_property
    def is_regular(self) -> bool:
        """Whether there is a way from channels to components; asks for what that way needs."""
        try:
            with np.errstate(all="ignore"):  # what overflows is not finite
                inverses = (self._inverse_scale, self._inverse_head, self._inverse_reflections[1])
            return all(bool(np.isfinite(inverse).all()) for inverse in inverses)
        except np.linalg.LinAlgError:
            return False

    @cached_property
    def _inverse_scale(self) -> Array:
        return (UNIT / self._scale[self._order]).astype(np.float32)

    @cached_property
    def _inverse_head(self) -> Array:
        if self._is_whole:
            return np.linalg.inv(self._head * self._scale).astype(np.float32)
        if not self.rank:
            return np.empty((0, 0), np.float32)
        return np.linalg.inv(self._head * (self._head_scale * 2.0**-HEAD_SHIFT)).astype(np.float32)

    @cached_property
    def _inverse_reflections(self) -> tuple[Array, Array]:
        """([C, r], [r, C]); u plus u times their product is the inverse of the rounded reflections."""
        v = self._reflections
        middle = np.linalg.inv(np.diag(self._squares / 2.0) - v @ v.T)
        return np.ascontiguousarray(v.T, np.float32), (middle @ v).astype(np.float32)
