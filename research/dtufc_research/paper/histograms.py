"""Distributions of the tasks' features before and after the transform, and their divergences (paper eq. 1, Table 1)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Final, TypeAlias

import numpy as np
from jaxtyping import Float

from dtufc.coding.arrays import Array
from dtufc.coding.transform import NUM_LEVELS, PeakyToBalanced

COMMON_BINS: Final = 4096
OWN_BINS: Final = 256
EPSILON: Final = 1e-10

Divergences: TypeAlias = dict[tuple[str, str], float]  # of the first task from the second


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskValues:
    """A task's test features, and what was learned from its fitting features.

    Attributes:
        task: whose.
        values: [n], all features in one.
        transform: the paper's.
        trimmed: [256], the count of each of the product's levels, which are fitted without outliers.
        trimmed_transform: those levels.
        channelwise: [256], the same after a mean and a scale for each channel.
        pca_arranged: [256], of the entropy-constrained levels of PCA-arranged channels.
    """

    task: str
    values: Float[Array, "n"]
    transform: PeakyToBalanced
    trimmed: Float[Array, "256"]
    trimmed_transform: PeakyToBalanced
    channelwise: Float[Array, "256"]
    pca_arranged: Float[Array, "256"]


def kl_divergence(p: Float[Array, "bins"], q: Float[Array, "bins"]) -> float:
    """D(p || q) in nats of two histograms; `EPSILON` is added to each probability, so that no bin is empty."""
    smooth_p, smooth_q = (counts / counts.sum() + EPSILON for counts in (p, q))
    smooth_p, smooth_q = smooth_p / smooth_p.sum(), smooth_q / smooth_q.sum()
    return float(np.sum(smooth_p * np.log(smooth_p / smooth_q)))


def entropy(counts: Float[Array, "bins"]) -> float:
    """In bits; of 256 bins 8 where all are alike."""
    share = counts[counts > 0] / counts.sum()
    return float(-np.sum(share * np.log2(share)))


def level_counts(task: TaskValues) -> Float[Array, "256"]:
    """The count of each level."""
    return np.bincount(task.transform.forward(task.values), minlength=NUM_LEVELS).astype(np.float64)


def common_divergences(tasks: Sequence[TaskValues]) -> Divergences:
    """Divergences of the original features, each pair on `COMMON_BINS` equal bins over the range of both."""
    found = {}
    for a, b in permutations(tasks, 2):
        low, high = min(a.values.min(), b.values.min()), max(a.values.max(), b.values.max())
        counts = [np.histogram(t.values, COMMON_BINS, (float(low), float(high)))[0] for t in (a, b)]
        found[a.task, b.task] = kl_divergence(*counts)
    return found


def own_divergences(tasks: Sequence[TaskValues]) -> Divergences:
    """Divergences of the original features, each on `OWN_BINS` equal bins over its own range, as scaled to [0, 1]."""
    return _pairs(tasks, lambda t: np.histogram(t.values, OWN_BINS)[0])


def transformed_divergences(tasks: Sequence[TaskValues]) -> Divergences:
    """Divergences of the paper's levels."""
    return _pairs(tasks, level_counts)


def trimmed_divergences(tasks: Sequence[TaskValues]) -> Divergences:
    """Divergences of the product's levels."""
    return _pairs(tasks, lambda t: t.trimmed)


def channelwise_divergences(tasks: Sequence[TaskValues]) -> Divergences:
    """Divergences of the levels after a mean and a scale for each channel."""
    return _pairs(tasks, lambda t: t.channelwise)


def pca_arranged_divergences(tasks: Sequence[TaskValues]) -> Divergences:
    """Divergences of the levels of `pca-arranged-hybrid`."""
    return _pairs(tasks, lambda t: t.pca_arranged)


DISTANCES: Final = {  # of Table 1
    f"original, {COMMON_BINS} equal bins over the range of both": common_divergences,
    f"original, {OWN_BINS} equal bins over each task's own range": own_divergences,
    "transformed, the paper's levels": transformed_divergences,
    "transformed, levels without outliers (hyperprior, elic)": trimmed_divergences,
    "transformed, after a mean and a scale for each channel": channelwise_divergences,
    "transformed, entropy-constrained levels of PCA-arranged channels (pca-arranged-hybrid)": pca_arranged_divergences,
}


def companding_cost(counts: Float[Array, "256"], transform: PeakyToBalanced) -> float:
    """Bits a value that entropy-coded uneven steps cost against even ones, at equal squared error and a high rate.

    Steps of size s(x) have the squared error E[s^2] / 12 and the entropy h - E[log2 s]; of equal error, an even step
    is the square root of E[s^2] (Gish and Pierce 1968, "Asymptotically efficient quantizing").
    """
    steps = np.gradient(transform.centroids.astype(np.float64))
    share = counts / counts.sum()
    return float(np.log2(np.sum(share * steps**2)) / 2 - np.sum(share * np.log2(steps)))


def _pairs(tasks: Sequence[TaskValues], histogram: Callable[[TaskValues], Array]) -> Divergences:
    counts = {t.task: histogram(t) for t in tasks}
    return {(a, b): kl_divergence(counts[a], counts[b]) for a, b in permutations(counts, 2)}
