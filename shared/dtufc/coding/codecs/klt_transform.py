"""Features <-> coefficients: a basis over the channels and a DCT over the tokens, for the codecs on top of it.

    features --rows--> ordinary rows --(x - mean) F--> z --DCT over grid or block--> / gain --> coefficients
                       outlier rows  --(x / g - centre) F----------------------------------> coefficients

Outlier rows are the prefix tokens of a grid and the rows whose root mean square differs from the reference RMS by more
than a factor (the massive activations of a decoder's first token). Each outlier row is divided by a gain g of its own,
so that nothing is clipped.

Focus rows are ordinary rows that an encoder codes finer, each by a factor of its own: those that a result depends on
most, as the last token of a prompt.

Where tokens form no grid, other rows form blocks in their order: as many as possible of the profile's length, and
then each half as long as the one before, down to one row. With no such length every row is isolated.

Hides how outlier rows are found and written. Quantization is up to the codecs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Self

import numpy as np

from dtufc.coding.arrays import Array
from dtufc.coding.bitstream import read_varint, write_varint
from dtufc.coding.codecs.basis import Basis
from dtufc.coding.codecs.calibration import (
    OUTLIER_RATIO,
    Calibration,
    bands_of,
    from_arrays,
    is_outlier_row,
    row_rms,
    squared_radii,
)
from dtufc.coding.codecs.exact import OCTAVE, dct_gain_bits, forward_dct, power_of_two, transposed_dct
from dtufc.coding.layout import Layout
from dtufc.errors import Corrupt, InputError
from dtufc.interruption import checkpoint

_GAIN_OCTAVE: Final = 16
_GAIN_BIAS: Final = 256  # gains are 2^((index - 256) / 16), index < 512
_FOCUS: Final = 2 * _GAIN_BIAS  # from here on, 2^((index - 512) / 16) is how much finer a focus row is coded
_MAX_FOCUS: Final = 16 * _GAIN_OCTAVE
_MIN_EXACT_BITS: Final = 16  # of z, for a profile to be of use
BODY_BITS: Final = 8  # decoded coefficients of grids and blocks are multiples of 2^-8
_CHUNK_ROWS: Final = 64
_COARSEST_OUTLIER: Final = 4.0  # the step beyond which outliers are coded no coarser


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Grids, or blocks, of one size.

    Attributes:
        count: how many.
        size: (height, width); of a block (length, 1).
        kinds: [height width], the row of `gain` and `log_sigma` for each frequency.
    """

    count: int
    size: tuple[int, int]
    kinds: Array

    @property
    def num_rows(self) -> int:
        return self.count * self.size[0] * self.size[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """The partition of one feature's rows.

    Attributes:
        rows_shape: images, tokens, channels.
        prefix: tokens of each image before its grid.
        on_grid: whether tokens form a grid.
        outliers: indices of the outlier and focus rows among all rows, ascending.
        gains: their gain indices.
        isolated: indices of the rows that are coded without a DCT, ascending: the outliers, or all.
        body: indices of the other rows, ascending. Those of a grid have its outliers among them.
        groups: what the body consists of, in its order.
    """

    rows_shape: tuple[int, int, int]
    prefix: int
    on_grid: bool
    outliers: Array
    gains: Array
    isolated: Array
    body: Array
    groups: tuple[Group, ...]

    @property
    def num_rows(self) -> int:
        """Rows of coefficients: the isolated tokens, then the body's frequencies."""
        return len(self.isolated) + len(self.body)

    @property
    def kinds(self) -> Array:
        """[rows of coefficients], the row of `gain` and `log_sigma` for each."""
        body = [np.tile(group.kinds, group.count) for group in self.groups]
        are_listed = len(self.isolated) == len(self.outliers)
        isolated = self.is_focus.astype(np.int64) if are_listed else np.zeros(len(self.isolated), np.int64)
        return np.concatenate([isolated, *body])

    @property
    def is_focus(self) -> Array:
        """[outliers], which of them are focus rows."""
        return self.gains >= _FOCUS

    @property
    def scales(self) -> Array:
        """[outliers, 1], what each is divided by."""
        return np.where(self.is_focus, 1.0, _powers(np.minimum(self.gains, _FOCUS) - _GAIN_BIAS))[:, None]

    def chunks(self) -> Iterator[tuple[slice, Group]]:
        """(rows of the body, the grids or blocks there), a few at a time, so that they stay in a processor's cache.

        Before each is a checkpoint.
        """
        start = 0
        for group in self.groups:
            at_once = max(1, _CHUNK_ROWS // len(group.kinds))
            for done in range(0, group.count, at_once):
                checkpoint()
                part = replace(group, count=min(at_once, group.count - done))
                yield slice(start, start + part.num_rows), part
                start += part.num_rows

    @property
    def num_active(self) -> int:
        """How many rows of coefficients, the first, have an activity."""
        return len(self.isolated) if self.on_grid else self.num_rows


class KltTransform:
    """One fitted transform, in floating point unless stated otherwise."""

    def __init__(self, calibration: Calibration, layout: Layout) -> None:
        c = self.c = calibration
        self.layout = layout
        self.basis = Basis(c.basis, float(c.head_scale[0]), c.reflections, c.order, c.scale)
        self.gain = np.broadcast_to(c.gain, (len(c.gain), self.basis.channels))
        self._finer = float(c.rounding[2])
        self._mean, self._centre = c.mean + 0.0, c.centre + 0.0  # no -0.0, nor then in a sum

    @classmethod
    def from_arrays(cls, arrays: dict[str, Array], layout: Layout) -> Self:
        """Reads the arrays that a profile keeps for `klt`. Raises InputError if they are damaged."""
        calibration = from_arrays(arrays)
        transform = cls(calibration, layout) if calibration else None
        if transform is None or transform.basis.exact_bits < _MIN_EXACT_BITS or not transform.basis.is_regular:
            raise InputError(field="profile", problem="the arrays of klt are damaged", remedy="Restore the profile")
        return transform

    def rows(self, features: Array) -> Array:
        """[images, tokens, C] float32. Raises InputError if the number of channels differs from the fit."""
        rows = self.layout.to_rows(features.astype(np.float32))
        if rows.shape[-1] != self.basis.channels:
            problem = f"{rows.shape[-1]} channels, fitted for {self.basis.channels}"
            raise InputError(field="features", problem=problem, remedy="Use the profile of this model")
        return rows

    def rows_shape(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """(images, tokens, C) of the decoded rows. Raises Corrupt if the number of channels differs from the fit."""
        rows_shape = self.layout.rows_shape(shape)
        if rows_shape[-1] != self.basis.channels:
            raise Corrupt(problem=f"{rows_shape[-1]} channels, not {self.basis.channels}")
        return rows_shape

    def split(
        self, rows: Array, shape: tuple[int, ...], *, focus: Sequence[int] = (), in_blocks: bool = True
    ) -> Partition:
        """Finds the outlier rows: the prefix of each grid, and the rows of unusual RMS.

        Args:
            rows: result of `rows`.
            shape: of the features.
            focus: rows to code finer; for features in blocks.
            in_blocks: False leaves every row isolated where tokens form no grid.
        """
        grid = self.layout.grid(shape)
        sizes = row_rms(rows)
        reference_rms = float(self.c.reference_rms[0])
        is_outlier = is_outlier_row(sizes, reference_rms, on_grid=grid is not None)
        if grid:
            is_outlier[:, : self.layout.prefix] = True
        at = np.flatnonzero(is_outlier)
        logs = np.log2(np.maximum(sizes.ravel()[at] / reference_rms, 2.0**-20))
        gains = np.clip(np.rint(logs * _GAIN_OCTAVE).astype(np.int64) + _GAIN_BIAS, 0, _FOCUS - 1)
        if self.c.block[0] and in_blocks:
            finer = np.setdiff1d(np.array(focus, dtype=np.int64), at)
            listed = np.concatenate([at, finer])
            index = _FOCUS + round(_GAIN_OCTAVE * np.log2(self._finer))
            order = np.argsort(listed)
            at, gains = listed[order], np.concatenate([gains, np.full(len(finer), index)])[order]
        return self._partition(shape, at, gains, in_blocks=in_blocks)

    def isolated(self, rows: Array, partition: Partition, step: float) -> Array:
        """[rows, C], z of the isolated tokens, for a quantizer of this step."""
        at = partition.isolated
        flat = rows.reshape(-1, rows.shape[-1])[at].astype(np.float64) - self.c.mean
        is_outlier = np.isin(at, partition.outliers)
        chosen = rows.reshape(-1, rows.shape[-1])[partition.outliers]
        flat[is_outlier] = (chosen / partition.scales - self._centres(partition)) * self._fineness(partition, step)
        return self.basis.to_components(flat.astype(np.float32))

    def spectrum(self, rows: Array, partition: Partition) -> Array:
        """[rows of the body, C]: its coefficients, divided by their gains.

        Raises:
            InputError: values are out of the range in which a decoder is exact.
        """
        flat, mean = rows.reshape(-1, rows.shape[-1]), self.c.mean.astype(np.float32)
        is_listed = np.zeros(len(flat), bool)
        is_listed[partition.outliers] = True
        z = np.empty((len(partition.body), flat.shape[1]), np.float32)
        for at, group in partition.chunks():
            centred = flat[partition.body[at]] - mean
            centred[is_listed[partition.body[at]]] = 0  # of a grid
            part = self.basis.to_components(centred).reshape(group.count, len(group.kinds), -1)
            part = forward_dct(part, *group.size)
            if not np.abs(part).max() < self.body_limit(group.size) * 2.0 ** -(BODY_BITS + 1):
                raise out_of_range()
            np.divide(part, self.gain[group.kinds], out=z[at].reshape(part.shape))
        return z

    def body_limit(self, size: tuple[int, int]) -> float:
        """The largest coefficient, in multiples of 2^-8, for which every sum of the decoder is exact."""
        return 2.0 ** (self.basis.exact_bits - sum(dct_gain_bits(side) for side in size))

    def forward(self, features: Array) -> tuple[Array, Partition]:
        """([rows, C] float32, the isolated tokens and then each image's frequencies from the lowest up; the partition).

        Where tokens form no grid, all are isolated.

        Raises:
            InputError: the number of channels differs from the fit.
        """
        rows = self.rows(features)
        partition = self.split(rows, features.shape, in_blocks=False)
        isolated = self.isolated(rows, partition, 1.0)
        if not partition.on_grid:
            return isolated, partition
        (group,) = partition.groups
        spectrum = self.spectrum(rows, partition).reshape(group.count, -1, rows.shape[-1])
        ordered = spectrum[:, _from_lowest(group.size)]
        return np.concatenate([isolated, ordered.reshape(-1, rows.shape[-1])]), partition

    def inverse(self, coefficients: Array, partition: Partition, shape: tuple[int, ...]) -> Array:
        """The inverse of `forward`, float64, of features of `shape`."""
        num_isolated, channels = len(partition.isolated), partition.rows_shape[-1]
        body = np.empty((0, channels))
        for group in partition.groups:
            spectrum = np.empty((group.count, len(group.kinds), channels))
            spectrum[:, _from_lowest(group.size)] = coefficients[num_isolated:].reshape(spectrum.shape)
            z = transposed_dct(spectrum * self.gain[group.kinds], *group.size)
            body = self.basis.to_channels_fast(z.reshape(-1, channels))
        isolated = self.basis.to_channels_fast(coefficients[:num_isolated].astype(np.float64))
        rows = self.assembled(isolated, body, partition, 1.0)
        return self.layout.from_rows(rows.reshape(partition.rows_shape), shape)

    def assembled(self, isolated: Array, body: Array, partition: Partition, step: float) -> Array:
        """[images tokens, C] float64 from centred values: [isolated, C] and [rows of the body, C].

        The same operands give the same bits on every machine.
        """
        images, tokens, channels = partition.rows_shape
        rows: Array = np.zeros((images * tokens, channels))
        rows[partition.body] = body
        rows[partition.isolated] = isolated
        rows += self._mean
        outliers = isolated[np.searchsorted(partition.isolated, partition.outliers)]
        residual = outliers * (1 / self._fineness(partition, step))
        rows[partition.outliers] = (residual + self._centres(partition)) * partition.scales
        return rows

    def read_partition(
        self, data: bytes, offset: int, shape: tuple[int, ...], *, in_blocks: bool = True
    ) -> tuple[Partition, int]:
        """Reads what `write_partition` wrote; returns it and the offset behind it. Raises Corrupt."""
        images, tokens, _ = self.rows_shape(shape)
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
        if row >= images * tokens or max(gains, default=0) >= self._gain_limit(in_blocks):
            raise Corrupt(problem="an outlier row out of range")
        outliers, indices = np.array(at, dtype=np.int64), np.array(gains, dtype=np.int64)
        return self._partition(shape, outliers, indices, in_blocks=in_blocks), offset

    def _partition(self, shape: tuple[int, ...], outliers: Array, gains: Array, *, in_blocks: bool) -> Partition:
        images, tokens, channels = self.layout.rows_shape(shape)
        prefix, grid = self.layout.prefix, self.layout.grid(shape)
        every = np.arange(images * tokens)
        isolated, body = every, every[:0]
        groups: tuple[Group, ...] = ()
        if grid:
            isolated, body = outliers, every.reshape(images, tokens)[:, prefix:].ravel()
            groups = (Group(count=images, size=grid, kinds=bands_of(self.c.edges, grid)),)
        elif in_blocks and self.c.block[0]:
            isolated, body = outliers, np.delete(every, outliers)
            groups = _blocks(len(body), int(self.c.block[0]))
        return Partition(
            rows_shape=(images, tokens, channels),
            prefix=prefix,
            on_grid=grid is not None,
            outliers=outliers,
            gains=gains,
            isolated=isolated,
            body=body,
            groups=groups,
        )

    def _gain_limit(self, in_blocks: bool) -> int:
        return _FOCUS + (_MAX_FOCUS + 1 if in_blocks and self.c.block[0] else 0)

    def _centres(self, partition: Partition) -> Array:
        """[outliers, C], what is subtracted from each."""
        return np.where(partition.is_focus[:, None], self._mean, self._centre)

    def _fineness(self, partition: Partition, step: float) -> Array:
        """[outliers, 1]: how much finer each is coded. Every token attends to outliers: no coarse step may lose one."""
        is_prefix = (partition.outliers % partition.rows_shape[1] < partition.prefix) & partition.on_grid
        is_prefix &= np.abs(partition.gains - _GAIN_BIAS) <= _GAIN_OCTAVE * np.log2(OUTLIER_RATIO)
        finer = self._finer * max(1.0, step / _COARSEST_OUTLIER)
        finest = np.where(is_prefix, 1.0, finer)
        focus = _powers(partition.gains[partition.is_focus] - _FOCUS)
        finest[partition.is_focus] = focus
        return finest[:, None]


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


def _blocks(num_rows: int, longest: int) -> tuple[Group, ...]:
    """The groups of this many rows: blocks of the longest length, then at most one of each shorter power of two."""
    groups, length = [], longest
    while num_rows:
        count, num_rows = divmod(num_rows, length)
        if count:
            groups.append(Group(count=count, size=(length, 1), kinds=length + np.arange(length)))
        length //= 2
    return tuple(groups)


def _from_lowest(grid: tuple[int, int]) -> Array:
    """Positions of the frequencies, by rising radius."""
    return np.argsort(squared_radii(grid), kind="stable")


def _powers(indices: Array) -> Array:
    """2^(index / 16)"""
    per_index = OCTAVE // _GAIN_OCTAVE
    return np.array([power_of_two(int(index) * per_index) for index in indices])
