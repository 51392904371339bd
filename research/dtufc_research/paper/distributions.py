"""Distributions of test features as the pages need them; kept as JSON, so that pages are written without the features.

Hides the file's format. Numbers are rounded to six digits.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from jaxtyping import Float

from dtufc.coding.arrays import Array
from dtufc.coding.transform import PeakyToBalanced
from dtufc_research.paper.histograms import (
    DISTANCES,
    OWN_BINS,
    Divergences,
    TaskValues,
    companding_cost,
    level_counts,
)

_FROM: Final = " from "


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskDistribution:
    """A task's test features before and after the paper's transform.

    Attributes:
        edges: of `OWN_BINS` equal bins over the features' range.
        counts: of features in each bin.
        transform: the paper's.
        level_counts: the count of each level.
    """

    task: str
    edges: Float[Array, "257"]
    counts: Float[Array, "256"]
    transform: PeakyToBalanced
    level_counts: Float[Array, "256"]

    @classmethod
    def of(cls, values: TaskValues) -> Self:
        counts, edges = np.histogram(values.values, OWN_BINS)
        return cls(
            task=values.task,
            edges=edges,
            counts=counts.astype(np.float64),
            transform=values.transform,
            level_counts=level_counts(values),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation:
    """Activation of a network's latent channels: mean |y| of each, at a middle rate."""

    curve: str
    mean_abs: Float[Array, "M"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Distributions:
    """The numbers of Table 1, Figures 2 and 3 and the table of uneven levels.

    Attributes:
        num_samples: test features of each task.
        divergences: by the name of the representation of features, in the order of `DISTANCES`.
        tasks: of Figure 2.
        companding: bits a value that uneven levels cost, by the name of the levels and by task.
        activations: of the baseline's network and of the hybrid hyperprior, in this order.
    """

    num_samples: Mapping[str, int]
    divergences: Mapping[str, Divergences]
    tasks: Sequence[TaskDistribution]
    companding: Mapping[str, Mapping[str, float]]
    activations: Sequence[Activation]


def distributions_of(
    tasks: Sequence[TaskValues], activations: Sequence[Activation], num_samples: Mapping[str, int]
) -> Distributions:
    """Computes the distributions of measured values."""
    return Distributions(
        num_samples=num_samples,
        divergences={name: divergences(tasks) for name, divergences in DISTANCES.items()},
        tasks=[TaskDistribution.of(task) for task in tasks],
        companding={
            "the paper's levels": {t.task: companding_cost(level_counts(t), t.transform) for t in tasks},
            "the product's levels": {t.task: companding_cost(t.trimmed, t.trimmed_transform) for t in tasks},
        },
        activations=activations,
    )


def save_distributions(found: Distributions, path: Path) -> None:
    """Writes the distributions."""
    tree = {
        "test features": found.num_samples,
        "table 1": {
            name: {f"{a}{_FROM}{b}": _rounded(kl) for (a, b), kl in pairs.items()}
            for name, pairs in found.divergences.items()
        },
        "figure 2": {
            task.task: {
                "features": {"edges": _rounded(task.edges), "counts": task.counts.astype(int).tolist()},
                "levels": {
                    "values": _rounded(task.transform.centroids),
                    "counts": task.level_counts.astype(int).tolist(),
                },
            }
            for task in found.tasks
        },
        "uneven levels": {
            name: {task: _rounded(cost) for task, cost in costs.items()} for name, costs in found.companding.items()
        },
        "figure 3": {activation.curve: _rounded(activation.mean_abs) for activation in found.activations},
    }
    path.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")


def load_distributions(path: Path) -> Distributions:
    """Reads what `save_distributions` wrote."""
    tree: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    divergences: dict[str, Divergences] = {}
    for name, pairs in tree["table 1"].items():
        divergences[name] = {}
        for pair, kl in pairs.items():
            a, b = pair.split(_FROM)
            divergences[name][a, b] = kl
    return Distributions(
        num_samples=tree["test features"],
        divergences=divergences,
        tasks=[
            TaskDistribution(
                task=task,
                edges=np.array(kept["features"]["edges"]),
                counts=np.array(kept["features"]["counts"], np.float64),
                transform=PeakyToBalanced(np.array(kept["levels"]["values"], np.float32)),
                level_counts=np.array(kept["levels"]["counts"], np.float64),
            )
            for task, kept in tree["figure 2"].items()
        ],
        companding=tree["uneven levels"],
        activations=[Activation(curve=curve, mean_abs=np.array(y)) for curve, y in tree["figure 3"].items()],
    )


def _rounded(values: Any) -> Any:
    """Floats of any shape, to six digits."""
    return np.vectorize(lambda value: float(f"{value:.6g}"))(values).tolist()
