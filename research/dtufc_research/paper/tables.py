"""The paper's tables and figures as data, with a verdict on each of its claims.

Every verdict is computed (`verdicts.py`), none is typed in. Rates are `bpfp_payload`, which the paper counts, with
`bpfp_wire` beside it.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from dtufc.coding.transform import NUM_LEVELS
from dtufc_research.paper import paper
from dtufc_research.paper.compare import is_monotone, reaches
from dtufc_research.paper.distributions import Distributions
from dtufc_research.paper.histograms import EPSILON, OWN_BINS, entropy
from dtufc_research.paper.points import Point, select, trained_tasks, untrained_tasks
from dtufc_research.paper.rows import BASELINE, ELIC, HYBRID, KLTPRIOR, Section, Table, gain_cell, long_table
from dtufc_research.paper.verdicts import (
    COMPARABLE,
    IDLE,
    OURS,
    Claim,
    accepts_truncated,
    aligned,
    balanced,
    best_accuracy,
    cheaper,
    crosses,
    generalizes,
    more_active,
    reached,
    transfers,
    word_of,
)

TRANSFORMED_IN: Final = "baseline-hybrid, transformed features"
TRUNCATED_IN: Final = "hyperprior-hybrid, truncated features"


def table1(found: Distributions) -> Section:
    """KL divergence between the tasks' features, every ordered pair."""
    common, own, transformed, *_ = found.divergences.values()
    rows = [
        [name, a, b, f"{kl:.3f}"]
        for name, divergences in found.divergences.items()
        for (a, b), kl in divergences.items()
    ]
    table = Table(
        name="table1-divergences",
        text="KL divergence of the first task's features from the second's, in nats (natural logarithm); "
        f"{EPSILON:g} is added to the probability of each bin.",
        columns=("features", "task", "other", "kl_nats"),
        rows=rows,
    )
    top, low, high = max(paper.KL_ORIGINAL.values()), *_ends(paper.KL_TRANSFORMED.values())
    said = f"the transform reduces the divergence of tasks, up to {top:.2f} nats, to {low:.2f} to {high:.2f}"
    verdicts = [
        aligned(Claim(source="Table 1", text=f"{said}; here with bins common to both tasks"), common, transformed),
        aligned(Claim(source="Table 1", text="the same; here with bins over each task's own range"), own, transformed),
    ]
    return Section(tables=[table], verdicts=verdicts)


def table2(points: Sequence[Point]) -> Section:
    """The hybrid hyperprior codec and the baselines."""
    pairs = [(task, HYBRID, f"baseline-{kind}") for task in trained_tasks(points) for kind in ("hybrid", task)]
    claim = Claim(source="5.3", text="the hybrid hyperprior needs fewer bits than both baselines, on CSR and Seg")
    verdicts = [
        cheaper(claim, points, pairs),
        reached(_reached_claim("Table 2", paper.HYPERPRIOR), points, HYBRID, paper.HYPERPRIOR),
    ]
    return Section(tables=[_with_baselines("table2-hyperprior", points, HYBRID)], verdicts=verdicts)


def table3(points: Sequence[Point]) -> Section:
    """The hybrid ELIC codec and the baselines."""
    tasks = [task for task in trained_tasks(points) if task != "llm"]
    claim = Claim(source="5.3", text="ELIC needs fewer bits than the hyperprior on vision, if not on text")
    verdicts = [
        cheaper(claim, points, [(task, ELIC, HYBRID) for task in tasks]),
        reached(_reached_claim("Table 3", paper.ELIC), points, ELIC, paper.ELIC),
    ]
    return Section(tables=[_with_baselines("table3-elic", points, ELIC)], verdicts=verdicts)


def table4(points: Sequence[Point]) -> Section:
    """Networks trained on one task, tested on every other."""
    pairs = [
        (curve, task) for family in ("hyperprior", "baseline", KLTPRIOR) for curve, task in crosses(points, family)
    ]
    baselines = [
        (task, curve, curve.replace("hyperprior", "baseline")) for curve, task in crosses(points, "hyperprior")
    ]
    serves = "networks that were trained on one task serve the other tasks"
    beats = "and need fewer bits than baselines that were trained on another task"
    verdicts = [
        transfers(Claim(source="5.4", text=f"{serves}, with transformed features"), points, "hyperprior"),
        cheaper(Claim(source="5.4", text=beats), points, baselines),
        transfers(
            Claim(source=OURS, text="baseline networks that serve a task they were not trained on"), points, "baseline"
        ),
        transfers(Claim(source=OURS, text="`kltprior` networks that do"), points, KLTPRIOR),
    ]
    table = long_table("table4-transfer", "Networks that were trained on one task, on the others.", points, pairs)
    return Section(tables=[table, _cross_summary(points, pairs)], verdicts=verdicts)


def table5(points: Sequence[Point]) -> Section:
    """Transformed features into the baseline's codec, truncated features into ours."""
    tasks = trained_tasks(points)
    curves = [(curve, task) for task in tasks for curve in (BASELINE, TRANSFORMED_IN, HYBRID, TRUNCATED_IN)]
    helps = Claim(source="5.5", text="transformed features gain in the baseline's codec, which was not trained on them")
    accepts = Claim(
        source="5.6",
        text=f"truncated features in the universal codec gain {paper.TRUNCATED_GAIN:.2f} accuracy at "
        f"{paper.TRUNCATED_BPFP} BPFP on CSR and are comparable elsewhere (here: lose at most {COMPARABLE})",
    )
    verdicts = [
        cheaper(helps, points, [(task, TRANSFORMED_IN, BASELINE) for task in tasks]),
        accepts_truncated(accepts, points, TRUNCATED_IN, BASELINE),
    ]
    text = "Transformed and truncated features in the codecs that were trained on either."
    return Section(tables=[long_table("table5-crossed", text, points, curves)], verdicts=verdicts)


def table6(points: Sequence[Point]) -> Section:
    """Features that no codec was trained on, through the codecs that were trained on others."""
    tasks = untrained_tasks(points)
    claim = Claim(source="Table 6", text=f"untrained features are nearly lossless at {paper.UNTRAINED.bpfp} BPFP")
    text = "Features of tasks that no network was trained on."
    table = long_table(
        "table6-untrained", text, points, [(curve, task) for task in tasks for curve in (HYBRID, ELIC, KLTPRIOR)]
    )
    return Section(tables=[table], verdicts=[generalizes(claim, points, HYBRID, tasks, paper.UNTRAINED)])


def figure2_section(found: Distributions) -> Section:
    """Figure 2 as a number: the entropy of the distributions."""
    original = {task.task: entropy(task.counts) for task in found.tasks}
    transformed = {task.task: entropy(task.level_counts) for task in found.tasks}
    table = Table(
        name="figure2-entropy",
        text=f"Entropy in bits of {OWN_BINS} equal bins over each task's own range, and of the {NUM_LEVELS} levels; "
        "8 bits is uniform.",
        columns=("task", "original_bits", "transformed_bits"),
        rows=[[task, f"{original[task]:.2f}", f"{transformed[task]:.2f}"] for task in original],
    )
    claim = Claim(source="Fig. 2", text="transformed features are much more balanced (by entropy)")
    return Section(tables=[table], verdicts=[balanced(claim, original, transformed)])


def figure3_section(found: Distributions) -> Section:
    """Figure 3: mean |y| of each latent channel with truncated and with transformed features."""
    baseline, transformed = found.activations
    claim = Claim(source="Fig. 3", text=f"truncated features leave latent channels idle (mean magnitude below {IDLE})")
    return Section(verdicts=[more_active(claim, baseline.mean_abs, transformed.mean_abs)])


def _with_baselines(name: str, points: Sequence[Point], curve: str) -> Table:
    pairs = [(found, task) for task in trained_tasks(points) for found in (curve, BASELINE, f"baseline-{task}")]
    return long_table(name, f"`{curve}`, trained on all tasks, and the baselines.", points, pairs)


def _cross_summary(points: Sequence[Point], pairs: Iterable[tuple[str, str]]) -> Table:
    rows = []
    for curve, task in pairs:
        chosen, best = select(points, curve, task), best_accuracy(points, curve, task)
        monotone, enough = is_monotone(chosen), reaches(chosen, best)
        own = select(points, f"{curve.partition('-')[0]}-{task}", task)
        accuracies = [f"{max(p.accuracy for p in chosen):.3f}", f"{best:.3f}"]
        rows.append([task, curve, *accuracies, word_of(monotone), word_of(enough), gain_cell(own, chosen)])
    columns = (
        "task",
        "curve",
        "highest",
        "best_accuracy",
        "is_monotone",
        "reaches_90_percent",
        "accuracy_gain",
    )
    text = (
        "The curves of `table4-transfer`. `highest` is their highest accuracy, `best_accuracy` that of any hyperprior "
        "or baseline network on the task (for `kltprior`, also of its own networks). `accuracy_gain` is against the "
        "task's own network, at equal rate."
    )
    return Table(name="table4-summary", text=text, columns=columns, rows=rows)


def _reached_claim(source: str, facts: Mapping[str, paper.Reached]) -> Claim:
    reached_at = (
        f"{fact.share:.1%} on {paper.TASK_NAMES[task]} at {fact.bpfp:.2f} BPFP" for task, fact in facts.items()
    )
    return Claim(source=source, text=f"of the uncompressed accuracy, {', '.join(reached_at)}")


def _ends(values: Iterable[float]) -> tuple[float, float]:
    found = list(values)
    return min(found), max(found)
