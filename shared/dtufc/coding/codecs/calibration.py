"""The fitted arrays of `klt`, and the rules that its fit and coder share: bands, classes, activity, outlier rows."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from dtufc.coding.arrays import Array
from dtufc.coding.codecs.exact import OCTAVE

CLASSES_PER_OCTAVE: Final = 4
CLASS_MIN: Final = -12  # the smallest scale/step, in quarter octaves, that is coded; below it all symbols are zero
CLASS_MAX: Final = 44
ACTIVITY_MIN: Final = -8  # of a row, in quarter octaves
ACTIVITY_MAX: Final = 24
OUTLIER_RATIO: Final = 4.0  # a row is an outlier beyond this ratio of its RMS to the reference RMS
BASIS_BITS: Final = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """All arrays that a decoder needs, as stored in a profile. C channels, B bands.

    Attributes:
        basis: [C, C] int16, the inverse transform; its rows are components, of falling variance. See `pack_basis`.
        scale: [C] float64; x = mean + scale * (z @ basis).
        mean: [C] float64, the mean of ordinary rows.
        centre: [C] float64, the mean of outlier rows, each divided by its gain.
        reference_rms: [1] float64, the reference RMS: the median root mean square of a row.
        log_sigma: [1 + B, C] int16, scales in 1/64 octave; row 0 of rows, the others of the grid's bands.
        gain: [1 + B, C] float32, what a step is multiplied by.
        edges: [B - 2] float64, borders of the bands: squared radius, relative to the highest frequency.
        mean_abs: [C] float32, E|z| / sigma; the encoder's alone.
        rounding: [3] float32: the offset before rounding down, the shift of reconstruction in sixteenths of a step,
            and how much finer outlier rows are coded that are not prefix rows.
        frequencies: flat uint32, the concatenated tables of the classes.
        sizes: [classes] int32, their lengths.
        activity: uint32, the table of the rows' activity.
        steps: [2] int16, the step at quality 0 and at quality 1, in 1/64 octave.
    """

    basis: Array
    scale: Array
    mean: Array
    centre: Array
    reference_rms: Array
    log_sigma: Array
    gain: Array
    edges: Array
    mean_abs: Array
    rounding: Array
    frequencies: Array
    sizes: Array
    activity: Array
    steps: Array


def pack_basis(basis: Array) -> Array:
    """The basis as stored in a profile: [C] int16, each component's channel, if the components are channels."""
    channel = np.abs(basis).argmax(axis=1)
    is_order = np.array_equal(basis, unpack_basis(channel.astype(np.int16)))
    return channel.astype(np.int16) if is_order else basis


def unpack_basis(basis: Array) -> Array:
    """The inverse of `pack_basis`, of any array: one that is not a permutation of channels is returned unchanged."""
    if basis.ndim != 1 or basis.dtype != np.int16 or (np.sort(basis) != np.arange(len(basis))).any():
        return basis
    whole = np.zeros((len(basis), len(basis)), np.int16)
    whole[np.arange(len(basis)), basis] = (1 << BASIS_BITS) - 1
    return whole


def bands_of(edges: Array, grid: tuple[int, int]) -> Array:
    """[h w], the row of `gain` and `log_sigma` for each frequency: 1 for the mean, then by squared radius."""
    bands = np.searchsorted(edges, squared_radii(grid), side="right") + 2
    bands[0] = 1
    return bands


def squared_radii(grid: tuple[int, int]) -> Array:
    """[h w] float64, the squared radii of the frequencies of a grid; 2 is the highest."""
    down, across = (np.arange(size) / max(size - 1, 1) for size in grid)
    return (down[:, None] * down[:, None] + across * across).ravel()


def class_of(log_ratio: Array) -> Array:
    """Ratio of scale to step in 1/64 octave -> class in quarter octaves, to the nearest."""
    width = OCTAVE // CLASSES_PER_OCTAVE
    return (log_ratio + width // 2) // width


def activity_of(z: Array, sigma: Array, mean_abs: Array, step: float) -> Array:
    """[rows] int32: each row's scale against the fitted ones, in quarter octaves.

    It counts the components that are worth bits at this step. Only an encoder uses it.

    Args:
        z: [rows, C], components.
        sigma: [C], their fitted scales.
        mean_abs: [C], E|z| / sigma.
        step: of the quantizer.
    """
    used = max(8, int((sigma > step / 2).sum()))
    relative = np.mean(np.abs(z[:, :used]) / sigma[:used], axis=1) / mean_abs[:used].mean()
    activity = np.rint(CLASSES_PER_OCTAVE * np.log2(np.maximum(relative, 1e-6)))
    return np.clip(activity, ACTIVITY_MIN, ACTIVITY_MAX).astype(np.int32)


def is_outlier_row(sizes: Array, reference_rms: float, *, on_grid: bool) -> Array:
    """Whether rows of these root mean squares are outliers; a row of zeros is not.

    On a grid a small row is ordinary: a rectified feature map has many of them, and a spectrum represents them well.
    """
    ratio = sizes / reference_rms
    return (ratio > OUTLIER_RATIO) | ((ratio < 1 / OUTLIER_RATIO) & (ratio > 0) & (not on_grid))


def is_sound(c: Calibration) -> bool:
    """Whether the arrays have the types, shapes and ranges that exact decoding relies on."""
    if c.basis.ndim != 2 or c.gain.ndim != 2:
        return False
    channels = len(c.basis)
    shapes = [
        (c.basis, np.int16, (channels, channels)),
        *((array, np.float64, (channels,)) for array in (c.scale, c.mean, c.centre)),
        (c.reference_rms, np.float64, (1,)),
        (c.log_sigma, np.int16, (len(c.gain), channels)),
        (c.gain, np.float32, (len(c.gain), channels)),
        (c.edges, np.float64, (len(c.gain) - 3,)),
        (c.mean_abs, np.float32, (channels,)),
        (c.rounding, np.float32, (3,)),
        (c.sizes, np.int32, (CLASS_MAX - CLASS_MIN + 1,)),
        (c.frequencies, np.uint32, (int(c.sizes.sum()),)),
        (c.activity, np.uint32, (ACTIVITY_MAX - ACTIVITY_MIN + 1,)),
        (c.steps, np.int16, (2,)),
    ]
    if any(array.dtype != dtype or array.shape != shape for array, dtype, shape in shapes):
        return False
    floats = (c.scale, c.mean, c.centre, c.reference_rms, c.gain, c.edges, c.mean_abs, c.rounding)
    shift = float(c.rounding[1])
    finite = all(bool(np.isfinite(array).all()) for array in floats)
    positive = min(c.gain.min(), c.scale.min(), c.reference_rms[0], c.rounding[2]) > 0
    return finite and positive and shift in range(16) and bool((np.diff(c.edges) >= 0).all())
