"""The fit of a `Basis` to few rows of many channels: which directions to code together, and how finely.

Two things make a direction worth a component of its own: features vary along it, or the rest of the model reads it.
Both are modelled as a diagonal plus a low rank:

    metric      D^(1/2) (m^2 I + U (L - m^2 I) U') D^(1/2)    D: sensitivity by channel; U: directions read most
    covariance  its leading directions under that metric, and the channels

D comes from the gradients' mean squares, L from samples that did not choose U, so that few gradients do not fit
themselves. Without gradients the metric is the unweighted error.

Of n rows of C channels nothing larger than [n, C] is formed, unless C is small.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from dtufc.coding.arrays import Array
from dtufc.coding.codecs.basis import BASIS_BITS, HEAD_SHIFT, REFLECTION_BITS, UNIT, Basis

_MAX_CELLS: Final = 1 << 20  # rank x channels: bounds the work of a row
_ROWS_PER_DIRECTION: Final = 4
_MIN_ROWS_PER_CHANNEL: Final = 8  # for a whole basis
_READ_SHARE: Final = 0.5  # of the rank, at most for the directions that are read
_MIN_READ: Final = 1.25  # of the mean sensitivity, for a direction to be kept apart
_HEAD_UNIT: Final = 2.0**HEAD_SHIFT / (2**BASIS_BITS - 1)  # the scale of a head whose largest entry is 1
_OVERSAMPLING: Final = 16
_NUM_ITERATIONS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class BasisArrays:
    """The arrays of `Calibration` that a `Basis` is made of."""

    basis: Array
    head_scale: Array
    reflections: Array
    order: Array
    scale: Array

    def build(self) -> Basis:
        return Basis(self.basis, float(self.head_scale[0]), self.reflections, self.order, self.scale)


def rank_of(num_rows: int, channels: int) -> int:
    """The number of leading components that so many rows and channels allow: `channels` for a whole basis."""
    if channels * channels <= _MAX_CELLS and num_rows >= _MIN_ROWS_PER_CHANNEL * channels:
        return channels
    return min(rank_of_work(channels), num_rows // _ROWS_PER_DIRECTION, channels // 2)


def rows_for_all(channels: int) -> int | None:
    """The number of rows from which on the basis is whole; None where work does not allow it."""
    return _MIN_ROWS_PER_CHANNEL * channels if channels * channels <= _MAX_CELLS else None


def rank_of_work(channels: int) -> int:
    """The number of leading components that the work of a row allows."""
    return _MAX_CELLS // channels


def fit_basis(
    rows: Sequence[Array], gradients: Sequence[Array] | None, unweighted: Array, share: float, rank: int
) -> BasisArrays:
    """Fits the components and the one step that all of them have.

    Args:
        rows: of each sample [n, C], centred, float32.
        gradients: of each sample [m, C], float32; or none.
        unweighted: [C], the error's weight by channel where no gradients say better.
        share: of the unweighted error in the metric.
        rank: leading components; C for a whole basis, 0 for the channels.
    """
    every = np.concatenate(rows)
    channels = every.shape[1]
    diagonal, slopes = _sensitivity(every, gradients, unweighted, share)
    scale = 1 / np.sqrt(diagonal)
    scaled = every / scale.astype(np.float32)
    read, roots, rest = _read_directions([slope * scale.astype(np.float32) for slope in slopes], channels, share, rank)
    if rank == channels:
        return _whole(scaled, scale, read, roots, rest)
    variance = np.mean(scaled * scaled, axis=0, dtype=np.float64)
    if not rank:
        order = np.argsort(-variance, kind="stable")
        rms = np.sqrt(variance.mean()) or 1.0
        return BasisArrays(
            basis=np.empty((0, 0), np.int16),
            head_scale=np.ones(1),
            reflections=np.empty((0, channels), np.int8),
            order=order.astype(np.int32),
            scale=scale * (rms * UNIT),
        )
    weighted = _weighted(scaled, read, roots, rest)
    varied = _leading(weighted, rank - len(roots))
    chosen = np.linalg.qr(np.concatenate([read, varied], axis=1))[0]  # [C, r]
    places = np.argsort(-np.sum(chosen * chosen, axis=1), kind="stable")[:rank]
    others = np.setdiff1d(np.arange(channels), places)
    order = np.concatenate([places, others[np.argsort(-variance[others], kind="stable")]])
    reflections = _reflections(chosen[order])
    return _with_head(scaled[:, order], scale[order], read[order], roots, rest, reflections, order)


def _sensitivity(
    rows: Array, gradients: Sequence[Array] | None, unweighted: Array, share: float
) -> tuple[Array, list[Array]]:
    """([C], the diagonal of the metric; the gradients, scaled so that it is their mean square plus the share)."""
    if gradients is None:
        return unweighted, []
    squares = np.mean(np.concatenate(gradients) ** 2, axis=0, dtype=np.float64)
    variance = np.mean(rows * rows, axis=0, dtype=np.float64)
    total = float(squares @ variance)
    factor = len(squares) / total if total > 0 else 0.0
    return squares * factor + share * unweighted, [g * np.float32(np.sqrt(factor)) for g in gradients]


def _read_directions(slopes: Sequence[Array], channels: int, share: float, rank: int) -> tuple[Array, Array, float]:
    """([C, k] orthonormal, the directions that are read most; their weights' roots [k]; the root of the others').

    The weights are mean squares of gradients that did not choose the directions: of each half of the samples along the
    directions of the other half.
    """
    count = int(rank * _READ_SHARE)
    if not slopes or not count:
        return np.empty((channels, 0), np.float32), np.empty(0), 1.0
    halves = [np.concatenate(slopes[start::2]) for start in range(2)] if len(slopes) > 1 else [slopes[0]] * 2
    count = min(count, *map(len, halves))
    held = [np.mean((other @ _leading(half, count)) ** 2, axis=0) for half, other in (halves, halves[::-1])]
    weights = np.minimum.accumulate(np.maximum(np.mean(held, axis=0), 1e-6))
    rest = np.maximum((channels - np.cumsum(weights)) / (channels - 1 - np.arange(count)), share / (1 + share))
    kept = int(np.sum(np.minimum.accumulate((weights > _MIN_READ * rest).astype(int))))
    read = _leading(np.concatenate(slopes), kept)
    return read, np.sqrt(weights[:kept]), float(np.sqrt(rest[kept - 1])) if kept else 1.0


def _weighted(rows: Array, read: Array, roots: Array, rest: float) -> Array:
    """Rows times the metric's root."""
    if not len(roots):
        return rows * np.float32(rest)
    projected = (rows @ read.astype(np.float32)) * (roots - rest).astype(np.float32)
    return rows * np.float32(rest) + projected @ read.T.astype(np.float32)


def _leading(rows: Array, count: int) -> Array:
    """[C, count] orthonormal, float32: the directions of the largest mean squares; by subspace iteration if few."""
    num_rows, channels = rows.shape
    if not count:
        return np.empty((channels, 0), np.float32)
    if 3 * (count + _OVERSAMPLING) >= min(num_rows, channels):
        if channels <= num_rows:
            return np.ascontiguousarray(np.linalg.eigh(rows.T @ rows)[1][:, : -count - 1 : -1])
        vectors = np.ascontiguousarray(np.linalg.eigh(rows @ rows.T)[1][:, : -count - 1 : -1])
        return np.linalg.qr(rows.T @ vectors)[0]
    found = np.random.default_rng(0).standard_normal((channels, count + _OVERSAMPLING), np.float32)
    for _ in range(_NUM_ITERATIONS):
        found = np.linalg.qr(rows.T @ (rows @ found))[0]
    projected = rows @ found
    vectors = np.linalg.eigh(projected.T @ projected)[1]
    return found @ np.ascontiguousarray(vectors[:, : -count - 1 : -1])


def _reflections(chosen: Array) -> Array:
    """[r, C] int8: reflections that swap the span of the first r places with the span of r orthonormal vectors [C, r].

    In the plane of each pair of principal vectors the one is reflected to the other. The planes are orthogonal, so that
    the reflections do not depend on one another.
    """
    rank = chosen.shape[1]
    left, _, right = np.linalg.svd(chosen[:rank].astype(np.float64))
    vectors = -(chosen @ right.T)  # with the sign that keeps the two apart
    vectors[:rank] -= left
    vectors = vectors.T
    largest = np.abs(vectors).max(axis=1, keepdims=True)
    return np.rint(vectors / largest * (2**REFLECTION_BITS - 1)).astype(np.int8)


def _with_head(
    scaled: Array, scale: Array, read: Array, roots: Array, rest: float, reflections: Array, order: Array
) -> BasisArrays:
    """The head for given reflections, in whose rounded directions it is fitted; all arrays but `order` are in order."""
    rank, channels = len(reflections), len(order)
    identity = np.rint(np.eye(rank) * (2**BASIS_BITS - 1)).astype(np.int16)
    plain = Basis(identity, _HEAD_UNIT, reflections, np.arange(channels, dtype=np.int32), np.full(channels, UNIT))
    u = plain.to_components(scaled)
    back = plain.to_channels_fast(np.eye(rank, channels))  # [r, C]
    metric = rest**2 * back @ back.T
    if len(roots):
        along = back @ read
        metric += (along * (roots**2 - rest**2)) @ along.T
    root, inverse_root = _roots(metric)
    head = u[:, :rank].astype(np.float64) @ root
    values, vectors = np.linalg.eigh(head.T @ head / len(head))
    vectors = np.ascontiguousarray(vectors[:, ::-1])
    power = values.sum() + rest**2 * np.sum(np.mean(u[:, rank:] ** 2, axis=0, dtype=np.float64))
    rms = np.sqrt(power / channels) or 1.0  # a step then means the same for every model
    matrix = rest * (vectors.T @ inverse_root)
    largest = np.abs(matrix).max()
    scales = np.empty(channels)
    scales[order] = scale * (rms / rest * UNIT)
    return BasisArrays(
        basis=np.rint(matrix / largest * (2**BASIS_BITS - 1)).astype(np.int16),
        head_scale=np.array([largest * _HEAD_UNIT]),
        reflections=reflections,
        order=order.astype(np.int32),
        scale=scales,
    )


def _whole(scaled: Array, scale: Array, read: Array, roots: Array, rest: float) -> BasisArrays:
    channels = len(scale)
    read = read.astype(np.float64)
    metric = rest**2 * np.eye(channels)
    if len(roots):
        metric += (read * (roots**2 - rest**2)) @ read.T
    root, inverse_root = _roots(metric)
    wide = scaled.astype(np.float64)
    values, vectors = np.linalg.eigh(root @ (wide.T @ wide / len(wide)) @ root)
    vectors = np.ascontiguousarray(vectors[:, ::-1])
    rms = np.sqrt(np.maximum(values, 0).mean()) or 1.0
    back = rms * (vectors.T @ inverse_root) * scale  # [component, C]
    largest = np.maximum(np.abs(back).max(axis=0), 1e-30) / (2**BASIS_BITS - 1)
    return BasisArrays(
        basis=np.rint(back / largest).astype(np.int16),
        head_scale=np.ones(1),
        reflections=np.empty((0, channels), np.int8),
        order=np.arange(channels, dtype=np.int32),
        scale=largest,
    )


def _roots(metric: Array) -> tuple[Array, Array]:
    """metric^(1/2) and metric^(-1/2)."""
    values, vectors = np.linalg.eigh(metric)
    values = np.sqrt(np.maximum(values, values.max() * 1e-12))
    return (vectors * values) @ vectors.T, (vectors / values) @ vectors.T
