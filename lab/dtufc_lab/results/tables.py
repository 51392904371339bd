"""The paper's tables from measured points, as Markdown; below each, whether it says what the paper's says.

Hides how rows are laid out. Every sentence of agreement is computed (`verdicts.py`), none is typed in. BPFP is
`bpfp_payload`, which the paper counts, with the true `bpfp_wire` beside it.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
from jaxtyping import Float

from dtufc.arrays import Array
from dtufc.transform import NUM_LEVELS
from dtufc_lab.results import paper
from dtufc_lab.results.compare import BdRate, bd_rate, improving, is_monotone, mean_gain, reaches
from dtufc_lab.results.histograms import (
    COMMON_BINS,
    EPSILON,
    OWN_BINS,
    Divergences,
    TaskValues,
    channelwise_divergences,
    common_divergences,
    companding_cost,
    entropy,
    level_counts,
    near_divergences,
    own_divergences,
    transformed_divergences,
)
from dtufc_lab.results.measure import PROFILES
from dtufc_lab.results.points import Point, curves_of, seen_tasks, select, tasks_of, unseen_tasks
from dtufc_lab.results.verdicts import (
    COMPARABLE,
    Verdict,
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

HYBRID: Final = "hyperprior-hybrid"
ELIC: Final = "elic-hybrid"
BASELINE: Final = "baseline-hybrid"
ALL_VALUES: Final = "hyperprior-hybrid, levels of all values"
FLOOR: Final = "hyperprior-hybrid, floor"
TRANSFORMED_IN: Final = "baseline-hybrid, transformed features"
TRUNCATED_IN: Final = "hyperprior-hybrid, truncated features"
AFFINE: Final = "affine-hybrid"
BOTH: Final = "affine-grid-hybrid"
ARRANGED: Final = "arranged-hybrid"
ARRANGED_LLOYD: Final = "arranged-lloyd-hybrid"
ARRANGED_LONG: Final = "arranged-long"
LONG: Final = "hyperprior-long"
ELIC_LONG: Final = "elic-long"
BASELINE_LONG: Final = "baseline-long"
FITTED: Final = "hyperprior-hybrid, fitted tables"
KLTPRIOR: Final = "kltprior"
TRUNCATED_PRIOR: Final = "truncated-prior"
SCALAR_TRANSFORMED: Final = "scalar, transformed features"
SCALAR_TRUNCATED: Final = "scalar, truncated features"
ABLATIONS: Final = (  # what is changed, its curve, and what it is held against
    ("nearest level, not the one below", HYBRID, FLOOR),
    ("far values apart, levels for the others; not levels for all, as in the paper", HYBRID, ALL_VALUES),
    ("a mean and a scale for each channel", AFFINE, HYBRID),
    ("then also the tokens' grid, channel by channel", BOTH, AFFINE),
    ("scale and grid together (text has no grid: the scale alone)", BOTH, HYBRID),
    ("channels centred, and ordered or turned; the tokens' grid; levels for an entropy coder", ARRANGED, HYBRID),
    ("of these, the levels: for an entropy coder, not Lloyd's", ARRANGED, ARRANGED_LLOYD),
    ("tables fitted to training features, not normal", FITTED, HYBRID),
    ("rounding in training, not noise", HYBRID, "hyperprior-noise"),
    ("the same, of the baseline", BASELINE, "baseline-noise"),
    ("three times the steps of training", LONG, HYBRID),
    ("the same, of the baseline", BASELINE_LONG, BASELINE),
    ("the same, of the arranged channels", ARRANGED_LONG, ARRANGED),
    ("ELIC trained further, from the shipped network on", ELIC_LONG, ELIC),
    ("coefficients of `klt` in place of levels: `kltprior`", KLTPRIOR, HYBRID),
    ("those coefficients through a network, not a quantizer", KLTPRIOR, "klt"),
    ("ELIC's network", ELIC, HYBRID),
)
KINDS: Final = (HYBRID, ELIC, KLTPRIOR, "klt", "levels", "blockwise 8 bit, zstd")
_SERVED: Final = {HYBRID: "hyperprior", ELIC: "elic"}  # under which name the product has it
_ACCURACIES: Final = (0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.99)
_BD_NOTE: Final = """\
BD-rate: mean difference of the rate at equal accuracy, over the common accuracy range (in brackets: its share of both
curves' range); negative is fewer bits. pchip over log-rate, improving points only.
"""


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
    unseen = [f"`{task}`" for task in unseen_tasks(points)]
    if unseen:
        text += f" No network was trained on the features of {', '.join(unseen)}."
    return (
        text + " Accuracy is agreement with the uncompressed model; of `tti`, the structural similarity of pictures.\n"
    )


def table1(tasks: Sequence[TaskValues]) -> str:
    """KL divergence between the tasks' features, every ordered pair."""
    names = [task.task for task in tasks]
    common, own, transformed = common_divergences(tasks), own_divergences(tasks), transformed_divergences(tasks)
    top, low, high = max(paper.KL_ORIGINAL.values()), *_ends(paper.KL_TRANSFORMED.values())
    claim = (
        f"original up to {top:.2f}, transformed {low:.2f} to {high:.2f} (Table 1; bins not stated), "
        "so the transform brings all tasks nearer to one another"
    )
    text = "KL divergence of the row's task from the column's, in nats (natural logarithm)"
    parts = [
        f"{text}; {EPSILON:g} is added to the probability of each bin.",
        f"Original, {COMMON_BINS} equal bins over the range of both:",
        _matrix(names, common),
        f"Original, {OWN_BINS} equal bins over each task's own range, bin by bin (as a codec sees features scaled to "
        "[0, 1]):",
        _matrix(names, own),
        "Transformed, 256 levels, as the paper does:",
        _matrix(names, transformed),
        "Transformed, 256 levels that are fitted again to the values that do not go apart, as `hyperprior` and `elic` "
        "do:",
        _matrix(names, near_divergences(tasks)),
        "Transformed, 256 levels, with a mean and a scale for each channel before:",
        _matrix(names, channelwise_divergences(tasks)),
    ]
    verdicts = [aligned(f"{claim}, on a common grid", common, transformed)]
    verdicts.append(aligned(f"{claim}, each on its own range", own, transformed))
    return _section("Table 1: distance between the tasks' features", parts, verdicts)


def table2(points: Sequence[Point]) -> str:
    """The hybrid hyperprior codec and the baselines."""
    pairs = [(task, HYBRID, f"baseline-{kind}") for task in seen_tasks(points) for kind in ("hybrid", task)]
    verdicts = [
        cheaper("better than the baselines of both trainings on CSR and Seg (section 5.3)", points, pairs),
        reached(f"{_sources(paper.HYPERPRIOR)}", points, HYBRID, paper.HYPERPRIOR),
    ]
    return _section("Table 2: hyperprior, trained on all tasks", [_with_baselines(points, HYBRID)], verdicts)


def table3(points: Sequence[Point]) -> str:
    """The hybrid ELIC codec and the baselines."""
    tasks = [task for task in seen_tasks(points) if task != "llm"]
    verdicts = [
        cheaper(
            "better than the hyperprior on vision, if not on text (5.3)", points, [(t, ELIC, HYBRID) for t in tasks]
        ),
        reached(f"{_sources(paper.ELIC)}", points, ELIC, paper.ELIC),
    ]
    return _section("Table 3: ELIC, trained on all tasks", [_with_baselines(points, ELIC)], verdicts)


def table4(points: Sequence[Point]) -> str:
    """Networks trained on one task, tested on every other."""
    pairs = [
        (curve, task) for family in ("hyperprior", "baseline", KLTPRIOR) for curve, task in crosses(points, family)
    ]
    parts = [_long_table(points, [(curve, task) for curve, task in pairs])]
    parts.append(
        "Summary; `best` is the best accuracy of any hyperprior or baseline network on the task, for `kltprior` of "
        "these and its own:"
    )
    parts.append(_cross_summary(points, pairs))
    rivals = [(task, curve, curve.replace("hyperprior", "baseline")) for curve, task in crosses(points, "hyperprior")]
    serve = "codecs for transformed features serve tasks they were not trained on (5.4)"
    verdicts = [
        transfers(serve, points, "hyperprior"),
        transfers(f"{serve}; here `kltprior`", points, KLTPRIOR),
        cheaper("and outperform baselines that were trained on another task (5.4)", points, rivals),
    ]
    return _section("Table 4: trained on one task, tested on another", parts, verdicts)


def table5(points: Sequence[Point]) -> str:
    """Transformed features into the baseline's codec, truncated features into ours."""
    tasks = seen_tasks(points)
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
    return _section("Table 5: features and codecs crossed", [_long_table(points, curves)], verdicts)


def table6(points: Sequence[Point]) -> str:
    """Features no codec was trained on, through the codecs that were trained on others."""
    tasks = unseen_tasks(points)
    claim = f"nearly lossless at {paper.UNSEEN.bpfp} BPFP ({paper.UNSEEN.source}), the error falling with the rate"
    parts = [_long_table(points, [(curve, task) for task in tasks for curve in (HYBRID, ELIC, KLTPRIOR)])]
    verdict = generalizes(claim, points, HYBRID, tasks, paper.UNSEEN)
    return _section("Table 6: features never seen in training", parts, [verdict])


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
    return _section("Figure 2: distributions before and after the transform", [text], [verdict])


def figure3_note(baseline: Float[Array, "M"], transformed: Float[Array, "M"]) -> str:
    """What Fig. 3 shows, of mean |y| of each latent channel with truncated and with transformed features."""
    claim = "truncated features leave much of the latent space idle, transformed ones use it (3.3, Fig. 3)"
    return _section("Figure 3: activation of the latent space", [], [livelier(claim, baseline, transformed)])


def baseline_table(points: Sequence[Point]) -> str:
    """Each network against the baseline that was trained on the same tasks."""
    text = (
        "A `hyperprior` and the baseline of the same name differ in what they were trained on, levels or truncated "
        "features, and in the range of their lambdas. `arranged-hybrid` is the same network again, trained alike, on "
        "256 levels of features whose channels were centred and then turned to their principal components (text, "
        "latents) or ordered by their spread, with the tokens' grid kept (pictures). Its levels are learned for an "
        "entropy coder: even where values are many, sparse where they are few. `arranged-lloyd-hybrid` has Lloyd's "
        "in their place. `kltprior` and `truncated-prior`, networks without g_a and g_s, differ in the features alone: "
        "coefficients, or truncated ones. `kltprior` and `baseline-hybrid` were trained for as many steps; "
        "`elic-hybrid` for more, those with `-long` in their names for three times as many."
    )
    tasks = seen_tasks(points)
    kinds = [kind for kind in ("hybrid", *tasks) if f"baseline-{kind}" in curves_of(points)]
    pairs = [(f"hyperprior-{kind}", f"baseline-{kind}") for kind in kinds]
    others = (
        (LONG, BASELINE_LONG),
        (ARRANGED, BASELINE),
        (ARRANGED_LONG, BASELINE_LONG),
        (ARRANGED_LLOYD, BASELINE),
        (KLTPRIOR, TRUNCATED_PRIOR),
        (KLTPRIOR, BASELINE),
        (ELIC, BASELINE),
    )
    pairs += [pair for pair in others if set(pair) <= set(curves_of(points))]
    table, notes = _bd_table(points, pairs, tasks)
    alike = [
        (task, test, anchor)
        for test, anchor in pairs
        for task in tasks
        if test.startswith("hyperprior") and test.endswith(("hybrid", task))
    ]
    claim = "fewer bits than the baseline trained alike (Fig. 4)"
    verdicts = [cheaper(claim, points, alike)]
    for name in (ARRANGED, ARRANGED_LONG, KLTPRIOR):
        ours = [(task, *pair) for pair in pairs if pair[0] == name for task in tasks if select(points, name, task)]
        verdicts.append(cheaper(f"{claim}; here `{name}`", points, ours))
    return _section("Against the baselines", [text, _BD_NOTE.strip(), table, notes], verdicts)


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
    table, notes = _bd_table(points, found, seen_tasks(points))
    curves = [(curve, task) for task in tasks_of(points) for curve in (SCALAR_TRANSFORMED, SCALAR_TRUNCATED)]
    return _section("Without a network", [text, table, notes, _long_table(points, curves)], [])


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
        ["the product's levels", *(f"{companding_cost(t.near, t.near_transform):.2f}" for t in tasks)],
    ]
    table = _table(["levels"], [task.task for task in tasks], rows)
    return _section("What uneven levels cost", [text, table], [])


def ablation_table(points: Sequence[Point]) -> str:
    """What each change of the codec does."""
    found = [(what, test, anchor) for what, test, anchor in ABLATIONS if {test, anchor} <= set(curves_of(points))]
    tasks = tasks_of(p for p in points if p.curve in {curve for row in found for curve in row[1:]})
    table, notes = _bd_table(points, [(test, anchor) for _, test, anchor in found], tasks, [row[0] for row in found])
    nearest = [(task, HYBRID, FLOOR) for task in seen_tasks(points)]
    verdict = cheaper("eq. 5 sends a value as the nearest level (its public code: the one below)", points, nearest)
    ours = _long_table(points, [(curve, task) for task in tasks for curve in (KLTPRIOR, "klt")])
    return _section("Beyond the paper: what each change does", [_BD_NOTE.strip(), table, notes, ours], [verdict])


def codec_table(points: Sequence[Point]) -> str:
    """The bits that every kind of codec needs for an accuracy; and which needs the fewest."""
    rows = []
    for task in tasks_of(points):
        for curve in (name for name in KINDS if select(points, name, task)):
            cells = [_rate_at(select(points, curve, task), accuracy) for accuracy in _ACCURACIES]
            rows.append([task, _SERVED.get(curve, curve), *("-" if cell is None else f"{cell:.3f}" for cell in cells)])
    heads = [f"{accuracy:.2f}" for accuracy in _ACCURACIES]
    text = (
        "BPFP on the wire at which each codec reaches an accuracy, between measured points by log-rate; - where never."
    )
    return _section("All codecs", [text, _table(["task", "codec"], heads, rows)], [])


def point_table(points: Sequence[Point]) -> str:
    """Every point that was measured."""
    return _long_table(points, [(curve, task) for task in tasks_of(points) for curve in curves_of(points)])


def _rate_at(points: Sequence[Point], accuracy: float) -> float | None:
    curve = improving(points)
    if not curve or curve[-1].accuracy < accuracy:
        return None
    logs = np.log([p.bpfp_wire for p in curve])
    return float(np.exp(np.interp(accuracy, [p.accuracy for p in curve], logs)))


def _with_baselines(points: Sequence[Point], curve: str) -> str:
    pairs = [(name, task) for task in seen_tasks(points) for name in (curve, BASELINE, f"baseline-{task}")]
    return _long_table(points, pairs)


def _long_table(points: Sequence[Point], curves: Iterable[tuple[str, str]]) -> str:
    rows = [
        [
            p.task,
            p.curve,
            "-" if p.rate is None else f"{p.rate:.3g}",
            f"{p.bpfp_payload:.3f}",
            f"{p.bpfp_wire:.3f}",
            f"{p.accuracy:.4f}",
            f"{p.mse:.4g}",
        ]
        for curve, task in curves
        for p in select(points, curve, task)
    ]
    return _table(["task", "curve"], ["rate", "BPFP", "BPFP on the wire", "accuracy", "MSE"], rows)


def _cross_summary(points: Sequence[Point], pairs: Iterable[tuple[str, str]]) -> str:
    rows = []
    for curve, task in pairs:
        chosen, best = select(points, curve, task), best_accuracy(points, curve, task)
        monotone, enough = is_monotone(chosen), reaches(chosen, best)
        own = select(points, f"{curve.partition('-')[0]}-{task}", task)
        accuracies = [f"{max(p.accuracy for p in chosen):.3f}", f"{best:.3f}"]
        rows.append(
            [task, curve, *accuracies, _yes(monotone), _yes(enough), _yes(monotone and enough), _gain(own, chosen)]
        )
    heads = ["its best", "best", "monotone", "reaches 90 %", "both", "mean accuracy against the task's own codec"]
    return _table(["task", "curve"], heads, rows)


def _bd_table(
    points: Sequence[Point], pairs: Sequence[tuple[str, str]], tasks: Sequence[str], names: Sequence[str] = ()
) -> tuple[str, str]:
    """A row for each (test, anchor) and columns for each task, under names of its own; and why numbers are missing."""
    rows, notes = [], []
    for name, (test, anchor) in zip(names or [test for test, _ in pairs], pairs, strict=True):
        cells = []
        for task in tasks:
            curves = select(points, anchor, task), select(points, test, task)
            found: BdRate = bd_rate(*curves)
            cells += [str(found), _gain(*curves)]
            if found.reason and all(curves):
                notes.append(f"{test} on {task}: {found.reason}")
        rows.append([name, anchor, *cells])
    heads = [f"{task}: {what}" for task in tasks for what in ("BD-rate", "accuracy at equal rate")]
    return _table(["curve", "against"], heads, rows), f"No BD-rate: {'; '.join(notes)}." if notes else ""


def _matrix(names: Sequence[str], values: Divergences) -> str:
    rows = [[a, *("0" if a == b else f"{values[a, b]:.2f}" for b in names)] for a in names]
    return _table(["from"], names, rows)


def _table(texts: Sequence[str], numbers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return "Nothing of this was measured."
    lines = [_line([*texts, *numbers]), "|" + "---|" * len(texts) + "---:|" * len(numbers)]
    return "\n".join(lines + [_line(row) for row in rows])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _section(title: str, parts: Sequence[str], verdicts: Sequence[Verdict]) -> str:
    return "\n\n".join([f"## {title}", *(part for part in parts if part), *map(str, verdicts)]) + "\n"


def _gain(anchor: Sequence[Point], test: Sequence[Point]) -> str:
    gain = mean_gain(anchor, test)
    return "-" if gain is None else f"{gain:+.3f}"


def _sources(facts: dict[str, paper.Reached]) -> str:
    return ", ".join(
        f"{paper.TASK_NAMES[task]} at {fact.bpfp:.2f} BPFP ({fact.source})" for task, fact in facts.items()
    )


def _ends(values: Iterable[float]) -> tuple[float, float]:
    found = list(values)
    return min(found), max(found)


def _yes(value: bool) -> str:
    return "yes" if value else "no"
