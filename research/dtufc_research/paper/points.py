"""Measured points: one for each curve, task and rate; kept as JSON.

Hides the file's format: nested by curve, task and rate, sorted, with rounded numbers, so that a diff of two
measurements shows which point changed.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

KNOWN_TASKS: Final = ("llm", "vit", "tti", "cnn", "llm-16")  # in the order of the tables
_UNTRAINED_TASKS: Final = frozenset({"cnn", "llm-16"})  # no network is to be trained on their features
_NO_RATE: Final = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One codec at one setting, over all test features of one task.

    Attributes:
        curve: the codec and, after a comma, what differs from its default.
        task: whose features.
        rate: the position in the network's range, or the quality, in [0, 1]; None if a codec has only one.
        bpfp_payload: bits a feature value, entropy-coded strings only (as the paper counts).
        bpfp_wire: bits a feature value, the whole frame.
        accuracy: agreement with the uncompressed model, in [0, 1]; of generated images, their structural similarity.
        mse: of the features, not of the plane.
        encode_ms: a feature, median.
        decode_ms: a feature, median.
    """

    curve: str
    task: str
    rate: float | None
    bpfp_payload: float
    bpfp_wire: float
    accuracy: float
    mse: float
    encode_ms: float
    decode_ms: float


def select(points: Iterable[Point], curve: str, task: str) -> list[Point]:
    """The points of one curve on one task, by rising rate."""
    return sorted((p for p in points if p.curve == curve and p.task == task), key=_rate)


def tasks_of(points: Iterable[Point]) -> list[str]:
    """The tasks that were measured: the known ones in the order of the tables, others after them."""
    found = {p.task for p in points}
    return [task for task in KNOWN_TASKS if task in found] + sorted(found.difference(KNOWN_TASKS))


def trained_tasks(points: Iterable[Point]) -> list[str]:
    """The measured tasks that networks are trained on."""
    return [task for task in tasks_of(points) if task not in _UNTRAINED_TASKS]


def untrained_tasks(points: Iterable[Point]) -> list[str]:
    """The measured tasks that no network is trained on."""
    return [task for task in tasks_of(points) if task in _UNTRAINED_TASKS]


def curves_of(points: Iterable[Point]) -> list[str]:
    """Every curve's name, in the order of its first point."""
    return list(dict.fromkeys(p.curve for p in points))


def save_points(points: Sequence[Point], path: Path) -> None:
    """Writes the points.

    Raises:
        ValueError: two points of one curve, task and rate.
    """
    tree: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for point in sorted(points, key=lambda p: (p.curve, p.task, _rate(p))):
        rates = tree.setdefault(point.curve, {}).setdefault(point.task, {})
        key = _NO_RATE if point.rate is None else f"{point.rate:.6g}"
        if key in rates:
            raise ValueError(f"two points of {point.curve!r} on {point.task!r} at rate {key}")
        rates[key] = _numbers(point)
    path.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")


def load_points(path: Path) -> list[Point]:
    """Reads what `save_points` wrote."""
    tree: dict[str, dict[str, dict[str, dict[str, float]]]] = json.loads(path.read_text(encoding="utf-8"))
    return [
        Point(curve=curve, task=task, rate=None if rate == _NO_RATE else float(rate), **numbers)
        for curve, tasks in tree.items()
        for task, rates in tasks.items()
        for rate, numbers in rates.items()
    ]


def _numbers(point: Point) -> dict[str, float]:
    values = asdict(point)
    for name in ("curve", "task", "rate"):
        del values[name]
    return {name: float(f"{value:.6g}") for name, value in values.items()}


def _rate(point: Point) -> float:
    return -1.0 if point.rate is None else point.rate
