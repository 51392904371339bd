"""The paper's tables from measured points, as Markdown; below each, whether it says what the paper's says.

Every sentence of agreement is computed (`verdicts.py`), none is typed in. BPFP is `bpfp_payload`, which the paper
counts, with the true `bpfp_wire` beside it.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
from jaxtyping import Float

from dtufc.coding.arrays import Array
from dtufc.coding.transform import NUM_LEVELS
from dtufc_research.paper import paper
from dtufc_research.paper.beyond import ablation_table, baseline_table, codec_table, companding_table, scalar_table
from dtufc_research.paper.compare import is_monotone, reaches
from dtufc_research.paper.histograms import (
    DISTANCES,
    EPSILON,
    OWN_BINS,
    Divergences,
    TaskValues,
    entropy,
    level_counts,
)
from dtufc_research.paper.measure import PROFILES
from dtufc_research.paper.points import Point, select, tasks_of, trained_tasks, untrained_tasks
from dtufc_research.paper.rows import BASELINE, ELIC, HYBRID, KLTPRIOR, gain_cell, long_table, section, table_of
from dtufc_research.paper.verdicts import (
    COMPARABLE,
    aligned,
    balanced,
    best_accuracy,
    cheaper,
    crosses,
    generalizes,
    livelier,
    reached,
    transfers,
    truncation_endured,
)

TRANSFORMED_IN: Final = "baseline-hybrid, transformed features"
TRUNCATED_IN: Final = "hyperprior-hybrid, truncated features"


def results_page(points: Sequence[Point], values: Sequence[TaskValues]) -> str:
    """All tables, one below the other; `values` may be empty."""
    sections = [missing_tasks(points)]
    if len(values) > 1:
        sections.append(table1(values))
        sections.append(figure2_note(values))
    sections += [f(points) for f in (table2, table3, table4, table5, table6, baseline_table, scalar_table)]
    if values:
        sections.append(companding_table(values))
    sections += [ablation_table(points), codec_table(points)]
    return "# The paper's tables, on our models\n\n" + "\n".join(sections)


def missing_tasks(points: Sequence[Point]) -> str:
    """Which tasks stand for the paper's, and which of the paper's are not there."""
    found = tasks_of(points)
    there = [
        f"`{task}` ({PROFILES[task][0]} after layer {PROFILES[task][1]}) for the paper's {name}"
        for task, name in paper.TASK_NAMES.items()
        if task in found
    ]
    lacking = [name for task, name in paper.TASK_NAMES.items() if task not in found]
    text = f"Measured: {', '.join(there)}." if there else "None of the paper's tasks was measured."
    if lacking:
        text += f" Of the paper's tasks not there yet: {', '.join(lacking)}."
    if "llm-16" in found:
        text += f" `llm-16` is {PROFILES['llm-16'][0]} after layer {PROFILES['llm-16'][1]}."
    unseen = [f"`{task}`" for task in untrained_tasks(points)]
    if unseen:
        text += f" No network was trained on the features of {', '.join(unseen)}."
    return (
        text + " Accuracy is agreement with the uncompressed model; of `tti`, the structural similarity of pictures.\n"
    )


def table1(tasks: Sequence[TaskValues]) -> str:
    """KL divergence between the tasks' features, every ordered pair."""
    names = [task.task for task in tasks]
    found = {title: divergences(tasks) for title, divergences in DISTANCES.items()}
    common, own, transformed, *_ = found.values()
    top, low, high = max(paper.KL_ORIGINAL.values()), *_ends(paper.KL_TRANSFORMED.values())
    claim = (
        f"original up to {top:.2f}, transformed {low:.2f} to {high:.2f} (Table 1; bins not stated), "
        "so the transform brings all tasks nearer to one another"
    )
    parts = [
        "KL divergence of the row's task from the column's, in nats (natural logarithm); "
        f"{EPSILON:g} is added to the probability of each bin."
    ]
    for title, pairs in found.items():
        parts += [f"{title} (at most {max(pairs.values()):.2f}):", _matrix(names, pairs)]
    verdicts = [aligned(f"{claim}, on a common grid", common, transformed)]
    verdicts.append(aligned(f"{claim}, each on its own range", own, transformed))
    return section("Table 1: distance between the tasks' features", parts, verdicts)


def table2(points: Sequence[Point]) -> str:
    """The hybrid hyperprior codec and the baselines."""
    pairs = [(task, HYBRID, f"baseline-{kind}") for task in trained_tasks(points) for kind in ("hybrid", task)]
    verdicts = [
        cheaper("better than the baselines of both trainings on CSR and Seg (section 5.3)", points, pairs),
        reached(f"{_sources(paper.HYPERPRIOR)}", points, HYBRID, paper.HYPERPRIOR),
    ]
    return section("Table 2: hyperprior, trained on all tasks", [_with_baselines(points, HYBRID)], verdicts)


def table3(points: Sequence[Point]) -> str:
    """The hybrid ELIC codec and the baselines."""
    tasks = [task for task in trained_tasks(points) if task != "llm"]
    verdicts = [
        cheaper(
            "better than the hyperprior on vision, if not on text (5.3)", points, [(t, ELIC, HYBRID) for t in tasks]
        ),
        reached(f"{_sources(paper.ELIC)}", points, ELIC, paper.ELIC),
    ]
    return section("Table 3: ELIC, trained on all tasks", [_with_baselines(points, ELIC)], verdicts)


def table4(points: Sequence[Point]) -> str:
    """Networks trained on one task, tested on every other."""
    pairs = [
        (curve, task) for family in ("hyperprior", "baseline", KLTPRIOR) for curve, task in crosses(points, family)
    ]
    parts = [long_table(points, [(curve, task) for curve, task in pairs])]
    parts.append(
        "Summary; `best` is the best accuracy of any hyperprior or baseline network on the task, for `kltprior` of "
        "these and its own:"
    )
    parts.append(_cross_summary(points, pairs))
    baselines = [
        (task, curve, curve.replace("hyperprior", "baseline")) for curve, task in crosses(points, "hyperprior")
    ]
    serve = "codecs for transformed features serve tasks they were not trained on (5.4)"
    verdicts = [
        transfers(serve, points, "hyperprior"),
        transfers(f"{serve}; here `kltprior`", points, KLTPRIOR),
        cheaper("and outperform baselines that were trained on another task (5.4)", points, baselines),
    ]
    return section("Table 4: trained on one task, tested on another", parts, verdicts)


def table5(points: Sequence[Point]) -> str:
    """Transformed features into the baseline's codec, truncated features into ours."""
    tasks = trained_tasks(points)
    curves = [(curve, task) for task in tasks for curve in (BASELINE, TRANSFORMED_IN, HYBRID, TRUNCATED_IN)]
    helped = "transformed features gain accuracy in the baseline's codec, untrained for them, on all tasks (5.5)"
    endured = (
        f"truncated features in the universal codec: over {paper.TRUNCATED_GAIN:.2f} more accuracy than the baseline "
        f"at {paper.TRUNCATED_BPFP} BPFP on CSR, comparable elsewhere (5.6; here: a mean loss up to {COMPARABLE})"
    )
    verdicts = [
        cheaper(helped, points, [(task, TRANSFORMED_IN, BASELINE) for task in tasks]),
        truncation_endured(endured, points, TRUNCATED_IN, BASELINE),
    ]
    return section("Table 5: features and codecs crossed", [long_table(points, curves)], verdicts)


def table6(points: Sequence[Point]) -> str:
    """Features no codec was trained on, through the codecs that were trained on others."""
    tasks = untrained_tasks(points)
    claim = f"nearly lossless at {paper.UNSEEN.bpfp} BPFP ({paper.UNSEEN.source}), the error falling with the rate"
    parts = [long_table(points, [(curve, task) for task in tasks for curve in (HYBRID, ELIC, KLTPRIOR)])]
    verdict = generalizes(claim, points, HYBRID, tasks, paper.UNSEEN)
    return section("Table 6: features never seen in training", parts, [verdict])


def figure2_note(tasks: Sequence[TaskValues]) -> str:
    """What Fig. 2 shows, as a number: how even the distributions are."""
    claim = "the transformed features are much more balanced (4.2, Fig. 2)"
    original = {t.task: entropy(np.histogram(t.values, OWN_BINS)[0]) for t in tasks}
    transformed = {t.task: entropy(level_counts(t)) for t in tasks}
    text = (
        f"Entropy of {OWN_BINS} equal bins over each task's own range, and of the {NUM_LEVELS} levels; 8 bits where "
        "all are alike. The picture is below."
    )
    verdict = balanced(claim, original, transformed)
    return section("Figure 2: distributions before and after the transform", [text], [verdict])


def figure3_note(baseline: Float[Array, "M"], transformed: Float[Array, "M"]) -> str:
    """What Fig. 3 shows, of mean |y| of each latent channel with truncated and with transformed features."""
    claim = "truncated features leave much of the latent space idle, transformed ones use it (3.3, Fig. 3)"
    return section("Figure 3: activation of the latent space", [], [livelier(claim, baseline, transformed)])


def _with_baselines(points: Sequence[Point], curve: str) -> str:
    pairs = [(name, task) for task in trained_tasks(points) for name in (curve, BASELINE, f"baseline-{task}")]
    return long_table(points, pairs)


def _cross_summary(points: Sequence[Point], pairs: Iterable[tuple[str, str]]) -> str:
    rows = []
    for curve, task in pairs:
        chosen, best = select(points, curve, task), best_accuracy(points, curve, task)
        monotone, enough = is_monotone(chosen), reaches(chosen, best)
        own = select(points, f"{curve.partition('-')[0]}-{task}", task)
        accuracies = [f"{max(p.accuracy for p in chosen):.3f}", f"{best:.3f}"]
        rows.append(
            [task, curve, *accuracies, _yes(monotone), _yes(enough), _yes(monotone and enough), gain_cell(own, chosen)]
        )
    heads = ["its best", "best", "monotone", "reaches 90 %", "both", "mean accuracy against the task's own codec"]
    return table_of(["task", "curve"], heads, rows)


def _matrix(names: Sequence[str], values: Divergences) -> str:
    rows = [[a, *("0" if a == b else f"{values[a, b]:.2f}" for b in names)] for a in names]
    return table_of(["from"], names, rows)


def _sources(facts: dict[str, paper.Reached]) -> str:
    return ", ".join(
        f"{paper.TASK_NAMES[task]} at {fact.bpfp:.2f} BPFP ({fact.source})" for task, fact in facts.items()
    )


def _ends(values: Iterable[float]) -> tuple[float, float]:
    found = list(values)
    return min(found), max(found)


def _yes(value: bool) -> str:
    return "yes" if value else "no"
