"""Tables beyond the paper's: the gain of each change of its method, and a comparison of all codecs.

Hides which curves are compared with which.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from dtufc_research.paper.compare import improving
from dtufc_research.paper.distributions import Distributions
from dtufc_research.paper.points import Point, curves_of, select, tasks_of, trained_tasks
from dtufc_research.paper.rows import BASELINE, ELIC, HYBRID, KLTPRIOR, Section, Table, bd_table, long_table
from dtufc_research.paper.verdicts import OURS, Claim, cheaper

ALL_VALUES: Final = "hyperprior-hybrid, levels of all values"
FLOOR: Final = "hyperprior-hybrid, floor"
AFFINE: Final = "affine-hybrid"
BOTH: Final = "affine-grid-hybrid"
PCA_ARRANGED: Final = "pca-arranged-hybrid"
PCA_ARRANGED_LLOYD: Final = "pca-arranged-lloyd-hybrid"
PCA_ARRANGED_LONG: Final = "pca-arranged-long"
LONG: Final = "hyperprior-long"
ELIC_LONG: Final = "elic-long"
BASELINE_LONG: Final = "baseline-long"
FITTED: Final = "hyperprior-hybrid, fitted tables"
TRUNCATED_PRIOR: Final = "truncated-prior"
SCALAR_TRANSFORMED: Final = "scalar, transformed features"
SCALAR_TRUNCATED: Final = "scalar, truncated features"
_CHANGES: Final = (  # what is changed, its curve, and the curve without the change
    ("nearest level, not the one below", HYBRID, FLOOR),
    ("levels without outliers, not for all values as in the paper", HYBRID, ALL_VALUES),
    ("a mean and a scale for each channel", AFFINE, HYBRID),
    ("then also the token grid, channel by channel", BOTH, AFFINE),
    ("scale and token grid together (for text, which has no grid, the scale alone)", BOTH, HYBRID),
    ("PCA-arranged channels, the token grid, entropy-constrained levels", PCA_ARRANGED, HYBRID),
    ("of these, the entropy-constrained levels, not Lloyd-Max levels", PCA_ARRANGED, PCA_ARRANGED_LLOYD),
    ("tables fitted to training features, not normal", FITTED, HYBRID),
    ("rounding in training, not noise", HYBRID, "hyperprior-noise"),
    ("rounding in training, not noise: baseline", BASELINE, "baseline-noise"),
    ("three times the training steps", LONG, HYBRID),
    ("three times the training steps: baseline", BASELINE_LONG, BASELINE),
    ("three times the training steps: PCA-arranged channels", PCA_ARRANGED_LONG, PCA_ARRANGED),
    ("ELIC fine-tuned from the shipped network", ELIC_LONG, ELIC),
    ("coefficients of `klt` instead of levels: `kltprior`", KLTPRIOR, HYBRID),
    ("those coefficients through a network, not a quantizer", KLTPRIOR, "klt"),
    ("ELIC's network", ELIC, HYBRID),
)
_KINDS: Final = (HYBRID, ELIC, KLTPRIOR, "klt", "levels", "blockwise 8 bit, zstd")
_SERVED: Final = {HYBRID: "hyperprior", ELIC: "elic"}  # the product's name of the codec
_ACCURACIES: Final = (0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.99)
_PAIRS: Final = (
    (LONG, BASELINE_LONG),
    (PCA_ARRANGED, BASELINE),
    (PCA_ARRANGED_LONG, BASELINE_LONG),
    (PCA_ARRANGED_LLOYD, BASELINE),
    (KLTPRIOR, TRUNCATED_PRIOR),
    (KLTPRIOR, BASELINE),
    (ELIC, BASELINE),
)


def baseline_section(points: Sequence[Point]) -> Section:
    """Each network against the baseline that was trained on the same tasks."""
    tasks = trained_tasks(points)
    kinds = [kind for kind in ("hybrid", *tasks) if f"baseline-{kind}" in curves_of(points)]
    alike = [(f"hyperprior-{kind}", f"baseline-{kind}") for kind in kinds]
    pairs = [*alike, *(pair for pair in _PAIRS if set(pair) <= set(curves_of(points)))]
    text = (
        "Networks against baselines that were trained on the same tasks, by {}. `hyperprior` and the baseline differ "
        "in what they were trained on, levels or truncated features. `pca-arranged` networks are hyperpriors on "
        "entropy-constrained levels of PCA-arranged channels, `pca-arranged-lloyd` on Lloyd-Max levels of them. "
        "`kltprior` and `truncated-prior` differ in the features alone."
    )
    on_wire = [replace(point, bpfp_payload=point.bpfp_wire) for point in points]
    tables = [
        bd_table("baselines", text.format("payload, as in the paper"), points, pairs, tasks),
        bd_table("baselines-wire", text.format("whole frames"), on_wire, pairs, tasks),
    ]
    trained_alike = [
        (task, test, anchor) for test, anchor in alike for task in tasks if test.endswith(("hybrid", task))
    ]
    fewer = Claim(source="Fig. 4", text="fewer bits than the baseline that was trained alike")
    verdicts = [cheaper(fewer, points, trained_alike)]
    ours = (
        ("bits of Lloyd-Max levels against truncation, behind a learned entropy coder", HYBRID, BASELINE),
        ("bits of entropy-constrained levels of PCA-arranged channels against truncation", PCA_ARRANGED, BASELINE),
        ("the same, both trained three times as long", PCA_ARRANGED_LONG, BASELINE_LONG),
        ("bits of `kltprior` against the baseline", KLTPRIOR, BASELINE),
        ("bits of `kltprior` against its own network on truncated features", KLTPRIOR, TRUNCATED_PRIOR),
    )
    for text, test, anchor in ours:
        pairs_of_tasks = [(task, test, anchor) for task in tasks]
        verdicts.append(cheaper(Claim(source=OURS, text=text), points, pairs_of_tasks))
    return Section(tables=tables, verdicts=verdicts)


def scalar_section(points: Sequence[Point]) -> Section:
    """The gain of the transform without a network, and of the networks."""
    pairs = [
        (SCALAR_TRANSFORMED, SCALAR_TRUNCATED),
        (HYBRID, SCALAR_TRANSFORMED),
        (ELIC, SCALAR_TRANSFORMED),
        (BASELINE, SCALAR_TRUNCATED),
    ]
    found = [pair for pair in pairs if set(pair) <= set(curves_of(points))]
    text = (
        "Without a network: one step for all levels of a plane, one table for all symbols. The first pair is the gain "
        "of the transform over truncation; the others are the gain of each network on its own features."
    )
    curves = [(curve, task) for task in tasks_of(points) for curve in (SCALAR_TRANSFORMED, SCALAR_TRUNCATED)]
    return Section(
        tables=[
            bd_table("without-network", text, points, found, trained_tasks(points)),
            long_table("without-network-points", "The points without a network.", points, curves),
        ]
    )


def companding_section(found: Distributions) -> Section:
    """The cost of uneven levels before an entropy coder."""
    text = (
        "Bits a value that uneven levels cost before an entropy coder. Lloyd-Max levels are optimal for a number of "
        "levels; for an entropy, uniform steps are. At equal squared error and a high rate, steps s cost "
        "log2(E[s^2]) / 2 - E[log2 s] bits a value more (Gish and Pierce 1968)."
    )
    rows = [[name, task, f"{cost:.2f}"] for name, costs in found.companding.items() for task, cost in costs.items()]
    return Section(tables=[Table(name="uneven-levels", text=text, columns=("levels", "task", "bits"), rows=rows)])


def change_section(points: Sequence[Point]) -> Section:
    """The gain of each change of the codec."""
    found = [(what, test, anchor) for what, test, anchor in _CHANGES if {test, anchor} <= set(curves_of(points))]
    pairs, changes = [(test, anchor) for _, test, anchor in found], [what for what, _, _ in found]
    tasks = tasks_of(p for p in points if p.curve in {curve for pair in pairs for curve in pair})
    table = bd_table("changes", "What each change of the paper's method does.", points, pairs, tasks, changes)
    claim = Claim(source="eq. 5", text="the nearest level (the paper's public code takes the level below)")
    nearest = [(task, HYBRID, FLOOR) for task in trained_tasks(points)]
    curves = [(curve, task) for task in tasks for curve in (KLTPRIOR, "klt")]
    kltprior = long_table("changes-klt-points", "The points of `kltprior` and `klt`.", points, curves)
    return Section(tables=[table, kltprior], verdicts=[cheaper(claim, points, nearest)])


def codec_section(points: Sequence[Point]) -> Section:
    """The bits that every kind of codec needs for an accuracy."""
    rows = []
    for task in tasks_of(points):
        for curve in (name for name in _KINDS if select(points, name, task)):
            cells = [_rate_at(select(points, curve, task), accuracy) for accuracy in _ACCURACIES]
            rows.append([task, _SERVED.get(curve, curve), *("" if cell is None else f"{cell:.3f}" for cell in cells)])
    text = (
        "BPFP of whole frames at which each codec reaches an accuracy, between measured points by log-rate; empty if "
        "it never does."
    )
    columns = ("task", "codec", *(f"{accuracy:.2f}" for accuracy in _ACCURACIES))
    return Section(tables=[Table(name="codecs", text=text, columns=columns, rows=rows)])


def _rate_at(points: Sequence[Point], accuracy: float) -> float | None:
    curve = improving(points)
    if not curve or curve[-1].accuracy < accuracy:
        return None
    logs = np.log([p.bpfp_wire for p in curve])
    return float(np.exp(np.interp(accuracy, [p.accuracy for p in curve], logs)))
