"""The fitted arrays of `klt`, and the rules that its fit and coder share: bands, classes, activity, outlier rows."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Final

import numpy as np

from dtufc.coding.arrays import Array
from dtufc.coding.codecs.basis import BASIS_BITS
from dtufc.coding.codecs.exact import OCTAVE

CLASSES_PER_OCTAVE: Final = 4
CLASS_MIN: Final = -12  # the smallest scale/step, in quarter octaves, that is coded; below it all symbols are zero
CLASS_MAX: Final = 44
ACTIVITY_MIN: Final = -8  # of a row, in quarter octaves
ACTIVITY_MAX: Final = 24
_MIN_USED: Final = 8  # components, for an activity
MAX_CHANNELS: Final = 1 << 15
_MAX_FINER: Final = 2.0**16
MAX_BLOCK: Final = 1024
OUTLIER_RATIO: Final = 4.0  # a row is an outlier beyond this ratio of its RMS to the reference RMS


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """All arrays that a decoder needs, as stored in a profile. C channels, r leading components, B bands.

    Attributes:
        basis: [r, r] int16, T of `Basis`; its rows are components, of falling variance.
        head_scale: [1] float64, what a product with T is multiplied by.
        reflections: [r, C] int8, V of `Basis`; none where r = C.
        order: [C] int32, the channel of each place.
        scale: [C] float64; x = mean + scale * basis.to_channels(z).
        mean: [C] float64, the mean of ordinary rows.
        centre: [C] float64, the mean of outlier rows, each divided by its gain.
        reference_rms: [1] float64, the reference RMS: the median root mean square of a row.
        log_sigma: [1 + B, C] int16, scales in 1/64 octave; row 0 of isolated tokens, the others of the bands.
        gain: [1 + B, C] or [1 + B, 1] float32, what a step is multiplied by.
        edges: [B - 2] float64, borders of a grid's bands: squared radius, relative to the highest frequency.
        block: [1] int32, the length of the blocks of tokens without a grid: a power of two from 2; 0 where every row
            is isolated. Then B is 2 block - 1, and there are no edges.
        mean_abs: [C] float32, E|z| / sigma; the encoder's alone.
        rounding: [3] float32: the offset before rounding down, the shift of reconstruction in sixteenths of a step,
            and how much finer outlier rows are coded that are not prefix rows.
        frequencies: flat uint32, the concatenated tables of the classes.
        sizes: [classes] int32, their lengths.
        activity: uint32, the table of the rows' activity.
        steps: [2] int16, the step at quality 0 and at quality 1, in 1/64 octave.
    """

    basis: Array
    head_scale: Array
    reflections: Array
    order: Array
    scale: Array
    mean: Array
    centre: Array
    reference_rms: Array
    log_sigma: Array
    gain: Array
    edges: Array
    block: Array
    mean_abs: Array
    rounding: Array
    frequencies: Array
    sizes: Array
    activity: Array
    steps: Array


def from_arrays(arrays: Mapping[str, Array]) -> Calibration | None:
    """The calibration of a profile's arrays, of this release or an earlier one; None if they are damaged."""
    added = {"head_scale", "reflections", "order", "block"}  # an earlier release had only whole bases and no blocks
    names = {field.name for field in fields(Calibration)}
    if set(arrays) == names - added and arrays["basis"].ndim and arrays["mean"].shape == arrays["basis"].shape[:1]:
        arrays = {
            **arrays,
            "basis": _whole_basis(arrays["basis"]),
            "head_scale": np.ones(1),
            "reflections": np.empty((0, len(arrays["basis"])), np.int8),
            "order": np.arange(len(arrays["basis"]), dtype=np.int32),
            "block": np.zeros(1, np.int32),
        }
    if set(arrays) != names:
        return None
    calibration = Calibration(**arrays)
    return calibration if _is_sound(calibration) else None


def _whole_basis(basis: Array) -> Array:
    """The basis of an earlier release: a permutation [C] stands for components that are channels."""
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
    used = np.flatnonzero(sigma > step / 2)
    if len(used) < _MIN_USED:
        used = np.argsort(-sigma, kind="stable")[:_MIN_USED]
    relative = np.mean(np.abs(z[:, used]) / sigma[used], axis=1) / mean_abs[used].mean()
    activity = np.rint(CLASSES_PER_OCTAVE * np.log2(np.maximum(relative, 1e-6)))
    return np.clip(activity, ACTIVITY_MIN, ACTIVITY_MAX).astype(np.int32)


def row_rms(rows: Array) -> Array:
    """[images, tokens] float64, the root mean square of each row of [images, tokens, C]."""
    rms: Array = np.sqrt(np.einsum("itc,itc->it", rows, rows, dtype=np.float64) / rows.shape[-1])
    return rms


def is_outlier_row(sizes: Array, reference_rms: float, *, on_grid: bool) -> Array:
    """Whether rows of these root mean squares are outliers; a row of zeros is not.

    On a grid a small row is ordinary: a rectified feature map has many of them, and a spectrum represents them well.
    """
    ratio = sizes / reference_rms
    return (ratio > OUTLIER_RATIO) | ((ratio < 1 / OUTLIER_RATIO) & (ratio > 0) & (not on_grid))


def _is_sound(c: Calibration) -> bool:
    """Whether the arrays have the types, shapes and ranges that exact decoding relies on."""
    if c.basis.ndim != 2 or c.gain.ndim != 2 or c.order.ndim != 1 or c.block.shape != (1,) or c.block.dtype != np.int32:
        return False
    channels, rank, block = len(c.order), len(c.basis), int(c.block[0])
    if not 0 < channels <= MAX_CHANNELS:
        return False
    shapes = [
        (c.basis, np.int16, (rank, rank)),
        (c.head_scale, np.float64, (1,)),
        (c.reflections, np.int8, (0 if rank == channels else rank, channels)),
        (c.order, np.int32, (channels,)),
        *((array, np.float64, (channels,)) for array in (c.scale, c.mean, c.centre)),
        (c.reference_rms, np.float64, (1,)),
        (c.log_sigma, np.int16, (len(c.gain), channels)),
        (c.gain, np.float32, (len(c.gain), channels if c.gain.shape[1] > 1 else 1)),
        (c.edges, np.float64, (0 if block else len(c.gain) - 3,)),
        (c.mean_abs, np.float32, (channels,)),
        (c.rounding, np.float32, (3,)),
        (c.sizes, np.int32, (CLASS_MAX - CLASS_MIN + 1,)),
        (c.frequencies, np.uint32, (c.sizes.sum(),)),
        (c.activity, np.uint32, (ACTIVITY_MAX - ACTIVITY_MIN + 1,)),
        (c.steps, np.int16, (2,)),
    ]
    if any(array.dtype != dtype or array.shape != shape for array, dtype, shape in shapes):
        return False
    is_order = np.array_equal(np.sort(c.order), np.arange(channels))
    if rank > channels or not is_order or not c.reflections.any(axis=1).all():
        return False
    if block and (not 1 < block <= MAX_BLOCK or block & (block - 1) or len(c.gain) != 2 * block):
        return False
    floats = (c.head_scale, c.scale, c.mean, c.centre, c.reference_rms, c.gain, c.edges, c.mean_abs, c.rounding)
    shift = float(c.rounding[1])
    finite = all(bool(np.isfinite(array).all()) for array in floats)
    positive = (
        min(c.gain.min(), c.scale.min(), c.head_scale[0], c.reference_rms[0]) > 0 and 1 <= c.rounding[2] <= _MAX_FINER
    )
    return finite and positive and shift in range(16) and bool((np.diff(c.edges) >= 0).all())
