"""The fit of `klt`, in closed form, to about ten features.

The basis is that of `directions`: a Karhunen-Loeve transform under an error metric, of as many directions as the rows
allow, so that one step for all components is the best allocation. Without gradients the metric is the unweighted
squared error (of channels scaled to equal variance where tokens form no grid). With gradients g of the head's output
with respect to the features it is E[g g'], regularized, plus a share of the unweighted error: bits then go where the
result depends on them.

What depends on how well a fit carries over is measured on samples that it has not seen: the scales of the leading
components, the tables, and whether the directions beat the channels alone.

The fit is in floating point and runs once, on one machine: only its result is shared.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final

import numpy as np

from dtufc.coding.arrays import Array
from dtufc.coding.codecs.basis import Basis
from dtufc.coding.codecs.calibration import (
    ACTIVITY_MAX,
    ACTIVITY_MIN,
    CLASS_MAX,
    CLASS_MIN,
    CLASSES_PER_OCTAVE,
    Calibration,
    activity_of,
    class_of,
    is_outlier_row,
    row_rms,
)
from dtufc.coding.codecs.directions import fit_basis, rank_of, rank_of_work, rows_for_all
from dtufc.coding.codecs.exact import OCTAVE, forward_dct, power_of_two
from dtufc.coding.codecs.klt_transform import KltTransform
from dtufc.coding.entropy import quantize_frequencies
from dtufc.coding.layout import Family, Layout
from dtufc.errors import InputError

Progress = Callable[[float], None]
_TOKEN_SHARE: Final = 0.05  # of the unweighted error in the metric
_GRID_SHARE: Final = 0.2
_BAND_SHARE: Final = 0.05  # of the unweighted error in the bands' gains
_NUM_BANDS: Final = 16
_BAND_EXPONENT: Final = 0.6  # below 1: narrower bands at low frequencies
_SMALLEST_RMS: Final = 1e-30
_LARGEST_RMS: Final = 1e16  # squares, and sums of them, are in float32
_LARGEST_GRADIENT: Final = 2.0**40  # the same
_LEAST_SPREAD: Final = 2.0**-16  # of rows that are all but constant, relative to their RMS
_COMPARED_CHANNELS: Final = 8
_BLOCK: Final = 16  # tokens of a text
_NUM_FOLDS: Final = 5
_FEWER_FOLDS: Final = 3  # where they allow the same rank
_MAX_COUNTED: Final = 1 << 21  # values, of a sample and a step
_PRIOR_COUNTS: Final = 200.0  # of a Laplace distribution, in each table
_MAX_RADIUS: Final = 255
_TOKEN_STEPS: Final = (2 * OCTAVE, -4 * OCTAVE)  # at quality 0 and at quality 1
_GRID_STEPS: Final = (6 * OCTAVE, -4 * OCTAVE)
_TOKENS = (0.38, 2.0, 8.0)  # rounding offset, outward shift in sixteenths, finer outliers; chosen by agreement
_GRID = (0.5, 0.0, 8.0)
_MIN_SAVED: Final = 0.02  # bits a value, for directions to be worth their place: less is within the estimate's error
_COMPARED: Final = 2.0 ** np.arange(-1, 2)  # steps at which directions are compared with channels


@dataclass(frozen=True, slots=True, kw_only=True)
class FitReport:
    """What a fit found. Savings are as of Gaussian components, on samples that the fits compared had not seen (but for
    the mean of all).

    Attributes:
        rows: ordinary rows of all samples.
        channels: C.
        rank: leading components that are no channels; C for a whole basis.
        saved_by_directions: bits a value that they save against the channels alone, at equal loss.
        saved_by_gradients: bits a value that the gradients save, at equal loss as they tell it; None without.
    """

    rows: int
    channels: int
    rank: int
    saved_by_directions: float
    saved_by_gradients: float | None

    @property
    def warnings(self) -> list[str]:
        """What more samples would change, as far as the numbers tell; empty where they would change little."""
        enough = rows_for_all(self.channels)
        if self.rank == 0:
            why = f"no direction of {self.rows} rows of {self.channels} channels saves bits on samples not seen"
            return [f"{why}: channels are coded alone; more samples may find some"]
        if enough is not None and self.rank < self.channels:
            return [f"{self.rank} of {self.channels} directions from {self.rows} rows; {enough} rows would allow all"]
        if self.rows < self.channels:
            times = self.channels / self.rows
            return [
                f"{self.rows} rows of {self.channels} channels are few: {times:.1f} times as many samples save bits"
            ]
        return []


def fit(
    samples: Sequence[Array],
    layout: Layout,
    gradients: Sequence[Array] | None = None,
    *,
    max_rank: int | None = None,
    progress: Progress = lambda share: None,
) -> tuple[Calibration, FitReport]:
    """Fits everything that `klt` needs.

    Args:
        samples: features of shapes that fit the layout, float32.
        layout: of the features.
        gradients: of the head's output with respect to each sample, of its shape, or several of them in one array
            [k, ...]; or none.
        max_rank: at most so many leading components; 0 leaves the channels.
        progress: is told the share of the work that is done.

    Raises:
        InputError: fewer than two rows, or gradients of other shapes.
    """
    if gradients is not None:
        shapes = [sample.shape for sample in samples]
        of_gradients = [gradient.shape[-len(shape) :] for gradient, shape in zip(gradients, shapes, strict=False)]
        if len(gradients) != len(samples) or of_gradients != shapes:
            raise InputError(field="gradients", problem="other shapes than the samples'", remedy="Give one for each")
    done = _Fit(samples, layout, gradients, max_rank, progress)
    return done.calibration(), done.report


class _Fit:
    """The steps of one fit, in order; each needs the previous ones."""

    def __init__(
        self,
        samples: Sequence[Array],
        layout: Layout,
        gradients: Sequence[Array] | None,
        max_rank: int | None,
        progress: Progress,
    ) -> None:
        if len(samples) == 1 and layout.family == Family.llm:  # parts of a text, one for each fold
            axis = layout.token_axis(samples[0].shape)
            parts = min(_NUM_FOLDS, samples[0].shape[axis])
            gradients = None if gradients is None else np.array_split(gradients[0], parts, axis)
            samples = np.array_split(samples[0], parts, axis)
        self.samples, self.layout = samples, layout
        self.has_grid = all(layout.grid(sample.shape) for sample in samples)
        self.block = _BLOCK if layout.family == Family.llm else 0
        self.rows = [layout.to_rows(sample) for sample in samples]  # [images, tokens, C]
        self.channels = self.rows[0].shape[-1]
        self._check_padding()
        self._find_outliers(gradients)
        usable = [index for index, rows in enumerate(self.ordinary) if len(rows)]
        folds, others, rank = self._folds(usable, _NUM_FOLDS)
        fewer = self._folds(usable, _FEWER_FOLDS)
        if fewer[2] == rank == rank_of_work(self.channels):  # not one that the rows bound
            folds, others, _ = fewer
        rank = rank if max_rank is None else min(rank, max_rank)
        fitted = self._each(lambda seen: self._transform(seen, rank), others, (0.0, 0.4), progress)
        by_directions = 0.0
        if rank:
            alone = self._each(lambda seen: self._transform(seen, 0), others, (0.4, 0.5), progress)
            by_directions = self._saved_bits(fitted, alone, folds, others)
            if by_directions < _MIN_SAVED:
                rank, fitted, by_directions = 0, alone, 0.0
        by_gradients = None
        if self.slopes is not None:
            unaware = self._each(lambda seen: self._transform(seen, rank, aware=False), others, (0.5, 0.6), progress)
            by_gradients = self._saved_bits(fitted, unaware, folds, others)
        self.carry = self._carried(fitted, folds, others, rank)
        self.calibrated = self._with_scales(self._transform(usable, rank), usable)
        progress(0.7)
        self.tables, self.activity = self._tables(fitted, folds, others)
        progress(1.0)
        self.report = FitReport(
            rows=sum(map(len, self.ordinary)),
            channels=self.channels,
            rank=rank,
            saved_by_directions=by_directions,
            saved_by_gradients=by_gradients,
        )

    def _folds(self, usable: list[int], count: int) -> tuple[list[list[int]], list[list[int]], int]:
        """(samples of each fold, the others' for each, the rank that these allow)."""
        folds = [usable[start::count] for start in range(min(count, len(usable)))]
        others = [[index for index in usable if index not in fold] or fold for fold in folds]
        fewest = min(sum(len(self.ordinary[index]) for index in seen) for seen in others)
        one = len(usable) == 1  # which cannot say what carries over
        return folds, others, 0 if one else rank_of(fewest, self.channels)

    @staticmethod
    def _each(
        make: Callable[[list[int]], KltTransform],
        others: Sequence[list[int]],
        span: tuple[float, float],
        progress: Progress,
    ) -> list[KltTransform]:
        made = []
        for done, seen in enumerate(others, start=1):
            made.append(make(seen))
            progress(span[0] + (span[1] - span[0]) * done / len(others))
        return made

    def calibration(self) -> Calibration:
        return replace(
            self.calibrated.c,
            frequencies=np.concatenate(self.tables),
            sizes=np.array([len(table) for table in self.tables], dtype=np.int32),
            activity=self.activity,
        )

    @property
    def _rounding(self) -> tuple[float, float, float]:
        return _GRID if self.has_grid else _TOKENS

    @property
    def _steps(self) -> tuple[int, int]:
        return _GRID_STEPS if self.has_grid else _TOKEN_STEPS

    def _check_padding(self) -> None:
        """Raises InputError where most rows that form no grid are one and the same, and not all.

        What most rows are is what the fit takes for ordinary: of padded samples, the padding.
        """
        if self.has_grid:
            return
        rows = np.concatenate([rows.reshape(-1, self.channels) for rows in self.rows])
        for channels in (slice(_COMPARED_CHANNELS), slice(None)):  # rows that differ do so in a few of them
            common = np.median(rows[:, channels], axis=0)  # of which most are one row, it is that row
            count = int(np.count_nonzero((rows[:, channels] == common).all(axis=1)))
            if not len(rows) < 2 * count < 2 * len(rows):
                return
        problem = f"{count} of {len(rows)} rows are {'the same' if common.any() else 'zero'}, as padding is"
        raise InputError(
            field="samples", problem=problem, remedy="Give each sample the rows that count, without padding"
        )

    def _find_outliers(self, gradients: Sequence[Array] | None) -> None:
        """Finds the outlier rows (prefix, unusual RMS), and their mean, each divided by its RMS."""
        sizes = [row_rms(rows) for rows in self.rows]
        every = np.concatenate([size.ravel() for size in sizes])
        self.reference_rms = float(np.median(every[every > 0])) if every.any() else _SMALLEST_RMS
        if not _SMALLEST_RMS <= self.reference_rms <= _LARGEST_RMS:
            problem = f"rows of a root mean square of {self.reference_rms:.3g}, out of the range of the arithmetic"
            remedy = f"Scale them, to between {_SMALLEST_RMS:g} and {_LARGEST_RMS:g}"
            raise InputError(field="samples", problem=problem, remedy=remedy)
        outliers = []
        for size in sizes:
            found = is_outlier_row(size, self.reference_rms, on_grid=self.has_grid)
            found[:, : self.layout.prefix if self.has_grid else 0] = True
            outliers.append(found)
        self.ordinary = [rows[~found] for rows, found in zip(self.rows, outliers, strict=True)]  # [n, C]
        self.slopes: list[list[Array]] | None = None  # of each sample and gradient [n, C]
        if gradients is not None:
            self.slopes = [
                [self.layout.to_rows(one)[~found] for one in gradient.reshape(-1, *sample.shape)]
                for gradient, sample, found in zip(_in_range(gradients), self.samples, outliers, strict=True)
            ]
            if not any(slope.any() for part in self.slopes for slope in part):
                remedy = "Take them at features that the result depends on"
                raise InputError(field="gradients", problem="all are zero", remedy=remedy)
        if sum(len(rows) for rows in self.ordinary) < 2:
            raise InputError(field="samples", problem="fewer than two rows", remedy="Give about ten features")
        every = np.concatenate(self.ordinary)
        self.mean = every.mean(axis=0, dtype=np.float64)
        self.ordinary = [rows - self.mean.astype(np.float32) for rows in self.ordinary]
        triples = zip(self.rows, sizes, outliers, strict=True)
        normal = [rows[found] / np.maximum(size[found], 1e-30)[:, None] for rows, size, found in triples]
        outlier_rows = np.concatenate(normal) * self.reference_rms
        self.centre = outlier_rows.mean(axis=0) if len(outlier_rows) else self.mean

    def _transform(self, seen: Sequence[int], rank: int, *, aware: bool = True) -> KltTransform:
        """The transform that these samples give, without scales and tables; unaware of gradients if so asked."""
        rows = [self.ordinary[index] for index in seen]
        slopes = [np.concatenate(self.slopes[index]) for index in seen] if self.slopes is not None and aware else None
        share = _GRID_SHARE if self.has_grid else _TOKEN_SHARE
        fitted = fit_basis(rows, slopes, self._unweighted(rows), share, rank)
        num_kinds = 2 * self.block if self.block else _NUM_BANDS + 2
        whole = Calibration(
            **asdict(fitted),
            mean=self.mean,
            centre=self.centre,
            reference_rms=np.array([self.reference_rms]),
            log_sigma=np.zeros((num_kinds, self.channels), np.int16),
            gain=np.ones((num_kinds, 1), np.float32),
            edges=np.empty(0) if self.block else _edges(),
            block=np.array([self.block], np.int32),
            mean_abs=np.ones(self.channels, np.float32),
            rounding=np.array(self._rounding, dtype=np.float32),
            frequencies=np.empty(0, np.uint32),
            sizes=np.zeros(CLASS_MAX - CLASS_MIN + 1, np.int32),
            activity=np.empty(0, np.uint32),
            steps=np.array(self._steps, dtype=np.int16),
        )
        transform = KltTransform(whole, self.layout)
        gain = self._gains(transform, seen) if aware else None
        return transform if gain is None else KltTransform(replace(whole, gain=gain), self.layout)

    def _unweighted(self, rows: Sequence[Array]) -> Array:
        """[C]: the cost of an error in each channel, as far as the features alone tell."""
        variance = np.mean(np.concatenate(rows) ** 2, axis=0, dtype=np.float64)
        least = (_LEAST_SPREAD * self.reference_rms) ** 2
        if variance.mean() < least:
            variance = np.maximum(variance, least)
        variance = np.maximum(variance, 1e-9 * variance.mean() + 1e-30)
        is_unscaled = self.has_grid or self.layout.family == Family.latent  # not by channel
        return np.full(self.channels, 1 / variance.mean()) if is_unscaled else 1 / variance

    def _gains(self, transform: KltTransform, seen: Sequence[int]) -> Array | None:
        """[1 + B, C] or [1 + B, 1]: steps are larger where the result depends less on a frequency."""
        if self.slopes is None or not (self.has_grid or self.block):
            return None
        energies = []
        for index in seen:
            for slope in self.slopes[index]:
                z = transform.basis.components_of_gradients(slope).astype(np.float32)
                energies.append(self._energies(transform, index, z))
        energy = np.mean(energies, axis=0)[1:]
        if self.block:  # by frequency alone
            sizes = [energy[size - 1 : 2 * size - 1].mean(axis=1, keepdims=True) for size in _lengths(self.block)]
            energy = np.concatenate([size / max(size.mean(), 1e-30) for size in sizes])
        else:
            energy = _smooth(energy, 6)
        weight = (energy / energy.mean() + _BAND_SHARE) / (1 + _BAND_SHARE)
        return np.concatenate([np.ones((1, weight.shape[1])), 1 / np.sqrt(weight)]).astype(np.float32)

    def _energies(self, transform: KltTransform, index: int, z: Array) -> Array:
        """[1 + B, C]: mean squares of z [rows, C] of a sample's ordinary rows, as they are and by frequency."""
        energy = np.ones((len(transform.c.gain), self.channels))
        energy[0] = np.mean(z * z, axis=0, dtype=np.float64)
        if self.block:
            for size in _lengths(self.block):
                energy[size : 2 * size] = energy[0] if size == 1 else np.repeat(energy[size // 2 : size], 2, axis=0)
                if count := len(z) // size:
                    spectrum = forward_dct(z[: count * size].reshape(count, size, -1), size, 1)
                    energy[size : 2 * size] = np.mean(spectrum * spectrum, axis=0, dtype=np.float64)
        elif self.has_grid:
            energy[1:] = self._band_energies(transform, index, z)
        return energy

    def _band_energies(self, transform: KltTransform, index: int, z: Array) -> Array:
        """[B, C]: mean square of each component's coefficients in each band; empty bands are interpolated."""
        partition = transform.split(self.rows[index], self.samples[index].shape)
        (group,) = partition.groups
        images, tokens, _ = partition.rows_shape
        body = np.zeros((images * tokens, self.channels), np.float32)
        body[np.delete(np.arange(images * tokens), partition.outliers)] = z
        spectrum = forward_dct(body[partition.body].reshape(images, -1, self.channels), *group.size)
        energy = np.mean(spectrum.astype(np.float64) ** 2, axis=0)  # [h w, C]
        bands = group.kinds - 1
        count = np.bincount(bands, minlength=_NUM_BANDS + 1)
        sums = np.zeros((_NUM_BANDS + 1, self.channels))
        np.add.at(sums, bands, energy)
        filled = np.flatnonzero(count)
        logs = np.log(sums[filled] / count[filled, None] + 1e-12)
        every = np.arange(_NUM_BANDS + 1)
        return np.exp(np.stack([np.interp(every, filled, column) for column in logs.T], axis=1))

    def _saved_bits(
        self,
        ours: Sequence[KltTransform],
        theirs: Sequence[KltTransform],
        folds: Sequence[list[int]],
        others: Sequence[list[int]],
    ) -> float:
        """Bits a value that the first transforms save against the second at equal loss, on samples unseen by both."""
        saved = []
        for pair, fold, seen in zip(zip(ours, theirs, strict=True), folds, others, strict=True):
            weights = self._unweighted([self.ordinary[index] for index in seen])
            first, second = (self._moments(transform, fold, weights) for transform in pair)
            saved += [_gaussian_saving(first, second, step) for step in _COMPARED if first[1].any() and second[1].any()]
        return float(np.mean(saved)) if saved else 0.0

    def _moments(self, transform: KltTransform, fold: Sequence[int], weights: Array) -> tuple[Array, Array]:
        """([K, C] mean squares of these samples' coefficients by kind, [K, C] what an error in each costs)."""
        z = [transform.basis.to_components(self.ordinary[index]) for index in fold]
        variance = np.mean([self._energies(transform, index, one) for index, one in zip(fold, z, strict=True)], axis=0)
        if self.slopes is None:
            cost = np.broadcast_to(_unweighted_cost(transform.basis, weights), variance.shape)
        else:
            of_slopes = [
                self._energies(transform, index, transform.basis.components_of_gradients(slope).astype(np.float32))
                for index in fold
                for slope in self.slopes[index]
            ]
            cost = np.mean(of_slopes, axis=0)
        kinds = (
            slice(self.block, None) if self.block else slice(1 if self.has_grid else 0, None if self.has_grid else 1)
        )
        gain = transform.gain.astype(np.float64)[kinds] ** 2
        return variance[kinds] / gain, cost[kinds] * gain

    def _carried(
        self, fitted: Sequence[KltTransform], folds: Sequence[list[int]], others: Sequence[list[int]], rank: int
    ) -> Array:
        """[C]: the scale of unseen samples' components relative to that of the samples that chose the directions.

        Leading components of few rows look larger than they are, and what is left of the channels smaller.
        """
        energies = np.full((2, self.channels), 1e-30)  # of those seen, and of the others
        for transform, fold, seen in zip(fitted, folds, others, strict=True):
            for row, indices in enumerate((seen, fold)):
                rows = np.concatenate([self.ordinary[index] for index in indices])
                energies[row] += np.mean(transform.basis.to_components(rows) ** 2, axis=0, dtype=np.float64)
        logs = 0.5 * np.diff(np.log(energies), axis=0)
        parts = [part for part in np.split(logs, [rank], axis=1) if part.size]
        return np.exp(np.concatenate([_smooth(part, max(1, part.size // 32)) for part in parts], axis=1)[0])

    def _with_scales(self, transform: KltTransform, seen: Sequence[int]) -> KltTransform:
        """The transform with the scales of these samples, corrected for what they chose."""
        energies, ordinary = [], []
        for index in seen:
            z = transform.basis.to_components(self.ordinary[index])
            ordinary.append(z)
            energy = self._energies(transform, index, z) / transform.gain.astype(np.float64) ** 2
            if self.has_grid or self.block:
                partition = transform.split(self.rows[index], self.samples[index].shape)
                isolated = transform.isolated(self.rows[index], partition, 1.0)
                energy[0] = np.mean(isolated**2, axis=0, dtype=np.float64) if len(isolated) else energy[0]
                energy[0] = np.exp(_smooth(np.log(energy[0] + 1e-9)[None], 4)[0])  # few: smoothed over the components
            energies.append(energy)
        every = np.concatenate(ordinary)
        deviation = every.std(axis=0, dtype=np.float64)
        ratio = np.abs(every).mean(axis=0, dtype=np.float64) / np.maximum(deviation, 1e-30)
        mean_abs = np.where(deviation > 0, ratio, np.sqrt(2 / np.pi))  # of a constant: as of a Gaussian
        energy = np.mean(energies, axis=0)
        energy[1 if self.has_grid or self.block else 0 :] *= self.carry**2
        c = replace(transform.c, log_sigma=_log_sigma(energy), mean_abs=mean_abs.astype(np.float32))
        return KltTransform(c, self.layout)

    def _tables(
        self, fitted: Sequence[KltTransform], folds: Sequence[list[int]], others: Sequence[list[int]]
    ) -> tuple[list[Array], Array]:
        """A table for each class, and one for the activity, counted on samples that nothing was fitted to."""
        num_classes = CLASS_MAX - CLASS_MIN + 1
        radii = [_radius(row + CLASS_MIN) for row in range(num_classes)]
        counts = [np.zeros(radius + 2) for radius in radii]
        activities = np.ones(ACTIVITY_MAX - ACTIVITY_MIN + 1)
        for transform, fold, seen in zip(fitted, folds, others, strict=True):
            scaled = self._with_scales(transform, seen)
            for index in fold:
                self._count(scaled, index, counts, activities)
        tables = [
            _table(count, 2.0 ** ((row + CLASS_MIN) / CLASSES_PER_OCTAVE), self._rounding[0])
            for row, count in enumerate(counts)
        ]
        return tables, quantize_frequencies(activities)

    def _count(self, transform: KltTransform, index: int, counts: list[Array], activities: Array) -> None:
        """Adds one sample's symbols at several steps, by class; and its rows' activities."""
        rows = self.rows[index]
        partition = transform.split(rows, self.samples[index].shape)
        body = transform.spectrum(rows, partition)
        kinds, log_sigma = partition.kinds, transform.c.log_sigma.astype(np.int32)
        stride = max(1, partition.num_rows * self.channels // _MAX_COUNTED)
        steps = range(self._steps[1], self._steps[0], OCTAVE // 2)
        for number, step_index in enumerate(steps):
            step = power_of_two(step_index)
            isolated = transform.isolated(rows, partition, step)
            chosen = slice(number % stride, None, stride)
            z, kind = np.concatenate([isolated, body])[chosen], kinds[chosen]
            active = np.arange(partition.num_rows)[chosen] < partition.num_active
            activity = np.zeros(len(z), np.int32)
            for one in np.unique(kind[active]):
                at = active & (kind == one)
                sigma = np.exp2(log_sigma[one] / OCTAVE)
                activity[at] = activity_of(z[at], sigma, transform.c.mean_abs, step)
            found = np.bincount(activity[active] - ACTIVITY_MIN, minlength=len(activities))
            activities += found / len(steps)
            classes = class_of(log_sigma[kind] - step_index) + activity[:, None]
            self._add(classes, z, step, counts)

    def _add(self, classes: Array, values: Array, step: float, counts: list[Array]) -> None:
        magnitudes = np.floor(np.abs(values) / step + self._rounding[0])
        rows = np.minimum(classes, CLASS_MAX) - CLASS_MIN
        coded = rows >= 0
        width = _MAX_RADIUS + 2
        flat = rows[coded].astype(np.int64) * width + np.minimum(magnitudes[coded], width - 1).astype(np.int64)
        table = np.bincount(flat, minlength=len(counts) * width).reshape(len(counts), width)
        for count, row in zip(counts, table, strict=True):
            count[:-1] += row[: len(count) - 1]
            count[-1] += row[len(count) - 1 :].sum()


def _in_range(gradients: Sequence[Array]) -> Sequence[Array]:
    """Gradients, of which only the relative size counts, at a size whose squares float32 can hold."""
    largest = max(float(np.abs(gradient).max(initial=0)) for gradient in gradients)
    if not largest or 1 / _LARGEST_GRADIENT < largest < _LARGEST_GRADIENT:
        return gradients
    return [np.ldexp(gradient, -int(np.log2(largest))) for gradient in gradients]


def _unweighted_cost(basis: Basis, weights: Array) -> Array:
    """[C]: what an error in each component costs by these weights of the channels."""
    cost = np.zeros(basis.channels)
    for start in range(0, basis.channels, 1024):
        part = np.eye(min(1024, basis.channels - start), basis.channels, start)
        cost[start : start + 1024] = (basis.to_channels_fast(part) ** 2) @ weights
    return cost


def _gaussian_saving(ours: tuple[Array, Array], theirs: tuple[Array, Array], step: float) -> float:
    """Bits a value that ours saves at the loss that theirs has at this step, as of Gaussian components."""
    loss, rate = _gaussian(*theirs, step * step / 12)
    low, high = 1e-12, 1e6  # of the distortion
    for _ in range(60):
        middle = np.sqrt(low * high)
        low, high = (middle, high) if _gaussian(*ours, middle)[0] < loss else (low, middle)
    return rate - _gaussian(*ours, low)[1]


def _gaussian(variance: Array, cost: Array, distortion: float) -> tuple[float, float]:
    """(loss, bits a value) of one distortion for all components, none above its variance."""
    reached = np.minimum(variance, distortion)
    ratio = np.maximum(variance, 1e-300) / np.maximum(reached, 1e-300)
    return float(np.sum(cost * reached)), float(np.mean(0.5 * np.log2(ratio)))


def _lengths(longest: int) -> list[int]:
    return [1 << bit for bit in range(longest.bit_length())]


def _edges() -> Array:
    """Squared radii between the bands; the largest possible one is 2."""
    relative: Array = 2.0 * (np.arange(1, _NUM_BANDS) / _NUM_BANDS) ** (2 / _BAND_EXPONENT)
    return relative


def _log_sigma(energy: Array) -> Array:
    logs = np.rint(OCTAVE * 0.5 * np.log2(np.maximum(energy, 1e-12)))
    return np.clip(logs, -(2**14), 2**14).astype(np.int16)


def _radius(class_index: int) -> int:
    """Symbols that a class's table holds: eight of its scales."""
    return int(np.clip(np.ceil(8 * 2.0 ** (class_index / CLASSES_PER_OCTAVE)) + 2, 3, _MAX_RADIUS))


def _table(count: Array, ratio: float, rounding: float) -> Array:
    """Counts of magnitudes (the last: beyond) and a Laplace prior of this ratio of scale to step -> frequencies."""
    magnitude = np.arange(len(count) + 1)
    beyond = np.exp(-np.maximum(magnitude - rounding, 0) * np.sqrt(2) / ratio)  # P(|q| >= magnitude)
    beyond[0] = 1
    prior = beyond[:-1] - beyond[1:]
    prior[-1] = beyond[-2]
    weights = count + _PRIOR_COUNTS * (prior + 1e-4 / (1 + magnitude[:-1]))
    half = weights[1:-1] / 2
    return quantize_frequencies(np.concatenate([half[::-1], weights[:1], half, weights[-1:]]))


def _smooth(values: Array, width: int) -> Array:
    """Smooths the last axis with a Gaussian of `width` entries, its ends held."""
    at = np.arange(-3 * width, 3 * width + 1)
    kernel = np.exp(-0.5 * (at / width) ** 2)
    kernel /= kernel.sum()
    padded = np.pad(values, [(0, 0)] * (values.ndim - 1) + [(3 * width, 3 * width)], mode="edge")
    return np.apply_along_axis(lambda row: np.convolve(row, kernel, mode="valid"), -1, padded)
