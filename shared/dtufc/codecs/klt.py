"""Calibrated transform coding: a KLT over the channels, a DCT over the tokens' picture, one step, static tables.

    features --rows--> ordinary rows --(x - mean) F--> z --DCT over the grid--> c --/ (step gain)--> q --rANS--> bytes
                       rows apart    --(x / g - centre) F----------------> z --/ step-------------> q --rANS--> bytes

Rows apart are the prefix tokens and the rows whose root mean square is far from the usual one (the massive
activations of a decoder's first token): each is brought to the usual size by a gain g of its own, so that nothing is
clipped. Where tokens are no picture there is no DCT, and every row has an activity that shifts its tables.

Decoding is exact: `exact` says how, `docs/bitstream.md` ("klt") is the norm of the payload. What is fitted, and how,
is in `klt_fit`.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property, partial
from typing import Any, ClassVar, Final, Self

import numpy as np

from dtufc.arrays import Array
from dtufc.bitstream import CodecId, read_varint, write_varint
from dtufc.codecs import Payload
from dtufc.codecs.calibration import (
    ACTIVITY_MIN,
    BASIS_BITS,
    CLASS_MAX,
    CLASS_MIN,
    FAR,
    Calibration,
    activity_of,
    bands_of,
    class_of,
    is_apart,
    is_sound,
    pack_basis,
    unpack_basis,
)
from dtufc.codecs.exact import EXACT_BITS, OCTAVE, dct_gain_bits, forward_dct, inverse_dct, power_of_two
from dtufc.codecs.klt_fit import fit
from dtufc.entropy import Decoder, Encoder, Tables
from dtufc.errors import Corrupt, InputError
from dtufc.features import to_dtype
from dtufc.layout import Layout

STEP_BIAS: Final = 16 * OCTAVE  # step indices are sent without a sign
_FRACTION: Final = 16.0  # reconstruction is in sixteenths of a step
_GRID_BITS: Final = 8  # decoded coefficients of a grid are multiples of 2^-8
_GAIN_OCTAVE: Final = 16
_GAIN_BIAS: Final = 256  # gains are 2^((index - 256) / 16), index < 512
_COARSEST_OUTLIER: Final = 4.0  # the step beyond which outliers are coded no coarser
_STRAY: Final = 2  # symbols of uncoded units are sent one by one from this size


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
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


class KltCodec:
    """Features -> payload by one step size, in units of a typical component; quality goes by its logarithm."""

    id: ClassVar = CodecId.klt
    has_rate: ClassVar = True

    def __init__(self, calibration: Calibration, layout: Layout) -> None:
        self._c = calibration
        self._layout = layout
        self._basis = calibration.basis.astype(np.float64)
        ends = np.cumsum(calibration.sizes)[:-1]
        self._tables = Tables(np.split(calibration.frequencies, ends), escape=True)
        self._activity = Tables([calibration.activity], escape=False)
        self._rounding, self._shift, self._finer = (float(value) for value in calibration.rounding)
        self._symbol_limit = 1 << (EXACT_BITS - BASIS_BITS - 5 - len(self._basis).bit_length())

    @cached_property
    def _forward(self) -> Array:
        """[C, C] float32: z = (x - mean) @ forward. The encoder's alone: it need not be exact."""
        return np.linalg.inv(self._basis * self._c.scale).astype(np.float32)

    @classmethod
    def fit(cls, samples: Sequence[Array], layout: Layout, gradients: Sequence[Array] | None = None) -> Self:
        """Learns from about ten features; see `klt_fit.fit`."""
        return cls(fit(samples, layout, gradients), layout)

    @classmethod
    def from_arrays(cls, arrays: dict[str, Array], layout: Layout) -> Self:
        damaged = InputError(field="profile", problem="the arrays of klt are damaged", remedy="Restore the profile")
        if set(arrays) != {field.name for field in fields(Calibration)}:
            raise damaged
        calibration = Calibration(**{**arrays, "basis": unpack_basis(arrays["basis"])})
        if not is_sound(calibration):
            raise damaged
        return cls(calibration, layout)

    def arrays(self) -> dict[str, Array]:
        return {**asdict(self._c), "basis": pack_basis(self._c.basis)}

    def encoder(self, features: Array) -> Callable[[float], Payload]:
        """Features of any type and shape that the layout knows, finite.

        Raises:
            InputError: another number of channels than was fitted, or values beyond the exact range.
        """
        rows = self._layout.to_rows(features.astype(np.float32))  # [images, tokens, C]
        if rows.shape[-1] != len(self._basis):
            problem = f"{rows.shape[-1]} channels, fitted for {len(self._basis)}"
            raise InputError(field="features", problem=problem, remedy="Use the profile of this model")
        return partial(self._encode, rows, features.shape)

    @np.errstate(over="ignore", invalid="ignore")  # what overflows is found, and refused, in _quantize
    def _encode(self, rows: Array, shape: tuple[int, ...], quality: float) -> Payload:
        coarsest, finest = (int(step) for step in self._c.steps)
        step_index = coarsest - round(quality * (coarsest - finest))
        parts = self._split(rows, shape)
        singles = self._singles(rows, parts, step_index)
        sigma = np.exp2(self._c.log_sigma[0] / OCTAVE)
        activity = activity_of(singles, sigma, self._c.mean_abs, power_of_two(step_index))
        units = self._units(parts, activity, step_index)
        q = self._quantize(np.concatenate([singles.ravel(), self._spectrum(rows, parts)]), step_index)
        encoder = Encoder()
        encoder.write(self._activity, 0, activity - ACTIVITY_MIN)
        for row, positions in units:
            encoder.write(self._tables, row, q[positions])
            q[positions] = 0
        strays = _write_sparse(q)
        head = write_varint(step_index + STEP_BIAS) + _write_apart(parts) + write_varint(len(strays)) + strays
        return Payload(data=head + encoder.finish(), symbol_crc=encoder.crc)

    def decode(self, payload: Payload, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        rows_shape = self._layout.rows_shape(shape)
        if rows_shape[-1] != len(self._basis):
            raise Corrupt(problem=f"{rows_shape[-1]} channels, not {len(self._basis)}")
        step_index, offset = read_varint(payload.data, 0)
        step_index -= STEP_BIAS
        if step_index > STEP_BIAS:
            raise Corrupt(problem="a step beyond all measure")
        parts, offset = self._read_parts(payload.data, offset, shape)
        num_strays, offset = read_varint(payload.data, offset)
        strays, coded = payload.data[offset : offset + num_strays], payload.data[offset + num_strays :]
        decoder = Decoder(coded)
        activity = decoder.read(self._activity, 0, len(parts.singles)) + ACTIVITY_MIN
        q = np.zeros(self._num_symbols(parts), dtype=np.int32)
        for row, positions in self._units(parts, activity, step_index):
            q[positions] = decoder.read(self._tables, row, len(positions))
        decoder.finish(payload.symbol_crc)
        _read_sparse(strays, q)
        if np.abs(q).max(initial=0) >= self._symbol_limit:
            raise Corrupt(problem="a symbol beyond the exact range")
        features = to_dtype(self._reconstruct(q, parts, step_index), dtype)
        return self._layout.from_rows(features.reshape(rows_shape), shape)

    # Encoder

    def _split(self, rows: Array, shape: tuple[int, ...]) -> _Parts:
        """Finds the rows apart: the prefix of each grid, and those of unusual size."""
        channels = rows.shape[-1]
        grid = self._layout.grid(shape)
        sizes = np.sqrt(np.einsum("itc,itc->it", rows, rows, dtype=np.float64) / channels)
        typical = float(self._c.typical[0])
        apart = is_apart(sizes, typical, on_grid=grid is not None)
        if grid:
            apart[:, : self._layout.prefix] = True
        at = np.flatnonzero(apart)
        logs = np.log2(np.maximum(sizes.ravel()[at] / typical, 2.0**-20))
        gains = np.clip(np.rint(logs * _GAIN_OCTAVE).astype(np.int64) + _GAIN_BIAS, 0, 2 * _GAIN_BIAS - 1)
        return _Parts(
            rows_shape=self._layout.rows_shape(shape), prefix=self._layout.prefix, grid=grid, apart=at, gains=gains
        )

    def _singles(self, rows: Array, parts: _Parts, step_index: int) -> Array:
        """[rows, C], z of the rows that are coded one by one."""
        at = parts.singles
        flat = rows.reshape(-1, rows.shape[-1])[at].astype(np.float64) - self._c.mean
        is_apart = np.isin(at, parts.apart)
        normal = rows.reshape(-1, rows.shape[-1])[parts.apart] / _gains(parts.gains)[:, None]
        flat[is_apart] = (normal - self._c.centre) * self._fineness(parts, step_index)
        return flat.astype(np.float32) @ self._forward

    def _spectrum(self, rows: Array, parts: _Parts) -> Array:
        """Flat [images, h w, C]: coefficients of the grids, divided by their gains; empty without a grid."""
        if parts.grid is None:
            return np.empty(0, np.float32)
        centred: Array = rows - self._c.mean.astype(np.float32)
        centred.reshape(-1, rows.shape[-1])[parts.apart] = 0
        z = centred[:, parts.prefix :] @ self._forward
        spectrum = forward_dct(z, *parts.grid)
        if not np.abs(spectrum).max() < self._grid_limit(parts.grid) * 2.0 ** -(_GRID_BITS + 1):
            raise _too_large()
        return (spectrum / self._c.gain[bands_of(self._c.edges, parts.grid)]).ravel()

    def _quantize(self, c: Array, step_index: int) -> Array:
        magnitude = np.floor(np.abs(c) * np.float32(1 / power_of_two(step_index)) + np.float32(self._rounding))
        if not magnitude.max(initial=0) < self._symbol_limit:
            raise _too_large()
        return np.copysign(magnitude, c).astype(np.int32)

    # Both ways

    def _grid_limit(self, grid: tuple[int, int]) -> float:
        """The largest coefficient, in multiples of 2^-8, for which every sum of the decoder is exact."""
        gained = BASIS_BITS + len(self._basis).bit_length() + sum(dct_gain_bits(size) for size in grid)
        return 2.0 ** (EXACT_BITS - gained)

    def _fineness(self, parts: _Parts, step_index: int) -> Array:
        """[rows apart, 1]: how much finer each is coded. Every token reads an outlier: no coarse step may lose it."""
        is_prefix = (parts.apart % parts.rows_shape[1] < parts.prefix) & (parts.grid is not None)
        is_prefix &= np.abs(parts.gains - _GAIN_BIAS) <= _GAIN_OCTAVE * np.log2(FAR)
        finer = self._finer * max(1.0, power_of_two(step_index) / _COARSEST_OUTLIER)
        return np.where(is_prefix, 1.0, finer)[:, None]

    def _num_symbols(self, parts: _Parts) -> int:
        images, tokens, channels = parts.rows_shape
        return (len(parts.singles) + (images * (tokens - parts.prefix) if parts.grid else 0)) * channels

    def _units(self, parts: _Parts, activity: Array, step_index: int) -> list[tuple[int, Array]]:
        """(table, positions of its symbols), from the lowest class up; symbols in none of them are zero."""
        base = class_of(self._c.log_sigma[0].astype(np.int32) - step_index)  # [C]
        singles = (base + activity[:, None]).ravel()
        positions = np.flatnonzero(singles >= CLASS_MIN)
        classes = singles[positions]
        if parts.grid:
            grid_classes, grid_positions = self._grid_units(parts, step_index)
            classes = np.concatenate([classes, grid_classes])
            positions = np.concatenate([positions, singles.size + grid_positions])
        rows = (np.minimum(classes, CLASS_MAX) - CLASS_MIN).astype(np.uint8)
        positions = positions[np.argsort(rows, kind="stable")]  # of bytes: a radix sort
        ends = np.cumsum(np.bincount(rows, minlength=len(self._tables.rows)))
        runs = zip(range(len(ends)), np.split(positions, ends[:-1]), strict=True)
        return [(row, run) for row, run in runs if len(run)]

    def _grid_units(self, parts: _Parts, step_index: int) -> tuple[Array, Array]:
        """(class, position) of each coded coefficient of the grids."""
        assert parts.grid is not None
        images = parts.rows_shape[0]
        classes = class_of(self._c.log_sigma.astype(np.int32) - step_index)  # [1 + B, C]
        by_token = classes[bands_of(self._c.edges, parts.grid)].ravel()
        positions = np.flatnonzero(by_token >= CLASS_MIN)
        offsets = np.arange(images) * len(by_token)
        return np.tile(by_token[positions], images), (offsets[:, None] + positions).ravel()

    # Decoder

    def _read_parts(self, data: bytes, offset: int, shape: tuple[int, ...]) -> tuple[_Parts, int]:
        images, tokens, channels = self._layout.rows_shape(shape)
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
        grid = self._layout.grid(shape)
        parts = _Parts(
            rows_shape=(images, tokens, channels),
            prefix=self._layout.prefix,
            grid=grid,
            apart=np.array(at, dtype=np.int64),
            gains=np.array(gains, dtype=np.int64),
        )
        return parts, offset

    def _reconstruct(self, q: Array, parts: _Parts, step_index: int) -> Array:
        """[images tokens, C] float64, the same bits everywhere."""
        images, tokens, channels = parts.rows_shape
        rows = np.zeros((images * tokens, channels))
        num_singles = len(parts.singles) * channels
        step = power_of_two(step_index)
        if parts.grid:
            z, used = self._grid_values(q[num_singles:], parts, step)
            x = z @ self._basis[used] * (self._c.scale * 2.0**-_GRID_BITS)
            rows.reshape(images, tokens, channels)[:, parts.prefix :] = x.reshape(images, -1, channels)
            rows += self._c.mean
        singles = self._sixteenths(q[:num_singles]).reshape(-1, channels) @ self._basis
        singles *= self._c.scale * (step / _FRACTION)
        if not parts.grid:
            rows = singles + self._c.mean
        apart = singles if parts.grid else singles[parts.apart]
        residual = apart * (1 / self._fineness(parts, step_index))
        rows[parts.apart] = (residual + self._c.centre) * _gains(parts.gains)[:, None]
        return rows

    def _grid_values(self, q: Array, parts: _Parts, step: float) -> tuple[Array, Array]:
        """z of the grids [images h w, used], integers times 2^-8; and which components are used: the rest is zero."""
        assert parts.grid is not None
        channels = parts.rows_shape[-1]
        unit = self._c.gain.astype(np.float64) * (step * 2.0**_GRID_BITS / _FRACTION)
        nonzero = np.flatnonzero(q)
        token, channel = np.divmod(nonzero, channels)
        band = bands_of(self._c.edges, parts.grid)[token % (parts.grid[0] * parts.grid[1])]
        limit = self._grid_limit(parts.grid)
        values = np.rint(self._sixteenths(q[nonzero]) * unit[band, channel])
        used, column = np.unique(channel, return_inverse=True)
        c = np.zeros((q.size // channels, len(used)))
        if not len(used):
            return c, used
        c[token, column] = np.clip(values, -limit, limit)
        return inverse_dct(c, *parts.grid), used

    def _sixteenths(self, q: Array) -> Array:
        wide = q.astype(np.float64)
        return wide * _FRACTION + np.sign(wide) * self._shift


def _too_large() -> InputError:
    return InputError(
        field="features",
        problem="values far beyond those that the profile was fitted on",
        remedy="Use codec 'raw', or fit a profile on such features",
    )


def _gains(indices: Array) -> Array:
    per_gain = OCTAVE // _GAIN_OCTAVE
    return np.array([power_of_two((int(index) - _GAIN_BIAS) * per_gain) for index in indices])


def _write_apart(parts: _Parts) -> bytes:
    """Number of rows apart, then for each the rows skipped before it and its gain."""
    skips = np.diff(parts.apart, prepend=-1) - 1
    pairs = zip(skips.tolist(), parts.gains.tolist(), strict=True)
    return write_varint(len(parts.apart)) + b"".join(write_varint(skip) + write_varint(gain) for skip, gain in pairs)


def _write_sparse(q: Array) -> bytes:
    """Large symbols of units that are not coded: positions skipped, then the symbol, sign last."""
    at = np.flatnonzero(np.abs(q) >= _STRAY)
    skips = np.diff(at, prepend=-1) - 1
    pairs = zip(skips.tolist(), q[at].tolist(), strict=True)
    return b"".join(write_varint(skip) + write_varint(2 * abs(value) + (value < 0)) for skip, value in pairs)


def _read_sparse(data: bytes, q: Array) -> None:
    offset, position = 0, -1
    while offset < len(data):
        skip, offset = read_varint(data, offset)
        folded, offset = read_varint(data, offset)
        position += skip + 1
        if position >= q.size or folded >= 1 << 32:
            raise Corrupt(problem="a stray symbol beyond the feature")
        q[position] = -(folded >> 1) if folded & 1 else folded >> 1
