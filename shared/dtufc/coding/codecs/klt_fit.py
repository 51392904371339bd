"""The fit of `klt`, in closed form, to about ten features.

The transform is the Karhunen-Loeve transform under an error metric M: with A = M^(1/2), the components are the
eigenvectors of A C A, C the covariance of the channels, so that one step for all of them is the best allocation for
the error e' M e. Without gradients M is the unweighted squared error (of channels scaled to equal variance where tokens
form no grid). With gradients g of the head's output with respect to the features, M = E[g g'] plus a share of the
unweighted error: bits then go where the result depends on them.

Grids of many channels and few positions (the last feature maps of a CNN) have too few samples to estimate C and M. Then
only their diagonals are kept: the components are the channels themselves, and the DCT and the gains do the work.

The fit is in floating point and runs once, on one machine: only its result is shared.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from dtufc.coding.arrays import Array
from dtufc.coding.codecs.calibration import (
    ACTIVITY_MAX,
    ACTIVITY_MIN,
    BASIS_BITS,
    CLASS_MAX,
    CLASS_MIN,
    CLASSES_PER_OCTAVE,
    OUTLIER_RATIO,
    Calibration,
    activity_of,
    bands_of,
    class_of,
    is_outlier_row,
)
from dtufc.coding.codecs.exact import OCTAVE, forward_dct, power_of_two
from dtufc.coding.entropy import quantize_frequencies
from dtufc.coding.layout import Family, Layout
from dtufc.errors import InputError

_UNWEIGHTED_SHARE: Final = 0.2  # of the unweighted error in the metric
_MIN_ROWS_PER_CHANNEL: Final = 8  # of a grid: with fewer, correlations would describe the samples, not the model
_BAND_SHARE: Final = 0.05  # of the unweighted error in the bands' gains
_NUM_BANDS: Final = 16
_BAND_EXPONENT: Final = 0.6  # below 1: narrower bands at low frequencies
_NUM_FOLDS: Final = 5
_PRIOR_COUNTS: Final = 200.0  # of a Laplace distribution, in each table
_MAX_RADIUS: Final = 255
_TOKEN_STEPS: Final = (2 * OCTAVE, -4 * OCTAVE)  # at quality 0 and at quality 1
_GRID_STEPS: Final = (6 * OCTAVE, -4 * OCTAVE)
_TOKENS = (0.4, 2.0, 8.0)  # rounding offset, outward shift in sixteenths, finer outliers; chosen by agreement
_GRID = (0.5, 0.0, 8.0)


def fit(samples: Sequence[Array], layout: Layout, gradients: Sequence[Array] | None = None) -> Calibration:
    """Fits everything that `klt` needs.

    Args:
        samples: features of shapes that fit the layout, float32.
        layout: of the features.
        gradients: of the head's output with respect to the samples, of the same shapes; or none.

    Raises:
        InputError: fewer than two rows, or gradients of other shapes.
    """
    if gradients is not None and [g.shape for g in gradients] != [s.shape for s in samples]:
        raise InputError(field="gradients", problem="other shapes than the samples'", remedy="Give one for each")
    return _Fit(samples, layout, gradients).calibration()


class _Fit:
    """The steps of one fit, in order; each needs the previous ones."""

    def __init__(self, samples: Sequence[Array], layout: Layout, gradients: Sequence[Array] | None) -> None:
        self.layout = layout
        self.rows = [layout.to_rows(sample).astype(np.float64) for sample in samples]  # [images, tokens, C]
        self.grids = [layout.grid(sample.shape) for sample in samples]
        self.gradients = None if gradients is None else [layout.to_rows(g).astype(np.float64) for g in gradients]
        self.channels = self.rows[0].shape[-1]
        self.has_grid = all(self.grids)
        self._find_outliers()
        self._find_transform()
        self.z = [self._transformed(rows, outliers) for rows, outliers in zip(self.rows, self.outliers, strict=True)]
        self._find_scales()

    def calibration(self) -> Calibration:
        tables, activity = self._tables()
        return Calibration(
            basis=self.basis.astype(np.int16),
            scale=self.scale,
            mean=self.mean,
            centre=self.centre,
            reference_rms=np.array([self.reference_rms]),
            log_sigma=_log_sigma(np.mean(self.energies, axis=0)),
            gain=self.gain.astype(np.float32),
            edges=_edges(),
            mean_abs=self.mean_abs.astype(np.float32),
            rounding=np.array(self._rounding, dtype=np.float32),
            frequencies=np.concatenate(tables),
            sizes=np.array([len(table) for table in tables], dtype=np.int32),
            activity=activity,
            steps=np.array(self._steps, dtype=np.int16),
        )

    @property
    def _rounding(self) -> tuple[float, float, float]:
        return _GRID if self.has_grid else _TOKENS

    @property
    def _steps(self) -> tuple[int, int]:
        return _GRID_STEPS if self.has_grid else _TOKEN_STEPS

    def _find_outliers(self) -> None:
        """Finds the outlier rows (prefix, unusual RMS), and their mean, each divided by its RMS."""
        sizes = [np.sqrt(np.mean(rows * rows, axis=-1)) for rows in self.rows]  # [images, tokens]
        self.reference_rms = max(float(np.median(np.concatenate([size.ravel() for size in sizes]))), 1e-30)
        self.outliers = []
        for size in sizes:
            outliers = is_outlier_row(size, self.reference_rms, on_grid=self.has_grid)
            outliers[:, : self.layout.prefix if self.has_grid else 0] = True
            self.outliers.append(outliers)
        pairs = list(zip(self.rows, sizes, self.outliers, strict=True))
        ordinary = np.concatenate([rows[~outliers] for rows, _, outliers in pairs])
        self.num_rows = len(ordinary)
        if self.num_rows < 2:
            raise InputError(field="samples", problem="fewer than two rows", remedy="Give about ten features")
        self.mean = ordinary.mean(axis=0)
        self.covariance = np.cov(ordinary, rowvar=False, bias=True).reshape(self.channels, self.channels)
        normal = [rows[outliers] / np.maximum(size[outliers], 1e-30)[:, None] for rows, size, outliers in pairs]
        outlier_rows = np.concatenate(normal) * self.reference_rms
        self.centre = outlier_rows.mean(axis=0) if len(outlier_rows) else self.mean

    def _find_transform(self) -> None:
        """The components, and the step that is the same for all of them."""
        metric, covariance = self._metric(), self.covariance
        if self.has_grid and self.num_rows < _MIN_ROWS_PER_CHANNEL * self.channels:
            metric, covariance = (np.diag(np.diag(matrix)) for matrix in (metric, covariance))
        root, inverse_root = _roots(metric)
        values, vectors = np.linalg.eigh(root @ covariance @ root)
        values, vectors = np.maximum(values[::-1], values.max() * 1e-9), vectors[:, ::-1]
        rms = np.sqrt(values.mean()) or 1.0  # a step then means the same for every model
        back = rms * (inverse_root @ vectors).T  # [component, C]: x = mean + z @ back
        self.scale = np.maximum(np.abs(back).max(axis=0), 1e-30) / (2**BASIS_BITS - 1)
        self.basis = np.rint(back / self.scale)
        self.forward = np.linalg.inv(self.basis * self.scale)

    def _metric(self) -> Array:
        """[C, C]: the cost of an error in the features."""
        variance = np.maximum(np.diag(self.covariance), 1e-9 * np.diag(self.covariance).mean() + 1e-30)
        is_unscaled = self.has_grid or self.layout.family == Family.latent  # not by channel
        by_channel = np.full(self.channels, 1 / variance.mean()) if is_unscaled else 1 / variance
        unweighted = np.diag(by_channel)
        if self.gradients is None:
            return unweighted
        g = np.concatenate([g[~outliers] for g, outliers in zip(self.gradients, self.outliers, strict=True)])
        outer = g.T @ g
        return outer * (self.channels / np.sum(outer * self.covariance)) + _UNWEIGHTED_SHARE * unweighted

    def _transformed(self, rows: Array, outliers: Array) -> Array:
        """z of every row [images, tokens, C]; of outlier rows relative to their own centre."""
        z = (rows - self.mean) @ self.forward
        size = np.sqrt(np.mean(rows[outliers] ** 2, axis=-1))
        gain = np.maximum(size / self.reference_rms, 1e-30)[:, None]
        is_prefix = np.nonzero(outliers)[1] < (self.layout.prefix if self.has_grid else 0)
        is_prefix &= (gain[:, 0] <= OUTLIER_RATIO) & (gain[:, 0] >= 1 / OUTLIER_RATIO)
        finer = np.where(is_prefix, 1.0, self._rounding[2])[:, None]
        z[outliers] = (rows[outliers] / gain - self.centre) * finer @ self.forward
        return z

    def _find_scales(self) -> None:
        """Mean squares of the coefficients, by sample: [1 + B, C] each; and the gains of the bands."""
        num_rows = _NUM_BANDS + 2
        self.gain = np.ones((num_rows, self.channels))
        if self.has_grid and self.gradients is not None:
            self.gain[1:] = self._band_gains()
        self.energies = []
        for z, outliers, grid in zip(self.z, self.outliers, self.grids, strict=True):
            energy = np.empty((num_rows, self.channels))
            isolated = z[outliers] if self.has_grid else z.reshape(-1, self.channels)
            energy[0] = np.mean(isolated**2, axis=0) if len(isolated) else np.mean(z**2, axis=(0, 1))
            energy[1:] = self._band_energy(z, outliers, grid) / self.gain[1:] ** 2 if grid and self.has_grid else 1.0
            self.energies.append(energy)
        if self.has_grid:  # few outlier rows: smooth their scales over the components
            for energy in self.energies:
                energy[0] = np.exp(_smooth(np.log(energy[0] + 1e-9), 4))
        ordinary = np.concatenate([z[~outliers] for z, outliers in zip(self.z, self.outliers, strict=True)])
        deviation = ordinary.std(axis=0)
        ratio = np.abs(ordinary).mean(axis=0) / np.maximum(deviation, 1e-30)
        self.mean_abs = np.where(deviation > 0, ratio, np.sqrt(2 / np.pi))  # of a constant: as of a Gaussian

    def _band_gains(self) -> Array:
        """[B, C]: steps are larger where the result depends less on a component's band."""
        assert self.gradients is not None
        back = self.basis * self.scale
        by_sample = [
            self._band_energy(g @ back.T, outliers, grid)
            for g, outliers, grid in zip(self.gradients, self.outliers, self.grids, strict=True)
            if grid
        ]
        energy = _smooth(np.mean(by_sample, axis=0), 6)
        weight = (energy / energy.mean() + _BAND_SHARE) / (1 + _BAND_SHARE)
        gains: Array = 1 / np.sqrt(weight)
        return gains

    def _band_energy(self, z: Array, outliers: Array, grid: tuple[int, int]) -> Array:
        """[B, C]: mean square of each component's coefficients in each band; empty bands are interpolated."""
        z = np.where(outliers[..., None], 0, z)[:, self.layout.prefix :].astype(np.float32)
        energy = np.mean(forward_dct(z, *grid).astype(np.float64) ** 2, axis=0)  # [h w, C]
        bands = bands_of(_edges(), grid) - 1
        count = np.bincount(bands, minlength=_NUM_BANDS + 1)
        sums = np.zeros((_NUM_BANDS + 1, self.channels))
        np.add.at(sums, bands, energy)
        filled = np.flatnonzero(count)
        logs = np.log(sums[filled] / count[filled, None] + 1e-12)
        every = np.arange(_NUM_BANDS + 1)
        return np.exp(np.stack([np.interp(every, filled, column) for column in logs.T], axis=1))

    def _tables(self) -> tuple[list[Array], Array]:
        """A table for each class, and one for the activity, counted on samples that the scales were not fitted to."""
        num_classes = CLASS_MAX - CLASS_MIN + 1
        radii = [_radius(row + CLASS_MIN) for row in range(num_classes)]
        counts = [np.zeros(radius + 2) for radius in radii]
        activities = np.ones(ACTIVITY_MAX - ACTIVITY_MIN + 1)
        num_folds = min(_NUM_FOLDS, len(self.z))
        for fold in range(num_folds):
            others = [e for i, e in enumerate(self.energies) if i % num_folds != fold] or self.energies
            log_sigma = _log_sigma(np.mean(others, axis=0))
            for index in range(fold, len(self.z), num_folds):
                self._count(index, log_sigma, counts, activities)
        tables = [
            _table(count, 2.0 ** ((row + CLASS_MIN) / CLASSES_PER_OCTAVE), self._rounding[0])
            for row, count in enumerate(counts)
        ]
        return tables, quantize_frequencies(activities)

    def _count(self, index: int, log_sigma: Array, counts: list[Array], activities: Array) -> None:
        """Adds one sample's symbols at several steps, by class; and its rows' activities."""
        z, outliers, grid = self.z[index], self.outliers[index], self.grids[index]
        isolated = z[outliers] if self.has_grid else z.reshape(-1, self.channels)
        sigma = np.exp2(log_sigma[0] / OCTAVE)
        steps = range(self._steps[1], self._steps[0], OCTAVE // 2)
        for step_index in steps:
            step = power_of_two(step_index)
            activity = activity_of(isolated, sigma, self.mean_abs, step)
            activities += np.bincount(activity - ACTIVITY_MIN, minlength=len(activities)) / len(steps)
            classes = class_of(log_sigma[0].astype(np.int32) - step_index) + activity[:, None]
            self._add(classes, isolated, step, counts)
            if self.has_grid and grid:
                body = np.where(outliers[..., None], 0, z)[:, self.layout.prefix :].astype(np.float32)
                bands = bands_of(_edges(), grid)
                coefficients = forward_dct(body, *grid) / self.gain[bands]
                classes = class_of(log_sigma[bands].astype(np.int32) - step_index)
                self._add(np.broadcast_to(classes, coefficients.shape), coefficients, step, counts)

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


def _roots(metric: Array) -> tuple[Array, Array]:
    """metric^(1/2) and metric^(-1/2)."""
    values, vectors = np.linalg.eigh(metric)
    values = np.sqrt(np.maximum(values, values.max() * 1e-12))
    return (vectors * values) @ vectors.T, (vectors / values) @ vectors.T


def _smooth(values: Array, width: int) -> Array:
    """Smooths the last axis with a Gaussian of `width` entries, its ends held."""
    at = np.arange(-3 * width, 3 * width + 1)
    kernel = np.exp(-0.5 * (at / width) ** 2)
    kernel /= kernel.sum()
    padded = np.pad(values, [(0, 0)] * (values.ndim - 1) + [(3 * width, 3 * width)], mode="edge")
    return np.apply_along_axis(lambda row: np.convolve(row, kernel, mode="valid"), -1, padded)
