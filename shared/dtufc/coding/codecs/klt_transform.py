"""Features <-> coefficients: a KLT over the channels and a DCT over the tokens' picture, for the codecs on top of it.

    features --rows--> ordinary rows --(x - mean) F--> z --DCT over the grid--> / gain --> coefficients
                       rows apart    --(x / g - centre) F---------------------------------> coefficients

Rows apart are the prefix tokens and the rows whose root mean square is far from the usual one (the massive
activations of a decoder's first token): each is brought to the usual size by a gain g of its own, so that nothing is
clipped. Where tokens are no picture there is no DCT.

Hides how rows are told from one another, and sent. Quantization is the codecs'.
"""

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Final, Self

import numpy as np

from dtufc.coding.arrays import Array
from dtufc.coding.bitstream import read_varint, write_varint
from dtufc.coding.codecs.calibration import FAR, Calibration, bands_of, is_apart, is_sound, squared_radii, unpack_basis
from dtufc.coding.codecs.exact import OCTAVE, forward_dct, power_of_two, transposed_dct
from dtufc.coding.layout import Layout
from dtufc.errors import Corrupt, InputError

_GAIN_OCTAVE: Final = 16
_GAIN_BIAS: Final = 256  # gains are 2^((index - 256) / 16), index < 512
_COARSEST_OUTLIER: Final = 4.0  # the step beyond which outliers are coded no coarser


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """One feature on its way: which rows go by themselves, and where the grids are."""

    rows_shape: tuple[int, int, int]  # images, tokens, channels
    prefix: int
    grid: tuple[int, int] | None
    apart: Array  # indices of rows apart among all rows, ascending
    gains: Array  # their gain indices

    @property
    def singles(self) -> Array:
        """Indices of the rows that are coded one by one."""
        images, tokens, _ = self.rows_shape
        return self.apart if self.grid else np.arange(images * tokens)

    @property
    def num_rows(self) -> int:
        """Of coefficients: the singles, then each image's frequencies."""
        images, tokens, _ = self.rows_shape
        return len(self.singles) + (images * (tokens - self.prefix) if self.grid else 0)


class KltTransform:
    """One fitted transform, in floats where nothing else is said."""

    def __init__(self, calibration: Calibration, layout: Layout) -> None:
        self.c, self.layout = calibration, layout
        self.basis = calibration.basis.astype(np.float64)
        self._finer = float(calibration.rounding[2])

    @classmethod
    def from_arrays(cls, arrays: dict[str, Array], layout: Layout) -> Self:
        """Of the arrays that a profile keeps for `klt`. Raises InputError where they are damaged."""
        damaged = InputError(field="profile", problem="the arrays of klt are damaged", remedy="Restore the profile")
        if set(arrays) != {field.name for field in fields(Calibration)}:
            raise damaged
        calibration = Calibration(**{**arrays, "basis": unpack_basis(arrays["basis"])})
        if not is_sound(calibration):
            raise damaged
        return cls(calibration, layout)

    @cached_property
    def _forward(self) -> Array:
        """[C, C] float32: z = (x - mean) @ forward. The encoder's alone: it need not be exact."""
        return np.linalg.inv(self.basis * self.c.scale).astype(np.float32)

    def rows(self, features: Array) -> Array:
        """[images, tokens, C] float32. Raises InputError for another number of channels than was fitted."""
        rows = self.layout.to_rows(features.astype(np.float32))
        if rows.shape[-1] != len(self.basis):
            problem = f"{rows.shape[-1]} channels, fitted for {len(self.basis)}"
            raise InputError(field="features", problem=problem, remedy="Use the profile of this model")
        return rows

    def rows_shape(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """(images, tokens, C) of what is decoded. Raises Corrupt for another number of channels than was fitted."""
        rows_shape = self.layout.rows_shape(shape)
        if rows_shape[-1] != len(self.basis):
            raise Corrupt(problem=f"{rows_shape[-1]} channels, not {len(self.basis)}")
        return rows_shape

    def split(self, rows: Array, shape: tuple[int, ...]) -> Parts:
        """Finds the rows apart: the prefix of each grid, and those of unusual size."""
        channels = rows.shape[-1]
        grid = self.layout.grid(shape)
        sizes = np.sqrt(np.einsum("itc,itc->it", rows, rows, dtype=np.float64) / channels)
        typical = float(self.c.typical[0])
        apart = is_apart(sizes, typical, on_grid=grid is not None)
        if grid:
            apart[:, : self.layout.prefix] = True
        at = np.flatnonzero(apart)
        logs = np.log2(np.maximum(sizes.ravel()[at] / typical, 2.0**-20))
        gains = np.clip(np.rint(logs * _GAIN_OCTAVE).astype(np.int64) + _GAIN_BIAS, 0, 2 * _GAIN_BIAS - 1)
        return Parts(
            rows_shape=self.layout.rows_shape(shape), prefix=self.layout.prefix, grid=grid, apart=at, gains=gains
        )

    def singles(self, rows: Array, parts: Parts, step: float) -> Array:
        """[rows, C], z of the rows that are coded one by one, for a quantizer of this step."""
        at = parts.singles
        flat = rows.reshape(-1, rows.shape[-1])[at].astype(np.float64) - self.c.mean
        is_apart = np.isin(at, parts.apart)
        normal = rows.reshape(-1, rows.shape[-1])[parts.apart] / _gains(parts.gains)[:, None]
        flat[is_apart] = (normal - self.c.centre) * self._fineness(parts, step)
        return flat.astype(np.float32) @ self._forward

    def spectrum(self, rows: Array, parts: Parts) -> Array:
        """[images, h w, C]: coefficients of the grids, not yet divided by their gains."""
        assert parts.grid is not None
        centred: Array = rows - self.c.mean.astype(np.float32)
        centred.reshape(-1, rows.shape[-1])[parts.apart] = 0
        return forward_dct(centred[:, parts.prefix :] @ self._forward, *parts.grid)

    def bands(self, grid: tuple[int, int]) -> Array:
        """[h w], the row of `gain` for each frequency."""
        return bands_of(self.c.edges, grid)

    def forward(self, features: Array) -> tuple[Array, Parts]:
        """([rows, C] float32, the singles and then each image's frequencies from the lowest up; which rows they are).

        Raises:
            InputError: another number of channels than was fitted.
        """
        rows = self.rows(features)
        parts = self.split(rows, features.shape)
        singles = self.singles(rows, parts, 1.0)
        if parts.grid is None:
            return singles, parts
        spectrum = self.spectrum(rows, parts) / self.c.gain[self.bands(parts.grid)]
        ordered = spectrum[:, _from_lowest(parts.grid)]
        return np.concatenate([singles, ordered.reshape(-1, rows.shape[-1])]), parts

    def inverse(self, coefficients: Array, parts: Parts, shape: tuple[int, ...]) -> Array:
        """The inverse of `forward`, float64, of features of `shape`."""
        num_singles, grid = len(parts.singles), None
        if parts.grid:
            images, _, channels = parts.rows_shape
            spectrum = np.empty((images, parts.grid[0] * parts.grid[1], channels))
            spectrum[:, _from_lowest(parts.grid)] = coefficients[num_singles:].reshape(spectrum.shape)
            z = transposed_dct(spectrum * self.c.gain[self.bands(parts.grid)], *parts.grid)
            grid = z @ self.basis * self.c.scale
        singles = coefficients[:num_singles].astype(np.float64) @ self.basis * self.c.scale
        return self.layout.from_rows(self.assembled(singles, grid, parts, 1.0).reshape(parts.rows_shape), shape)

    def assembled(self, singles: Array, grid: Array | None, parts: Parts, step: float) -> Array:
        """[images tokens, C] float64 of what was centred: [singles, C], and [images h w, C] where there are grids.

        The same bits everywhere, of the same operands.
        """
        images, tokens, channels = parts.rows_shape
        rows: Array = np.zeros((images * tokens, channels)) if grid is not None else singles
        if grid is not None:
            rows.reshape(images, tokens, channels)[:, parts.prefix :] = grid.reshape(images, -1, channels)
        rows = rows + self.c.mean
        apart = singles if grid is not None else singles[parts.apart]
        residual = apart * (1 / self._fineness(parts, step))
        rows[parts.apart] = (residual + self.c.centre) * _gains(parts.gains)[:, None]
        return rows

    def read_parts(self, data: bytes, offset: int, shape: tuple[int, ...]) -> tuple[Parts, int]:
        """What `write_parts` wrote, and the offset behind it. Raises Corrupt."""
        images, tokens, channels = self.rows_shape(shape)
        count, offset = read_varint(data, offset)
        if count > images * tokens:
            raise Corrupt(problem=f"{count} rows apart of {images * tokens}")
        at, gains, row = [], [], -1
        for _ in range(count):
            skip, offset = read_varint(data, offset)
            gain, offset = read_varint(data, offset)
            row += skip + 1
            at.append(row)
            gains.append(gain)
        if row >= images * tokens or max(gains, default=0) >= 2 * _GAIN_BIAS:
            raise Corrupt(problem="a row apart beyond the feature")
        parts = Parts(
            rows_shape=(images, tokens, channels),
            prefix=self.layout.prefix,
            grid=self.layout.grid(shape),
            apart=np.array(at, dtype=np.int64),
            gains=np.array(gains, dtype=np.int64),
        )
        return parts, offset

    def _fineness(self, parts: Parts, step: float) -> Array:
        """[rows apart, 1]: how much finer each is coded. Every token reads an outlier: no coarse step may lose it."""
        is_prefix = (parts.apart % parts.rows_shape[1] < parts.prefix) & (parts.grid is not None)
        is_prefix &= np.abs(parts.gains - _GAIN_BIAS) <= _GAIN_OCTAVE * np.log2(FAR)
        finer = self._finer * max(1.0, step / _COARSEST_OUTLIER)
        return np.where(is_prefix, 1.0, finer)[:, None]


def far_beyond() -> InputError:
    """What an encoder raises for values that its arithmetic cannot hold."""
    return InputError(
        field="features",
        problem="values far beyond those that the profile was fitted on",
        remedy="Use codec 'raw', or fit a profile on such features",
    )


def write_parts(parts: Parts) -> bytes:
    """Number of rows apart, then for each the rows skipped before it and its gain."""
    skips = np.diff(parts.apart, prepend=-1) - 1
    pairs = zip(skips.tolist(), parts.gains.tolist(), strict=True)
    return write_varint(len(parts.apart)) + b"".join(write_varint(skip) + write_varint(gain) for skip, gain in pairs)


def write_sparse(q: Array, at: Array) -> bytes:
    """The integers of a flat array at these ascending places: positions skipped, then the number, sign last."""
    skips = np.diff(at, prepend=-1) - 1
    pairs = zip(skips.tolist(), q[at].tolist(), strict=True)
    return b"".join(write_varint(skip) + write_varint(2 * abs(value) + (value < 0)) for skip, value in pairs)


def read_sparse(data: bytes, q: Array) -> None:
    """Puts what `write_sparse` wrote into a flat array. Raises Corrupt."""
    offset, position = 0, -1
    while offset < len(data):
        skip, offset = read_varint(data, offset)
        folded, offset = read_varint(data, offset)
        position += skip + 1
        if position >= q.size or folded >= 1 << 32:
            raise Corrupt(problem="a stray symbol beyond the feature")
        q[position] = -(folded >> 1) if folded & 1 else folded >> 1


def _from_lowest(grid: tuple[int, int]) -> Array:
    """Places of the frequencies, by rising radius."""
    return np.argsort(squared_radii(grid), kind="stable")


def _gains(indices: Array) -> Array:
    per_gain = OCTAVE // _GAIN_OCTAVE
    return np.array([power_of_two((int(index) - _GAIN_BIAS) * per_gain) for index in indices])
