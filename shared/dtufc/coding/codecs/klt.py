"""Calibrated transform coding: a KLT over the channels, a DCT over the token grid, one step, static tables.

    features --klt_transform--> coefficients --/ (step gain)--> q --rANS--> bytes

Where tokens form no grid, every row has an activity that shifts its tables.

Decoding is exact: `exact` says how. `docs/bitstream.md` ("klt") specifies the payload. `klt_fit` says what is fitted,
and how.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, ClassVar, Final, Self

import numpy as np

from dtufc.coding.arrays import Array
from dtufc.coding.bitstream import CodecId, read_varint, write_varint
from dtufc.coding.codecs import Payload
from dtufc.coding.codecs.calibration import (
    ACTIVITY_MIN,
    BASIS_BITS,
    CLASS_MAX,
    CLASS_MIN,
    activity_of,
    class_of,
    pack_basis,
)
from dtufc.coding.codecs.exact import EXACT_BITS, OCTAVE, dct_gain_bits, inverse_dct, power_of_two
from dtufc.coding.codecs.klt_fit import fit
from dtufc.coding.codecs.klt_transform import (
    KltTransform,
    Partition,
    out_of_range,
    read_sparse,
    write_partition,
    write_sparse,
)
from dtufc.coding.entropy import Decoder, Encoder, Tables
from dtufc.coding.features import to_dtype
from dtufc.coding.layout import Layout
from dtufc.errors import Corrupt

STEP_BIAS: Final = 16 * OCTAVE  # step indices are sent without a sign
_FRACTION: Final = 16.0  # reconstruction is in sixteenths of a step
_GRID_BITS: Final = 8  # decoded coefficients of a grid are multiples of 2^-8
_MIN_RESIDUAL: Final = 2  # uncoded symbols of this magnitude or more are sent as sparse residuals


class KltCodec:
    """Features -> payload by one step size, relative to the RMS of a component; quality is linear in its logarithm."""

    id: ClassVar = CodecId.klt
    has_rate: ClassVar = True

    def __init__(self, transform: KltTransform) -> None:
        self.transform, self._c = transform, transform.c
        ends = np.cumsum(self._c.sizes)[:-1]
        self._tables = Tables(np.split(self._c.frequencies, ends), escape=True)
        self._activity = Tables([self._c.activity], escape=False)
        self._rounding, self._shift = (float(value) for value in self._c.rounding[:2])
        self._symbol_limit = 1 << (EXACT_BITS - BASIS_BITS - 5 - len(transform.basis).bit_length())

    @classmethod
    def fit(cls, samples: Sequence[Array], layout: Layout, gradients: Sequence[Array] | None = None) -> Self:
        """Fits the codec to about ten features; see `klt_fit.fit`."""
        return cls(KltTransform(fit(samples, layout, gradients), layout))

    @classmethod
    def from_arrays(cls, arrays: dict[str, Array], layout: Layout) -> Self:
        return cls(KltTransform.from_arrays(arrays, layout))

    def arrays(self) -> dict[str, Array]:
        return {**asdict(self._c), "basis": pack_basis(self._c.basis)}

    def encoder(self, features: Array) -> Callable[[float], Payload]:
        """Features of any type and shape that the layout knows, finite.

        Raises:
            InputError: the number of channels differs from the fit, or values are out of the exact range.
        """
        return partial(self._encode, self.transform.rows(features), features.shape)

    @np.errstate(over="ignore", invalid="ignore")  # _quantize detects overflow and rejects it
    def _encode(self, rows: Array, shape: tuple[int, ...], quality: float) -> Payload:
        coarsest, finest = (int(step) for step in self._c.steps)
        step_index = coarsest - round(quality * (coarsest - finest))
        step = power_of_two(step_index)
        partition = self.transform.split(rows, shape)
        isolated = self.transform.isolated(rows, partition, step)
        sigma = np.exp2(self._c.log_sigma[0] / OCTAVE)
        activity = activity_of(isolated, sigma, self._c.mean_abs, step)
        runs = self._runs(partition, activity, step_index)
        q = self._quantize(np.concatenate([isolated.ravel(), self._grid_coefficients(rows, partition)]), step)
        encoder = Encoder()
        encoder.write(self._activity, 0, activity - ACTIVITY_MIN)
        for row, positions in runs:
            encoder.write(self._tables, row, q[positions])
            q[positions] = 0
        residuals = write_sparse(q, np.flatnonzero(np.abs(q) >= _MIN_RESIDUAL))
        head = (
            write_varint(step_index + STEP_BIAS) + write_partition(partition) + write_varint(len(residuals)) + residuals
        )
        return Payload(data=head + encoder.finish(), symbol_crc=encoder.crc)

    def decode(self, payload: Payload, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        rows_shape = self.transform.rows_shape(shape)
        step_index, offset = read_varint(payload.data, 0)
        step_index -= STEP_BIAS
        if step_index > STEP_BIAS:
            raise Corrupt(problem="a step index out of range")
        partition, offset = self.transform.read_partition(payload.data, offset, shape)
        num_residual_bytes, offset = read_varint(payload.data, offset)
        residuals, coded = (
            payload.data[offset : offset + num_residual_bytes],
            payload.data[offset + num_residual_bytes :],
        )
        decoder = Decoder(coded)
        activity = decoder.read(self._activity, 0, len(partition.isolated)) + ACTIVITY_MIN
        q = np.zeros(partition.num_rows * rows_shape[-1], dtype=np.int32)
        for row, positions in self._runs(partition, activity, step_index):
            q[positions] = decoder.read(self._tables, row, len(positions))
        decoder.finish(payload.symbol_crc)
        read_sparse(residuals, q)
        if np.abs(q).max(initial=0) >= self._symbol_limit:
            raise Corrupt(problem="a symbol out of the exact range")
        features = to_dtype(self._reconstruct(q, partition, step_index), dtype)
        return self.transform.layout.from_rows(features.reshape(rows_shape), shape)

    # Encoder

    def _grid_coefficients(self, rows: Array, partition: Partition) -> Array:
        """Flat [images, h w, C]: coefficients of the grids, divided by their gains; empty without a grid."""
        if partition.grid is None:
            return np.empty(0, np.float32)
        spectrum = self.transform.spectrum(rows, partition)
        if not np.abs(spectrum).max() < self._grid_limit(partition.grid) * 2.0 ** -(_GRID_BITS + 1):
            raise out_of_range()
        return (spectrum / self._c.gain[self.transform.bands(partition.grid)]).ravel()

    def _quantize(self, c: Array, step: float) -> Array:
        magnitude = np.floor(np.abs(c) * np.float32(1 / step) + np.float32(self._rounding))
        if not magnitude.max(initial=0) < self._symbol_limit:
            raise out_of_range()
        return np.copysign(magnitude, c).astype(np.int32)

    # Both ways

    def _grid_limit(self, grid: tuple[int, int]) -> float:
        """The largest coefficient, in multiples of 2^-8, for which every sum of the decoder is exact."""
        gained = BASIS_BITS + len(self.transform.basis).bit_length() + sum(dct_gain_bits(size) for size in grid)
        return 2.0 ** (EXACT_BITS - gained)

    def _runs(self, partition: Partition, activity: Array, step_index: int) -> list[tuple[int, Array]]:
        """(table, positions of its symbols), from the lowest class up; symbols in no run are zero."""
        base = class_of(self._c.log_sigma[0].astype(np.int32) - step_index)  # [C]
        isolated = (base + activity[:, None]).ravel()
        positions = np.flatnonzero(isolated >= CLASS_MIN)
        classes = isolated[positions]
        if partition.grid:
            grid_classes, grid_positions = self._grid_classes(partition, step_index)
            classes = np.concatenate([classes, grid_classes])
            positions = np.concatenate([positions, isolated.size + grid_positions])
        rows = (np.minimum(classes, CLASS_MAX) - CLASS_MIN).astype(np.uint8)
        positions = positions[np.argsort(rows, kind="stable")]  # of bytes: a radix sort
        ends = np.cumsum(np.bincount(rows, minlength=len(self._tables.rows)))
        runs = zip(range(len(ends)), np.split(positions, ends[:-1]), strict=True)
        return [(row, run) for row, run in runs if len(run)]

    def _grid_classes(self, partition: Partition, step_index: int) -> tuple[Array, Array]:
        """(class, position) of each coded coefficient of the grids."""
        assert partition.grid is not None
        images = partition.rows_shape[0]
        classes = class_of(self._c.log_sigma.astype(np.int32) - step_index)  # [1 + B, C]
        by_token = classes[self.transform.bands(partition.grid)].ravel()
        positions = np.flatnonzero(by_token >= CLASS_MIN)
        offsets = np.arange(images) * len(by_token)
        return np.tile(by_token[positions], images), (offsets[:, None] + positions).ravel()

    # Decoder

    def _reconstruct(self, q: Array, partition: Partition, step_index: int) -> Array:
        """[images tokens, C] float64, the same bits everywhere."""
        channels = partition.rows_shape[-1]
        num_isolated = len(partition.isolated) * channels
        step, grid = power_of_two(step_index), None
        if partition.grid:
            z, used = self._grid_values(q[num_isolated:], partition, step)
            grid = z @ self.transform.basis[used] * (self._c.scale * 2.0**-_GRID_BITS)
        isolated = self._sixteenths(q[:num_isolated]).reshape(-1, channels) @ self.transform.basis
        isolated *= self._c.scale * (step / _FRACTION)
        return self.transform.assembled(isolated, grid, partition, step)

    def _grid_values(self, q: Array, partition: Partition, step: float) -> tuple[Array, Array]:
        """z of the grids [images h w, used], integers times 2^-8, and the used components. The others are zero."""
        assert partition.grid is not None
        channels = partition.rows_shape[-1]
        sixteenth = self._c.gain.astype(np.float64) * (step * 2.0**_GRID_BITS / _FRACTION)
        nonzero = np.flatnonzero(q)
        token, channel = np.divmod(nonzero, channels)
        band = self.transform.bands(partition.grid)[token % (partition.grid[0] * partition.grid[1])]
        limit = self._grid_limit(partition.grid)
        values = np.rint(self._sixteenths(q[nonzero]) * sixteenth[band, channel])
        used, column = np.unique(channel, return_inverse=True)
        c = np.zeros((q.size // channels, len(used)))
        if not len(used):
            return c, used
        c[token, column] = np.clip(values, -limit, limit)
        return inverse_dct(c, *partition.grid), used

    def _sixteenths(self, q: Array) -> Array:
        wide = q.astype(np.float64)
        return wide * _FRACTION + np.sign(wide) * self._shift
