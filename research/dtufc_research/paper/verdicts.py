"""Whether our numbers agree with a claim: computed, with the findings that decide.

A verdict has one finding for each task or pair that could be checked. It agrees if every known finding does, and is
open if none is known.
"""

from collections.abc import Iterable, Mapping, Sequence
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
OURS: Final = "ours"  # source of claims that are not the paper's
_MOST_LISTED: Final = 3  # findings

Pair: TypeAlias = tuple[str, str, str]  # task, test curve, anchor curve


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A claim and its source: a section, table or figure of the paper, or `OURS`."""

    source: str
    text: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One check.

    Attributes:
        holds: None if it could not be checked.
        subject: what was checked.
        value: what was found.
        task: a short name of the subject.
    """

    holds: bool | None
    subject: str
    value: str
    task: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """A claim, and whether our findings agree with it."""

    claim: Claim
    findings: Sequence[Finding]

    @property
    def agrees(self) -> bool | None:
        """None if nothing could be checked."""
        known = [finding.holds for finding in self.findings if finding.holds is not None]
        return all(known) if known else None

    @property
    def word(self) -> str:
        return word_of(self.agrees)

    @property
    def found(self) -> str:
        """The findings in a few words."""
        known = [finding for finding in self.findings if finding.holds is not None]
        if len(known) <= _MOST_LISTED:
            return "; ".join(f"{finding.task} {finding.value}".strip() for finding in known) or "not measured"
        return f"{sum(bool(finding.holds) for finding in known)} of {len(known)} cases"


def word_of(holds: bool | None) -> str:
    """yes, no or open."""
    return {True: "yes", False: "no", None: "open"}[holds]


def aligned(claim: Claim, original: Divergences, transformed: Divergences) -> Verdict:
    """Whether the transform reduces the divergence of every pair of tasks."""
    return Verdict(
        claim,
        [
            Finding(
                transformed[pair] < before, f"{pair[0]} from {pair[1]}", f"{before:.2f} -> {transformed[pair]:.2f}", ""
            )
            for pair, before in original.items()
        ],
    )


def balanced(claim: Claim, original: Mapping[str, float], transformed: Mapping[str, float]) -> Verdict:
    """Whether each task's distribution is more uniform after the transform; by entropy, in bits."""
    return Verdict(
        claim,
        [
            Finding(transformed[task] > before, task, f"{before:.2f} -> {transformed[task]:.2f} bits", task)
            for task, before in original.items()
        ],
    )


def cheaper(claim: Claim, points: Sequence[Point], pairs: Iterable[Pair]) -> Verdict:
    """Whether each test curve needs fewer bits than its anchor; without a BD-rate, by accuracy at equal rate."""
    return Verdict(claim, [_cheaper(points, pair) for pair in pairs])


def _cheaper(points: Sequence[Point], pair: Pair) -> Finding:
    task, test_name, anchor_name = pair
    anchor, test = select(points, anchor_name, task), select(points, test_name, task)
    subject = f"{test_name} against {anchor_name} on {task}"
    if not anchor or not test:
        return Finding(None, subject, "not measured", task)
    difference, gain = bd_rate(anchor, test), mean_gain(anchor, test)
    if difference.percent is not None:
        return Finding(difference.percent < 0, subject, f"{difference.percent:+.1f} % bits", task)
    if gain is not None:
        return Finding(gain > 0, subject, f"accuracy {gain:+.3f} at equal rate ({difference.reason})", task)
    return Finding(None, subject, f"no common rate, and {difference.reason}", task)


def reached(claim: Claim, points: Sequence[Point], curve: str, facts: Mapping[str, Reached]) -> Verdict:
    """Whether a curve has the paper's share of the uncompressed accuracy within the paper's rate."""
    return Verdict(claim, [_reached(points, curve, task, fact) for task, fact in facts.items()])


def _reached(points: Sequence[Point], curve: str, task: str, fact: Reached) -> Finding:
    accuracy = accuracy_within(select(points, curve, task), fact.bpfp)
    subject = f"{curve} on {task} within {fact.bpfp:.2f} BPFP"
    if accuracy is None:
        return Finding(None, subject, "no point", task)
    return Finding(accuracy >= fact.share, subject, f"{accuracy:.3f} (paper {fact.share:.3f})", task)


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
    value = " and ".join(problems) or "is monotone and reaches 90 % of the best"
    return Finding(not problems, f"{curve} on {task}", value, task)


def best_accuracy(points: Sequence[Point], curve: str, task: str) -> float:
    """The best on a task of the networks for levels and for truncated features, and of the curve's own family."""
    families = ("hyperprior-", "baseline-", f"{curve.partition('-')[0]}-")
    return max((p.accuracy for p in points if p.task == task and p.curve.startswith(families)), default=1.0)


def transfers(claim: Claim, points: Sequence[Point], family: str) -> Verdict:
    """Whether every network that was trained on one task works on the others."""
    return Verdict(claim, [usable(points, curve, task) for curve, task in crosses(points, family)])


def accepts_truncated(claim: Claim, points: Sequence[Point], test_name: str, anchor_name: str) -> Verdict:
    """Whether truncated features in the universal codec do as well as in the codec that was trained on them."""
    return Verdict(claim, [_accepts_truncated(points, test_name, anchor_name, task) for task in trained_tasks(points)])


def _accepts_truncated(points: Sequence[Point], test_name: str, anchor_name: str, task: str) -> Finding:
    anchor, test = select(points, anchor_name, task), select(points, test_name, task)
    subject = f"{test_name} against {anchor_name} on {task}"
    if task != "llm":
        gain = mean_gain(anchor, test)
        if gain is None:
            return Finding(None, subject, "no common rate, or not measured", task)
        return Finding(gain >= -COMPARABLE, subject, f"accuracy {gain:+.3f} at equal rate", task)
    before, after = (accuracy_within(curve, TRUNCATED_BPFP) for curve in (anchor, test))
    if before is None or after is None:
        return Finding(None, subject, f"no point within {TRUNCATED_BPFP} BPFP", task)
    gain = after - before
    return Finding(gain >= TRUNCATED_GAIN, subject, f"accuracy {gain:+.3f} within {TRUNCATED_BPFP} BPFP", task)


def generalizes(claim: Claim, points: Sequence[Point], curve: str, tasks: Iterable[str], fact: Reached) -> Verdict:
    """Whether features of untrained tasks keep the paper's accuracy at its rate, and their error falls with it."""
    findings = []
    for task in tasks:
        mses = [p.mse for p in select(points, curve, task)]
        findings.append(_reached(points, curve, task, fact))
        if len(mses) > 1:
            falls = mses == sorted(mses, reverse=True)
            value = "MSE falls as the rate rises" if falls else "MSE does not always fall as the rate rises"
            findings.append(Finding(falls, f"{curve} on {task}", value, task))
    return Verdict(claim, findings)


def idle_share(activation: Float[Array, "M"]) -> float:
    """Share of the latent channels with a mean |y| below `IDLE`."""
    return float(np.mean(activation < IDLE))


def more_active(claim: Claim, baseline: Float[Array, "M"], transformed: Float[Array, "M"]) -> Verdict:
    """Whether fewer latent channels idle with transformed features."""
    before, after = idle_share(baseline), idle_share(transformed)
    value = f"{after:.0%} of the channels idle with transformed features, {before:.0%} with truncated ones"
    return Verdict(claim, [Finding(after < before, f"channels below {IDLE}", value, "")])
