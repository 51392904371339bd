"""Whether our numbers agree with what the paper found: computed, with the sentence that says why.

A verdict is put together from findings, one for each task or pair that could be checked. It agrees where every known
finding does, and stays open where none is known.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from jaxtyping import Float

from dtufc.coding.arrays import Array
from dtufc_research.paper.compare import accuracy_within, bd_rate, is_monotone, mean_gain, reaches
from dtufc_research.paper.histograms import Divergences
from dtufc_research.paper.paper import TRUNCATED_BPFP, TRUNCATED_GAIN, Reached
from dtufc_research.paper.points import Point, select, trained_tasks

COMPARABLE: Final = 0.02  # of accuracy: a mean loss that still counts as comparable
IDLE: Final = 0.05  # mean |y| below which a latent channel counts as unused

Pair: TypeAlias = tuple[str, str, str]  # task, test curve, anchor curve


@dataclass(frozen=True, slots=True)
class Finding:
    """One check; `holds` is None where it could not be made."""

    holds: bool | None
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the paper says, and whether ours agrees; None where nothing was there to check."""

    paper: str
    agrees: bool | None
    because: str

    def __str__(self) -> str:
        words = {True: "agrees", False: "does not agree", None: "cannot be said yet"}
        return f"The paper: {self.paper}. Ours: {words[self.agrees]}, because {self.because}."


def judge(paper: str, findings: Iterable[Finding]) -> Verdict:
    """All findings in one sentence, those that decide first."""
    kept = list(findings)
    known = [finding.holds for finding in kept if finding.holds is not None]
    agrees = all(known) if known else None
    ordered = sorted(kept, key=lambda f: 0 if f.holds == agrees else 2 if f.holds is None else 1)
    against = [finding.text for finding in ordered if not (finding.holds and agrees is False)]
    for_it = [finding.text for finding in ordered if finding.holds and agrees is False]
    because = "; ".join(against) or "nothing of it was measured"
    if for_it:
        because += f". These agree: {'; '.join(for_it)}"
    return Verdict(paper=paper, agrees=agrees, because=because)


def aligned(paper: str, original: Divergences, transformed: Divergences) -> Verdict:
    """Whether the transform brings every pair of tasks nearer."""
    return judge(
        paper,
        (
            Finding(transformed[pair] < before, f"{pair[0]} from {pair[1]} {before:.2f} -> {transformed[pair]:.2f}")
            for pair, before in original.items()
        ),
    )


def balanced(paper: str, original: dict[str, float], transformed: dict[str, float]) -> Verdict:
    """Whether each task's distribution is nearer to an even one after the transform; by entropy, in bits."""
    return judge(
        paper,
        (
            Finding(transformed[task] > before, f"{task} {before:.2f} -> {transformed[task]:.2f} bits")
            for task, before in original.items()
        ),
    )


def cheaper(paper: str, points: Sequence[Point], pairs: Iterable[Pair]) -> Verdict:
    """Whether each test curve needs fewer bits than its anchor; without a BD-rate, by accuracy at equal rate."""
    return judge(paper, (_cheaper(points, pair) for pair in pairs))


def _cheaper(points: Sequence[Point], pair: Pair) -> Finding:
    task, test_name, anchor_name = pair
    anchor, test = select(points, anchor_name, task), select(points, test_name, task)
    what = f"`{test_name}` against `{anchor_name}` on {task}:"
    if not anchor or not test:
        return Finding(None, f"{what} not measured")
    difference, gain = bd_rate(anchor, test), mean_gain(anchor, test)
    if difference.percent is not None:
        return Finding(difference.percent < 0, f"{what} BD-rate {difference.percent:+.1f} %")
    if gain is not None:
        return Finding(gain > 0, f"{what} mean accuracy {gain:+.3f} at equal rate (no BD-rate: {difference.reason})")
    return Finding(None, f"{what} no common rate, and {difference.reason}")


def reached(paper: str, points: Sequence[Point], curve: str, facts: dict[str, Reached]) -> Verdict:
    """Whether a curve has the paper's share of the uncompressed accuracy within the paper's rate."""
    return judge(paper, (_reached(points, curve, task, fact) for task, fact in facts.items()))


def _reached(points: Sequence[Point], curve: str, task: str, fact: Reached) -> Finding:
    accuracy = accuracy_within(select(points, curve, task), fact.bpfp)
    if accuracy is None:
        return Finding(None, f"`{curve}` on {task} has no point within {fact.bpfp:.2f} BPFP")
    return Finding(
        accuracy >= fact.share, f"{task} {accuracy:.3f} within {fact.bpfp:.2f} BPFP (paper {fact.share:.3f})"
    )


def crosses(points: Sequence[Point], family: str) -> list[tuple[str, str]]:
    """(curve, task) of each network of a family that was trained on one task and measured on another."""
    tasks = trained_tasks(points)
    pairs = [(f"{family}-{trained}", task) for trained in tasks for task in tasks if trained != task]
    return [pair for pair in pairs if select(points, *pair)]


def usable(points: Sequence[Point], curve: str, task: str) -> Finding:
    """Whether a curve is monotone and reaches most of the best accuracy that any curve has on the task."""
    chosen = select(points, curve, task)
    monotone, enough = is_monotone(chosen), reaches(chosen, best_accuracy(points, curve, task))
    problems = [text for ok, text in ((monotone, "not monotone"), (enough, "stays below 90 % of the best")) if not ok]
    return Finding(not problems, f"`{curve}` on {task} " + (" and ".join(problems) or "is monotone and reaches 90 %"))


def best_accuracy(points: Sequence[Point], curve: str, task: str) -> float:
    """The best on a task of the networks for levels and for truncated features, and of the curve's own family."""
    families = ("hyperprior-", "baseline-", f"{curve.partition('-')[0]}-")
    return max((p.accuracy for p in points if p.task == task and p.curve.startswith(families)), default=1.0)


def transfers(paper: str, points: Sequence[Point], family: str) -> Verdict:
    """Whether every network that was trained on one task works on the others."""
    return judge(paper, (usable(points, curve, task) for curve, task in crosses(points, family)))


def truncation_endured(paper: str, points: Sequence[Point], test_name: str, anchor_name: str) -> Verdict:
    """Whether truncated features in the universal codec do as well as in the codec that was trained on them."""
    return judge(paper, (_endured(points, test_name, anchor_name, task) for task in trained_tasks(points)))


def _endured(points: Sequence[Point], test_name: str, anchor_name: str, task: str) -> Finding:
    anchor, test = select(points, anchor_name, task), select(points, test_name, task)
    if task != "llm":
        gain = mean_gain(anchor, test)
        if gain is None:
            return Finding(None, f"{task}: no common rate, or not measured")
        return Finding(gain >= -COMPARABLE, f"{task} mean accuracy {gain:+.3f} at equal rate")
    before, after = (accuracy_within(curve, TRUNCATED_BPFP) for curve in (anchor, test))
    if before is None or after is None:
        return Finding(None, f"{task}: no point within {TRUNCATED_BPFP} BPFP")
    gain = after - before
    return Finding(gain >= TRUNCATED_GAIN, f"{task} accuracy {gain:+.3f} within {TRUNCATED_BPFP} BPFP")


def generalizes(paper: str, points: Sequence[Point], curve: str, tasks: Iterable[str], fact: Reached) -> Verdict:
    """Whether unseen features keep the paper's share of accuracy at its rate, and their error falls as it rises."""
    findings = []
    for task in tasks:
        mses = [p.mse for p in select(points, curve, task)]
        findings.append(_reached(points, curve, task, fact))
        if len(mses) > 1:
            falls = mses == sorted(mses, reverse=True)
            words = "falls" if falls else "does not always fall"
            findings.append(Finding(falls, f"{task} MSE {words} as the rate rises"))
    return judge(paper, findings)


def idle_share(activation: Float[Array, "M"]) -> float:
    """Share of the latent channels with a mean |y| below `IDLE`."""
    return float(np.mean(activation < IDLE))


def livelier(paper: str, baseline: Float[Array, "M"], transformed: Float[Array, "M"]) -> Verdict:
    """Whether fewer latent channels idle with transformed features."""
    before, after = idle_share(baseline), idle_share(transformed)
    text = f"{after:.0%} of the channels are below {IDLE} with transformed features, {before:.0%} with truncated ones"
    return judge(paper, [Finding(after < before, text)])
