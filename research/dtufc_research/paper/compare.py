"""Compares curves of points: BD-rate, accuracy at equal rate, and whether a curve behaves.

Hides the package `bjontegaard` and the preprocessing of measured curves. Rates are `bpfp_payload`, as in the paper.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Final

import bjontegaard
import numpy as np

from dtufc.coding.arrays import Array
from dtufc_research.paper.points import Point

TOLERANCE: Final = 0.01  # of accuracy: the largest fall of a monotone curve
REACHED: Final = 0.9  # of the best accuracy: the least of a useful codec
_MIN_POINTS: Final = 4  # of each curve
_MIN_COMMON_POINTS: Final = 2  # of each curve, in the common range
_MIN_SPAN: Final = 0.2  # of the accuracy range of both curves
_NUM_STEPS: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class BdRate:
    """Bjontegaard's difference in rate at equal accuracy.

    Attributes:
        percent: mean difference of the rate; negative if the test curve needs fewer bits, None if unknown.
        span: the common accuracy range as a share of both curves' range together.
        reason: why there is no number.
    """

    percent: float | None
    span: float
    reason: str | None = None

    def __str__(self) -> str:
        return "-" if self.percent is None else f"{self.percent:+.1f} % ({self.span:.0%})"


def improving(points: Sequence[Point]) -> list[Point]:
    """The points of a higher accuracy than every point of a lower or equal rate, by rising rate."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda p: (p.bpfp_payload, -p.accuracy)):
        if not kept or point.accuracy > kept[-1].accuracy:
            kept.append(point)
    return kept


def bd_rate(anchor: Sequence[Point], test: Sequence[Point]) -> BdRate:
    """How many more bits `test` needs than `anchor` for equal accuracy (pchip over log-rate, common range only)."""
    if not anchor or not test:
        return BdRate(percent=None, span=0.0, reason="a curve was not measured")
    curves = improving(anchor), improving(test)
    low = max(curve[0].accuracy for curve in curves)
    high = min(curve[-1].accuracy for curve in curves)
    whole = max(curve[-1].accuracy for curve in curves) - min(curve[0].accuracy for curve in curves)
    span = max(high - low, 0.0) / whole if whole else 0.0
    counts = [sum(low <= p.accuracy <= high for p in curve) for curve in curves]
    if span < _MIN_SPAN:
        return BdRate(percent=None, span=span, reason=f"the common accuracy range is {span:.0%} of both curves' range")
    if min(len(curve) for curve in curves) < _MIN_POINTS:
        return BdRate(percent=None, span=span, reason=f"fewer than {_MIN_POINTS} improving points of a curve")
    if min(counts) < _MIN_COMMON_POINTS:
        return BdRate(percent=None, span=span, reason=f"{min(counts)} points of a curve in the common accuracy range")
    (anchor_rates, anchor_accuracies), (test_rates, test_accuracies) = (_arrays(curve) for curve in curves)
    percent = bjontegaard.bd_rate(
        anchor_rates,
        anchor_accuracies,
        test_rates,
        test_accuracies,
        method="pchip",
        require_matching_points=False,
        min_overlap=0,
    )
    return BdRate(percent=float(percent), span=span)


def accuracy_within(points: Sequence[Point], bpfp: float) -> float | None:
    """The best accuracy at a rate or below, between neighbours by log-rate; None if no point is as cheap.

    Only points that improve on cheaper ones count: a sender would not choose the others.
    """
    curve = improving(points)
    if not curve or bpfp < curve[0].bpfp_payload:
        return None
    rates, accuracies = _arrays(curve)
    return float(np.interp(np.log(bpfp), np.log(rates), accuracies))


def mean_gain(anchor: Sequence[Point], test: Sequence[Point]) -> float | None:
    """Mean accuracy of `test` minus that of `anchor` over their common range of log-rate; None if there is none."""
    if len(anchor) < 2 or len(test) < 2:
        return None
    low = max(min(p.bpfp_payload for p in curve) for curve in (anchor, test))
    high = min(max(p.bpfp_payload for p in curve) for curve in (anchor, test))
    if low >= high:
        return None
    at = np.linspace(np.log(low), np.log(high), _NUM_STEPS)
    means = [float(np.mean(np.interp(at, *_log_curve(curve)))) for curve in (anchor, test)]
    return means[1] - means[0]


def is_monotone(points: Sequence[Point]) -> bool:
    """Whether bits rise with the rate, and accuracy never falls more than `TOLERANCE` below its best so far."""
    ordered = sorted((p for p in points if p.rate is not None), key=lambda p: p.rate or 0.0)
    best = accumulate((p.accuracy for p in ordered), max)
    return all(a.bpfp_payload < b.bpfp_payload for a, b in pairwise(ordered)) and all(
        top - p.accuracy <= TOLERANCE for top, p in zip(best, ordered, strict=True)
    )


def reaches(points: Sequence[Point], best: float) -> bool:
    """Whether some point has `REACHED` of the best accuracy."""
    return any(p.accuracy >= REACHED * best for p in points)


def _arrays(points: Sequence[Point]) -> tuple[Array, Array]:
    return np.array([p.bpfp_payload for p in points]), np.array([p.accuracy for p in points])


def _log_curve(points: Sequence[Point]) -> tuple[Array, Array]:
    rates, accuracies = _arrays(sorted(points, key=lambda p: p.bpfp_payload))
    return np.log(rates), accuracies
