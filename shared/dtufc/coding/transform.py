"""The peaky-to-balanced transform: 256 Lloyd-Max levels (the paper, section 4.2).

Hides how the levels are found and how a value finds its level. The same samples give the same levels on every
run: the fit sorts, sums in float64 and draws no random number.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from jaxtyping import Float, UInt8

from dtufc.coding.arrays import Array
from dtufc.errors import InputError

NUM_LEVELS: Final = 256
_DENSITY_BINS: Final = 4096
_LONGEST_RUN: Final = 8  # borders; beyond it a binary search is faster


@dataclass(frozen=True, slots=True)
class PeakyToBalanced:
    """T(x) = k for x in R_k, T^-1(k) = c_k (eq. 2, 3).

        features --forward--> levels uint8 --inverse--> features float32

    Attributes:
        centroids: c_0 < ... < c_255, float32.
        borders: the 255 midpoints (c_k + c_{k+1}) / 2 (eq. 5), float32; a value on a border takes the upper level.
    """

    centroids: Float[Array, "256"]
    borders: Float[Array, "255"] = field(init=False)
    _first: Array = field(init=False, repr=False)
    _most: int = field(init=False, repr=False)
    _padded: Array = field(init=False, repr=False)
    _half: dict[str, Array] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        centroids = np.asarray(self.centroids, dtype=np.float32)
        if centroids.shape != (NUM_LEVELS,) or not np.isfinite(centroids).all() or (np.diff(centroids) < 0).any():
            raise InputError(
                field="centroids",
                problem=f"shape {centroids.shape}, unsorted or not finite",
                remedy="Give 256 ascending finite values",
            )
        wide = centroids.astype(np.float64)
        borders = ((wide[:-1] + wide[1:]) / 2).astype(np.float32)
        first, most = _index_by_high_half(borders)
        object.__setattr__(self, "centroids", centroids)
        object.__setattr__(self, "borders", borders)
        object.__setattr__(self, "_first", first)
        object.__setattr__(self, "_most", most)
        object.__setattr__(self, "_padded", np.append(borders, np.float32(np.inf)))

    @classmethod
    def fit(
        cls,
        samples: Float[Array, "..."] | Sequence[Float[Array, "..."]],
        *,
        tolerance: float = 1e-6,
        max_iterations: int = 2000,
    ) -> "PeakyToBalanced":
        """Learns the levels by Lloyd's iteration from the companding density p(x)^(1/3).

        It has converged when one iteration lowers the mean squared error by less than `tolerance` of itself.

        Args:
            samples: the values to learn from, any shape, or a sequence of such arrays (about ten features).
            tolerance: the relative decrease of the mean squared error at which the iteration stops.
            max_iterations: a bound on the time.

        Raises:
            InputError: no sample, or one that is not finite.
        """
        arrays = [samples] if isinstance(samples, np.ndarray) else list(samples)
        values = np.concatenate([np.asarray(a, dtype=np.float32).ravel() for a in arrays] or [np.empty(0, np.float32)])
        if not values.size or not np.isfinite(values).all():
            raise InputError(
                field="samples", problem=f"{values.size} values, not all finite", remedy="Give finite features"
            )
        values.sort()
        levels = _lloyd(values, _compand(values), tolerance, max_iterations)
        levels[-1] = max(levels[-1], (2 * values[-1].astype(np.float64) + levels[0]) / 3)  # so that all are in reach:
        levels[0] = min(levels[0], (2 * values[0].astype(np.float64) + levels[-1]) / 3)  # changes next to no fit
        return cls(levels.astype(np.float32))

    def forward(self, features: Array) -> UInt8[Array, "..."]:
        """Nearest level of each value (eq. 2, 5).

        Args:
            features: any shape, float32, float16 or bfloat16 (ml_dtypes); finite.

        Returns:
            Levels of the same shape.
        """
        if features.dtype.itemsize == 2:
            return self._table(features.dtype).take(features.view(np.uint16))
        values = np.ascontiguousarray(features, dtype=np.float32)
        return self._nearest(values)

    @property
    def reach(self) -> tuple[float, float]:
        """(lowest, highest) value that has a level: half the width of all levels beyond the outermost ones.

        Samples end beyond their outermost levels, which are means, and other samples a little further.
        """
        lowest, highest = float(self.centroids[0]), float(self.centroids[-1])
        beyond = (highest - lowest) / 2 + 1e-6 * max(abs(lowest), abs(highest))  # of constant values, rounding
        return lowest - beyond, highest + beyond

    def inverse(self, levels: UInt8[Array, "..."]) -> Float[Array, "..."]:
        """c_k of each level (eq. 3), float32."""
        return self.centroids.take(levels)

    def _nearest(self, values: Array) -> Array:
        # The high 16 bits of a float32 narrow the search to a run of borders: step through it where it is short.
        if self._most > _LONGEST_RUN:
            return np.searchsorted(self.borders, values, side="right").astype(np.uint8)
        key = values.view(np.uint32) >> np.uint32(16)
        levels = self._first.take(key)
        for _ in range(self._most):
            levels += values >= self._padded.take(levels)
        return levels

    def _table(self, dtype: np.dtype[Any]) -> Array:
        """The level of every 16-bit float, by its bits. Infinities get level 0 or 255, NaN that of zero."""
        if dtype.name not in self._half:
            every = np.arange(1 << 16, dtype=np.uint16).view(dtype).astype(np.float32)
            np.nan_to_num(every, copy=False)
            self._half[dtype.name] = np.searchsorted(self.borders, every, side="right").astype(np.uint8)
        return self._half[dtype.name]


def _index_by_high_half(borders: Array) -> tuple[Array, int]:
    """For each high half of a float32, the lowest level of any value that has it, and the longest run to step."""
    high = np.arange(1 << 16, dtype=np.uint32) << np.uint32(16)
    ends = np.stack([high, high | np.uint32(0xFFFF)]).view(np.float32)
    ends[:, ~np.isfinite(ends).all(axis=0)] = 0  # never asked for: features are finite
    lowest, highest = np.searchsorted(borders, np.sort(ends, axis=0), side="right")
    return lowest.astype(np.uint8), int((highest - lowest).max())


def _compand(values: Array) -> Array:
    """256 starting levels with density p(x)^(1/3), the optimum of high-resolution theory; `values` sorted."""
    # Equal-width bins miss a peak beside an outlier of a thousand standard deviations. Bins of equal count
    # resolve the peak, bins of equal width the tails; use the edges of both.
    width_edges = np.linspace(values[0], values[-1], _DENSITY_BINS)
    count_edges = values[np.linspace(0, values.size - 1, _DENSITY_BINS).astype(np.int64)].astype(np.float64)
    edges = np.unique(np.concatenate([width_edges, count_edges]))
    if edges.size < 2:
        return np.full(NUM_LEVELS, float(values[0]))
    mass = np.diff(np.searchsorted(values, edges.astype(np.float32)))
    cube_root = np.cbrt(mass * np.diff(edges) ** 2)  # p^(1/3) dx, for p = mass / dx
    cumulative = np.concatenate([[0.0], np.cumsum(cube_root)])
    at = (np.arange(NUM_LEVELS) + 0.5) / NUM_LEVELS * cumulative[-1]
    return np.interp(at, cumulative, edges)


def _lloyd(values: Array, centroids: Array, tolerance: float, max_iterations: int) -> Array:
    """Lloyd's iteration (eq. 5, 6) on sorted values: 255 binary searches and two prefix sums a step."""
    wide = values.astype(np.float64)
    sums = np.concatenate([[0.0], np.cumsum(wide)])
    squares = float(np.dot(wide, wide))
    previous = np.inf
    for _ in range(max_iterations):
        borders = (centroids[:-1] + centroids[1:]) / 2
        ends = np.concatenate([[0], np.searchsorted(values, borders.astype(np.float32)), [values.size]])
        count = np.diff(ends)
        total = np.diff(sums[ends])
        centroids = np.where(count > 0, total / np.maximum(count, 1), centroids)
        # sum (x - c)^2 over the cells, with each c the mean of its cell
        error = squares - float(np.sum(total * total / np.maximum(count, 1)))
        if previous - error <= tolerance * max(error, 1e-12 * squares):
            break
        previous = error
    return np.maximum.accumulate(centroids)
