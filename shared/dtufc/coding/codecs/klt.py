"""Calibrated transform coding: a KLT over the channels, a DCT over the tokens, one step, static tables.

    features --klt_transform--> coefficients --/ (step gain)--> q --rANS--> bytes

Where tokens form no grid, every row of coefficients has an activity that shifts its tables.

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
    ACTIVITY_MAX,
    ACTIVITY_MIN,
    CLASS_MAX,
    CLASS_MIN,
    activity_of,
    class_of,
)
from dtufc.coding.codecs.exact import OCTAVE, inverse_dct, power_of_two
from dtufc.coding.codecs.klt_fit import FitReport, Progress, fit
from dtufc.coding.codecs.klt_transform import (
    BODY_BITS,
    Group,
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
from dtufc.interruption import checkpoint

STEP_BIAS: Final = 16 * OCTAVE  # step indices are sent without a sign
_FRACTION: Final = 16.0  # reconstruction is in sixteenths of a step
_SYMBOL_BITS: Final = 5  # of a symbol in sixteenths, its shift included, beyond those of the symbol
_CLASS_LIMITS: Final = (CLASS_MIN - ACTIVITY_MAX - 1, CLASS_MAX - ACTIVITY_MIN)  # beyond them an activity is no help
_SORTED: Final = 1 << 18  # positions that are sorted by class at a time, so that they stay in a processor's cache
_MIN_RESIDUAL: Final = 2  # uncoded symbols of this magnitude or more are sent as sparse residuals


class KltCodec:
    """Features -> payload by one step size, relative to the RMS of a component; quality is linear in its logarithm."""

    id: ClassVar = CodecId.klt
    has_rate: ClassVar = True

    def __init__(self, transform: KltTransform, report: FitReport | None = None) -> None:
        self.transform, self.report, self._c = transform, report, transform.c
        ends = np.cumsum(self._c.sizes)[:-1]
        self._tables = Tables(np.split(self._c.frequencies, ends), escape=True)
        self._activity = Tables([self._c.activity], escape=False)
        self._rounding, self._shift = (float(value) for value in self._c.rounding[:2])
        self._symbol_limit = 1 << min(transform.basis.exact_bits - _SYMBOL_BITS, 31)  # an int32 in any case

    @classmethod
    def fit(
        cls,
        samples: Sequence[Array],
        layout: Layout,
        gradients: Sequence[Array] | None = None,
        *,
        max_rank: int | None = None,
        progress: Progress = lambda share: None,
    ) -> Self:
        """Fits the codec to about ten features; see `klt_fit.fit`."""
        calibration, report = fit(samples, layout, gradients, max_rank=max_rank, progress=progress)
        return cls(KltTransform(calibration, layout), report)

    @classmethod
    def from_arrays(cls, arrays: dict[str, Array], layout: Layout) -> Self:
        return cls(KltTransform.from_arrays(arrays, layout))

    def arrays(self) -> dict[str, Array]:
        return asdict(self._c)

    @np.errstate(over="ignore", invalid="ignore")  # `spectrum` detects overflow and rejects it
    def encoder(self, features: Array, focus: Sequence[int] = ()) -> Callable[[float], Payload]:
        """Features of any type and shape that the layout knows, finite; and rows to code finer.

        Raises:
            InputError: the number of channels differs from the fit, or values are out of the exact range.
        """
        rows = self.transform.rows(features)
        partition = self.transform.split(rows, features.shape, focus=focus)
        return partial(self._encode, rows, partition, self.transform.spectrum(rows, partition))

    @np.errstate(over="ignore", invalid="ignore")  # _quantize detects overflow and rejects it
    def _encode(self, rows: Array, partition: Partition, body: Array, quality: float) -> Payload:
        coarsest, finest = (int(step) for step in self._c.steps)
        step_index = coarsest - round(quality * (coarsest - finest))
        step = power_of_two(step_index)
        isolated = self.transform.isolated(rows, partition, step)
        activity = self._activities(isolated, body, partition, step)
        runs = self._runs(partition, activity, step_index)
        q = self._quantize(np.concatenate([isolated, body]).ravel(), step)
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
        activity = decoder.read(self._activity, 0, partition.num_active) + ACTIVITY_MIN
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

    def _activities(self, isolated: Array, body: Array, partition: Partition, step: float) -> Array:
        """[num_active] int32, of each row of coefficients that has an activity."""
        sigma = np.exp2(self._c.log_sigma / OCTAVE)
        kinds = partition.kinds[: len(isolated)]
        of_isolated = np.empty(len(isolated), np.int32)
        for kind in range(2):
            at = kinds == kind
            of_isolated[at] = activity_of(isolated[at], sigma[kind], self._c.mean_abs, step)
        found = [of_isolated]
        done = 0
        for group in () if partition.on_grid else partition.groups:
            part = body[done : done + group.num_rows].reshape(group.count, len(group.kinds), -1)
            by_frequency = [
                activity_of(part[:, index], sigma[kind], self._c.mean_abs, step)
                for index, kind in enumerate(group.kinds)
            ]
            found.append(np.stack(by_frequency, axis=1).ravel())
            done += group.num_rows
        return np.concatenate(found)

    def _quantize(self, c: Array, step: float) -> Array:
        magnitude = np.floor(np.abs(c) * np.float32(1 / step) + np.float32(self._rounding))
        if not magnitude.max(initial=0) < self._symbol_limit:
            raise out_of_range()
        return np.copysign(magnitude, c).astype(np.int32)

    # Both ways

    def _runs(self, partition: Partition, activity: Array, step_index: int) -> list[tuple[int, Array]]:
        """(table, positions of its symbols), from the lowest class up; symbols in no run are zero."""
        of_kind = class_of(self._c.log_sigma.astype(np.int32) - step_index)
        of_kind = np.clip(of_kind, *_CLASS_LIMITS).astype(np.int8)  # [kinds, C]
        channels, kinds = of_kind.shape[1], partition.kinds
        active = np.zeros(len(kinds), np.int8)
        active[: len(activity)] = activity
        found: list[list[Array]] = [[] for _ in self._tables.rows]
        at_once = max(1, _SORTED // channels)
        for start in range(0, len(kinds), at_once):
            checkpoint()
            part = slice(start, start + at_once)
            classes = (of_kind[kinds[part]] + active[part, None]).ravel()
            positions = np.flatnonzero(classes >= CLASS_MIN)
            rows = (np.minimum(classes[positions], CLASS_MAX) - CLASS_MIN).astype(np.uint8)
            positions = positions[np.argsort(rows, kind="stable")]  # of bytes: a radix sort
            positions += start * channels
            counts = np.bincount(rows)
            ends = np.cumsum(counts)
            for row in np.flatnonzero(counts):
                found[row].append(positions[ends[row] - counts[row] : ends[row]])
        return [(row, np.concatenate(runs)) for row, runs in enumerate(found) if runs]

    # Decoder

    def _reconstruct(self, q: Array, partition: Partition, step_index: int) -> Array:
        """[images tokens, C] float64, the same bits everywhere."""
        channels = partition.rows_shape[-1]
        num_isolated = len(partition.isolated) * channels
        step = power_of_two(step_index)
        isolated = self.transform.basis.to_channels(self._sixteenths(q[:num_isolated]).reshape(-1, channels))
        isolated *= self._c.scale * (step / _FRACTION)
        symbols = q[num_isolated:].reshape(-1, channels)
        used = np.flatnonzero(symbols.any(axis=0))
        body = np.zeros(symbols.shape)
        for at, group in partition.chunks() if len(used) else ():
            body[at] = self.transform.basis.to_channels(self._body_values(symbols[at, used], group, used, step), used)
            body[at] *= self._c.scale * 2.0**-BODY_BITS
        return self.transform.assembled(isolated, body, partition, step)

    def _body_values(self, symbols: Array, group: Group, used: Array, step: float) -> Array:
        """z of grids or blocks [rows, used], integers times 2^-8."""
        gain = self._c.gain[group.kinds]  # [K, C], or [K, 1] for all components alike
        sixteenth = (gain if gain.shape[1] == 1 else gain[:, used]).astype(np.float64)
        sixteenth *= step * 2.0**BODY_BITS / _FRACTION
        z = self._sixteenths(symbols).reshape(group.count, len(group.kinds), len(used))
        z *= sixteenth
        limit = self.transform.body_limit(group.size)
        np.clip(np.rint(z, out=z), -limit, limit, out=z)
        return inverse_dct(z, *group.size).reshape(symbols.shape)

    def _sixteenths(self, q: Array) -> Array:
        wide = q.astype(np.float64)
        return wide * _FRACTION + np.sign(wide) * self._shift
