"""Features <-> coefficients: a KLT over the channels and a DCT over the token grid, for the codecs on top of it.

    features --rows--> ordinary rows --(x - mean) F--> z --DCT over the grid--> / gain --> coefficients
                       outlier rows  --(x / g - centre) F---------------------------------> coefficients

Outlier rows are the prefix tokens of a grid and the rows whose root mean square differs from the reference RMS by more
than a factor (the massive activations of a decoder's first token). Each outlier row is divided by a gain g of its own,
so that nothing is clipped. Where tokens form no grid there is no DCT.

Hides how outlier rows are found and written. Quantization is up to the codecs.
"""

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Final, Self

import numpy as np

from dtufc.coding.arrays import Array
from dtufc.coding.bitstream import read_varint, write_varint
from dtufc.coding.codecs.calibration import (
    OUTLIER_RATIO,
    Calibration,
    bands_of,
    is_outlier_row,
    is_sound,
    squared_radii,
    unpack_basis,
)
from dtufc.coding.codecs.exact import OCTAVE, forward_dct, power_of_two, transposed_dct
from dtufc.coding.layout import Layout
from dtufc.errors import Corrupt, InputError

_GAIN_OCTAVE: Final = 16
_GAIN_BIAS: Final = 256  # gains are 2^((index - 256) / 16), index < 512
_COARSEST_OUTLIER: Final = 4.0  # the step beyond which outliers are coded no coarser


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """The partition of one feature into outlier rows, isolated tokens and token grids."""

    rows_shape: tuple[int, int, int]  # images, tokens, channels
    prefix: int
    grid: tuple[int, int] | None
    outliers: Array  # indices of the outlier rows among all rows, ascending
    gains: Array  # their gain indices

    @property
    def isolated(self) -> Array:
        """Indices of the isolated tokens: rows that are coded without a DCT."""
        images, tokens, _ = self.rows_shape
        return self.outliers if self.grid else np.arange(images * tokens)

    @property
    def num_rows(self) -> int:
        """Rows of coefficients: the isolated tokens, then each image's frequencies."""
        images, tokens, _ = self.rows_shape
        return len(self.isolated) + (images * (tokens - self.prefix) if self.grid else 0)


class KltTransform:
    """One fitted transform, in floating point unless stated otherwise."""

    def __init__(self, calibration: Calibration, layout: Layout) -> None:
        self.c, self.layout = calibration, layout
        self.basis = calibration.basis.astype(np.float64)
        self._finer = float(calibration.rounding[2])

    @classmethod
    def from_arrays(cls, arrays: dict[str, Array], layout: Layout) -> Self:
        """Reads the arrays that a profile keeps for `klt`. Raises InputError if they are damaged."""
        damaged = InputError(field="profile", problem="the arrays of klt are damaged", remedy="Restore the profile")
        if set(arrays) != {field.name for field in fields(Calibration)}:
            raise damaged
        calibration = Calibration(**{**arrays, "basis": unpack_basis(arrays["basis"])})
        if not is_sound(calibration):
            raise damaged
        return cls(calibration, layout)

    @cached_property
    def _forward(self) -> Array:
        """[C, C] float32: z = (x - mean) @ forward. Only the encoder uses it, so it need not be exact."""
        return np.linalg.inv(self.basis * self.c.scale).astype(np.float32)

    def rows(self, features: Array) -> Array:
        """[images, tokens, C] float32. Raises InputError if the number of channels differs from the fit."""
        rows = self.layout.to_rows(features.astype(np.float32))
        if rows.shape[-1] != len(self.basis):
            problem = f"{rows.shape[-1]} channels, fitted for {len(self.basis)}"
            raise InputError(field="features", problem=problem, remedy="Use the profile of this model")
        return rows

    def rows_shape(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """(images, tokens, C) of the decoded rows. Raises Corrupt if the number of channels differs from the fit."""
        rows_shape = self.layout.rows_shape(shape)
        if rows_shape[-1] != len(self.basis):
            raise Corrupt(problem=f"{rows_shape[-1]} channels, not {len(self.basis)}")
        return rows_shape

    def split(self, rows: Array, shape: tuple[int, ...]) -> Partition:
        """Finds the outlier rows: the prefix of each grid, and the rows of unusual RMS."""
        channels = rows.shape[-1]
        grid = self.layout.grid(shape)
        sizes = np.sqrt(np.einsum("itc,itc->it", rows, rows, dtype=np.float64) / channels)
        reference_rms = float(self.c.reference_rms[0])
        is_outlier = is_outlier_row(sizes, reference_rms, on_grid=grid is not None)
        if grid:
            is_outlier[:, : self.layout.prefix] = True
        at = np.flatnonzero(is_outlier)
        logs = np.log2(np.maximum(sizes.ravel()[at] / reference_rms, 2.0**-20))
        gains = np.clip(np.rint(logs * _GAIN_OCTAVE).astype(np.int64) + _GAIN_BIAS, 0, 2 * _GAIN_BIAS - 1)
        return Partition(
            rows_shape=self.layout.rows_shape(shape), prefix=self.layout.prefix, grid=grid, outliers=at, gains=gains
        )

    def isolated(self, rows: Array, partition: Partition, step: float) -> Array:
        """[rows, C], z of the isolated tokens, for a quantizer of this step."""
        at = partition.isolated
        flat = rows.reshape(-1, rows.shape[-1])[at].astype(np.float64) - self.c.mean
        is_outlier = np.isin(at, partition.outliers)
        normal = rows.reshape(-1, rows.shape[-1])[partition.outliers] / _gains(partition.gains)[:, None]
        flat[is_outlier] = (normal - self.c.centre) * self._fineness(partition, step)
        return flat.astype(np.float32) @ self._forward

    def spectrum(self, rows: Array, partition: Partition) -> Array:
        """[images, h w, C]: coefficients of the grids, before division by their gains."""
        assert partition.grid is not None
        centred: Array = rows - self.c.mean.astype(np.float32)
        centred.reshape(-1, rows.shape[-1])[partition.outliers] = 0
        return forward_dct(centred[:, partition.prefix :] @ self._forward, *partition.grid)

    def bands(self, grid: tuple[int, int]) -> Array:
        """[h w], the row of `gain` for each frequency."""
        return bands_of(self.c.edges, grid)

    def forward(self, features: Array) -> tuple[Array, Partition]:
        """([rows, C] float32, the isolated tokens and then each image's frequencies from the lowest up; the partition).

        Raises:
            InputError: the number of channels differs from the fit.
        """
        rows = self.rows(features)
        partition = self.split(rows, features.shape)
        isolated = self.isolated(rows, partition, 1.0)
        if partition.grid is None:
            return isolated, partition
        spectrum = self.spectrum(rows, partition) / self.c.gain[self.bands(partition.grid)]
        ordered = spectrum[:, _from_lowest(partition.grid)]
        return np.concatenate([isolated, ordered.reshape(-1, rows.shape[-1])]), partition

    def inverse(self, coefficients: Array, partition: Partition, shape: tuple[int, ...]) -> Array:
        """The inverse of `forward`, float64, of features of `shape`."""
        num_isolated, grid = len(partition.isolated), None
        if partition.grid:
            images, _, channels = partition.rows_shape
            spectrum = np.empty((images, partition.grid[0] * partition.grid[1], channels))
            spectrum[:, _from_lowest(partition.grid)] = coefficients[num_isolated:].reshape(spectrum.shape)
            z = transposed_dct(spectrum * self.c.gain[self.bands(partition.grid)], *partition.grid)
            grid = z @ self.basis * self.c.scale
        isolated = coefficients[:num_isolated].astype(np.float64) @ self.basis * self.c.scale
        return self.layout.from_rows(
            self.assembled(isolated, grid, partition, 1.0).reshape(partition.rows_shape), shape
        )

    def assembled(self, isolated: Array, grid: Array | None, partition: Partition, step: float) -> Array:
        """[images tokens, C] float64 from centred values: [isolated, C], and [images h w, C] if there are grids.

        The same operands give the same bits on every machine.
        """
        images, tokens, channels = partition.rows_shape
        rows: Array = np.zeros((images * tokens, channels)) if grid is not None else isolated
        if grid is not None:
            rows.reshape(images, tokens, channels)[:, partition.prefix :] = grid.reshape(images, -1, channels)
        rows = rows + self.c.mean
        outliers = isolated if grid is not None else isolated[partition.outliers]
        residual = outliers * (1 / self._fineness(partition, step))
        rows[partition.outliers] = (residual + self.c.centre) * _gains(partition.gains)[:, None]
        return rows

    def read_partition(self, data: bytes, offset: int, shape: tuple[int, ...]) -> tuple[Partition, int]:
        """Reads what `write_partition` wrote; returns it and the offset behind it. Raises Corrupt."""
        images, tokens, channels = self.rows_shape(shape)
        count, offset = read_varint(data, offset)
        if count > images * tokens:
            raise Corrupt(problem=f"{count} outlier rows of {images * tokens}")
        at, gains, row = [], [], -1
        for _ in range(count):
            skip, offset = read_varint(data, offset)
            gain, offset = read_varint(data, offset)
            row += skip + 1
            at.append(row)
            gains.append(gain)
        if row >= images * tokens or max(gains, default=0) >= 2 * _GAIN_BIAS:
            raise Corrupt(problem="an outlier row out of range")
        partition = Partition(
            rows_shape=(images, tokens, channels),
            prefix=self.layout.prefix,
            grid=self.layout.grid(shape),
            outliers=np.array(at, dtype=np.int64),
            gains=np.array(gains, dtype=np.int64),
        )
        return partition, offset

    def _fineness(self, partition: Partition, step: float) -> Array:
        """[outliers, 1]: how much finer each is coded. Every token attends to outliers: no coarse step may lose one."""
        is_prefix = (partition.outliers % partition.rows_shape[1] < partition.prefix) & (partition.grid is not None)
        is_prefix &= np.abs(partition.gains - _GAIN_BIAS) <= _GAIN_OCTAVE * np.log2(OUTLIER_RATIO)
        finer = self._finer * max(1.0, step / _COARSEST_OUTLIER)
        return np.where(is_prefix, 1.0, finer)[:, None]


def out_of_range() -> InputError:
    """The error that an encoder raises for values out of the range of its arithmetic."""
    return InputError(
        field="features",
        problem="values out of the range that the profile was fitted on",
        remedy="Use codec 'raw', or fit a profile on such features",
    )


def write_partition(partition: Partition) -> bytes:
    """Number of outlier rows, then for each the rows skipped before it and its gain."""
    skips = np.diff(partition.outliers, prepend=-1) - 1
    pairs = zip(skips.tolist(), partition.gains.tolist(), strict=True)
    return write_varint(len(partition.outliers)) + b"".join(
        write_varint(skip) + write_varint(gain) for skip, gain in pairs
    )


def write_sparse(q: Array, at: Array) -> bytes:
    """The integers of a flat array at these ascending positions: positions skipped, then the number, sign last."""
    skips = np.diff(at, prepend=-1) - 1
    pairs = zip(skips.tolist(), q[at].tolist(), strict=True)
    return b"".join(write_varint(skip) + write_varint(2 * abs(value) + (value < 0)) for skip, value in pairs)


def read_sparse(data: bytes, q: Array) -> None:
    """Reads what `write_sparse` wrote into a flat array. Raises Corrupt."""
    offset, position = 0, -1
    while offset < len(data):
        skip, offset = read_varint(data, offset)
        folded, offset = read_varint(data, offset)
        position += skip + 1
        if position >= q.size or folded >= 1 << 32:
            raise Corrupt(problem="a sparse residual out of range")
        q[position] = -(folded >> 1) if folded & 1 else folded >> 1


def _from_lowest(grid: tuple[int, int]) -> Array:
    """Positions of the frequencies, by rising radius."""
    return np.argsort(squared_radii(grid), kind="stable")


def _gains(indices: Array) -> Array:
    per_gain = OCTAVE // _GAIN_OCTAVE
    return np.array([power_of_two((int(index) - _GAIN_BIAS) * per_gain) for index in indices])
