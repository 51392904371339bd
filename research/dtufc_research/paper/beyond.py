"""Tables beyond the paper's: what each change of its method is worth, and how all codecs compare.

Hides which curves are held against which.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from dtufc_research.paper.compare import improving
from dtufc_research.paper.histograms import TaskValues, companding_cost, level_counts
from dtufc_research.paper.points import Point, curves_of, select, tasks_of, trained_tasks
from dtufc_research.paper.rows import BASELINE, ELIC, HYBRID, KLTPRIOR, bd_table, long_table, section, table_of
from dtufc_research.paper.verdicts import cheaper

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
_ABLATIONS: Final = (  # what is changed, its curve, and what it is held against
    ("nearest level, not the one below", HYBRID, FLOOR),
    ("far values apart, levels for the others; not levels for all, as in the paper", HYBRID, ALL_VALUES),
    ("a mean and a scale for each channel", AFFINE, HYBRID),
    ("then also the tokens' grid, channel by channel", BOTH, AFFINE),
    ("scale and grid together (text has no grid: the scale alone)", BOTH, HYBRID),
    ("channels centred, and ordered or turned; the tokens' grid; levels for an entropy coder", PCA_ARRANGED, HYBRID),
    ("of these, the levels: for an entropy coder, not Lloyd's", PCA_ARRANGED, PCA_ARRANGED_LLOYD),
    ("tables fitted to training features, not normal", FITTED, HYBRID),
    ("rounding in training, not noise", HYBRID, "hyperprior-noise"),
    ("the same, of the baseline", BASELINE, "baseline-noise"),
    ("three times the steps of training", LONG, HYBRID),
    ("the same, of the baseline", BASELINE_LONG, BASELINE),
    ("the same, of the arranged channels", PCA_ARRANGED_LONG, PCA_ARRANGED),
    ("ELIC trained further, from the shipped network on", ELIC_LONG, ELIC),
    ("coefficients of `klt` in place of levels: `kltprior`", KLTPRIOR, HYBRID),
    ("those coefficients through a network, not a quantizer", KLTPRIOR, "klt"),
    ("ELIC's network", ELIC, HYBRID),
)
_KINDS: Final = (HYBRID, ELIC, KLTPRIOR, "klt", "levels", "blockwise 8 bit, zstd")
_SERVED: Final = {HYBRID: "hyperprior", ELIC: "elic"}  # under which name the product has it
_ACCURACIES: Final = (0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.99)
_BD_NOTE: Final = """\
BD-rate: mean difference of the rate at equal accuracy, over the common accuracy range (in brackets: its share of both
curves' range); negative is fewer bits. pchip over log-rate, improving points only.
"""


def baseline_table(points: Sequence[Point]) -> str:
    """Each network against the baseline that was trained on the same tasks."""
    text = (
        "A `hyperprior` and the baseline of the same name differ in what they were trained on, levels or truncated "
        "features, and in the number and range of their lambdas. `pca-arranged-hybrid` is the same network again, trained "
        "alike, on 256 levels of features whose channels were centred and then turned to their principal components "
        "(text, latents) or ordered by their spread, with the tokens' grid kept (pictures). Its levels are learned for "
        "an entropy coder: even where values are many, sparse where they are few; drawn pictures have no long tails, "
        "and 256 even ones suffice. `pca-arranged-lloyd-hybrid` has the levels of `hyperprior` there. `kltprior` and "
        "`truncated-prior`, networks without g_a and g_s, differ in the features alone: coefficients, or truncated "
        'ones. Steps of each: "How the networks were trained". BD-rates are of the payload, as the paper counts; those '
        "of whole frames are below them."
    )
    tasks = trained_tasks(points)
    kinds = [kind for kind in ("hybrid", *tasks) if f"baseline-{kind}" in curves_of(points)]
    pairs = [(f"hyperprior-{kind}", f"baseline-{kind}") for kind in kinds]
    others = (
        (LONG, BASELINE_LONG),
        (PCA_ARRANGED, BASELINE),
        (PCA_ARRANGED_LONG, BASELINE_LONG),
        (PCA_ARRANGED_LLOYD, BASELINE),
        (KLTPRIOR, TRUNCATED_PRIOR),
        (KLTPRIOR, BASELINE),
        (ELIC, BASELINE),
    )
    pairs += [pair for pair in others if set(pair) <= set(curves_of(points))]
    table, notes = bd_table(points, pairs, tasks)
    alike = [
        (task, test, anchor)
        for test, anchor in pairs
        for task in tasks
        if test.startswith("hyperprior") and test.endswith(("hybrid", task))
    ]
    claim = "fewer bits than the baseline trained alike (Fig. 4)"
    verdicts = [cheaper(claim, points, alike)]
    for name in (PCA_ARRANGED, PCA_ARRANGED_LONG, KLTPRIOR):
        ours = [(task, *pair) for pair in pairs if pair[0] == name for task in tasks if select(points, name, task)]
        verdicts.append(cheaper(f"{claim}; here `{name}`", points, ours))
    on_wire = [replace(point, bpfp_payload=point.bpfp_wire) for point in points]
    parts = [text, _BD_NOTE.strip(), table, notes, "On the wire:", bd_table(on_wire, pairs, tasks)[0]]
    return section("Against the baselines", parts, verdicts)


def scalar_table(points: Sequence[Point]) -> str:
    """What the transform is worth, and what the networks are, without and with one."""
    text = (
        "No network: one step for all levels of a plane, one table for all symbols. Where neighbours on the plane have "
        "little in common, as channels of a language model, a network has little to add. The first row is what the "
        "transform alone is worth against truncation; the others are what each network adds to its own features."
    )
    pairs = [
        (SCALAR_TRANSFORMED, SCALAR_TRUNCATED),
        (HYBRID, SCALAR_TRANSFORMED),
        (ELIC, SCALAR_TRANSFORMED),
        (BASELINE, SCALAR_TRUNCATED),
    ]
    found = [pair for pair in pairs if set(pair) <= set(curves_of(points))]
    table, notes = bd_table(points, found, trained_tasks(points))
    curves = [(curve, task) for task in tasks_of(points) for curve in (SCALAR_TRANSFORMED, SCALAR_TRUNCATED)]
    return section("Without a network", [text, table, notes, long_table(points, curves)], [])


def companding_table(tasks: Sequence[TaskValues]) -> str:
    """What uneven levels cost where an entropy coder follows."""
    text = (
        "Lloyd-Max levels are dense where values are many: best for so many levels. With an entropy coder behind them "
        "even steps are best, as the baseline has them: at equal squared error and a high rate, steps s cost "
        "log2(E[s^2]) / 2 - E[log2 s] bits a value more (Gish and Pierce 1968). A network can win some of it back; "
        "what the baseline loses instead is what truncation cuts off. Of the levels on the test features, in bits:"
    )
    rows = [
        ["the paper's levels", *(f"{companding_cost(level_counts(t), t.transform):.2f}" for t in tasks)],
        ["the product's levels", *(f"{companding_cost(t.trimmed, t.trimmed_transform):.2f}" for t in tasks)],
    ]
    table = table_of(["levels"], [task.task for task in tasks], rows)
    return section("What uneven levels cost", [text, table], [])


def ablation_table(points: Sequence[Point]) -> str:
    """What each change of the codec does."""
    found = [(what, test, anchor) for what, test, anchor in _ABLATIONS if {test, anchor} <= set(curves_of(points))]
    tasks = tasks_of(p for p in points if p.curve in {curve for row in found for curve in row[1:]})
    table, notes = bd_table(points, [(test, anchor) for _, test, anchor in found], tasks, [row[0] for row in found])
    nearest = [(task, HYBRID, FLOOR) for task in trained_tasks(points)]
    verdict = cheaper("eq. 5 sends a value as the nearest level (its public code: the one below)", points, nearest)
    ours = long_table(points, [(curve, task) for task in tasks for curve in (KLTPRIOR, "klt")])
    return section("Beyond the paper: what each change does", [_BD_NOTE.strip(), table, notes, ours], [verdict])


def codec_table(points: Sequence[Point]) -> str:
    """The bits that every kind of codec needs for an accuracy; and which needs the fewest."""
    rows = []
    for task in tasks_of(points):
        for curve in (name for name in _KINDS if select(points, name, task)):
            cells = [_rate_at(select(points, curve, task), accuracy) for accuracy in _ACCURACIES]
            rows.append([task, _SERVED.get(curve, curve), *("-" if cell is None else f"{cell:.3f}" for cell in cells)])
    heads = [f"{accuracy:.2f}" for accuracy in _ACCURACIES]
    text = (
        "BPFP on the wire at which each codec reaches an accuracy, between measured points by log-rate; - where never."
    )
    return section("All codecs", [text, table_of(["task", "codec"], heads, rows)], [])


def _rate_at(points: Sequence[Point], accuracy: float) -> float | None:
    curve = improving(points)
    if not curve or curve[-1].accuracy < accuracy:
        return None
    logs = np.log([p.bpfp_wire for p in curve])
    return float(np.exp(np.interp(accuracy, [p.accuracy for p in curve], logs)))
