"""Rows of points as Markdown, and the names of the curves that most tables have."""

from collections.abc import Iterable, Sequence
from typing import Final

from dtufc_research.paper.compare import BdRate, bd_rate, mean_gain
from dtufc_research.paper.points import Point, curves_of, select, tasks_of
from dtufc_research.paper.verdicts import Verdict

HYBRID: Final = "hyperprior-hybrid"
ELIC: Final = "elic-hybrid"
BASELINE: Final = "baseline-hybrid"
KLTPRIOR: Final = "kltprior"


def point_table(points: Sequence[Point]) -> str:
    """Every point that was measured."""
    return long_table(points, [(curve, task) for task in tasks_of(points) for curve in curves_of(points)])


def long_table(points: Sequence[Point], curves: Iterable[tuple[str, str]]) -> str:
    """A row for each point of these (curve, task)."""
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
    return table_of(["task", "curve"], ["rate", "BPFP", "BPFP on the wire", "accuracy", "MSE"], rows)


def bd_table(
    points: Sequence[Point], pairs: Sequence[tuple[str, str]], tasks: Sequence[str], names: Sequence[str] = ()
) -> tuple[str, str]:
    """A row for each (test, anchor) and columns for each task, under names of its own; and why numbers are missing."""
    rows, notes = [], []
    for name, (test, anchor) in zip(names or [test for test, _ in pairs], pairs, strict=True):
        cells = []
        for task in tasks:
            curves = select(points, anchor, task), select(points, test, task)
            found: BdRate = bd_rate(*curves)
            cells += [str(found), gain_cell(*curves)]
            if found.reason and all(curves):
                notes.append(f"{test} on {task}: {found.reason}")
        rows.append([name, anchor, *cells])
    heads = [f"{task}: {what}" for task in tasks for what in ("BD-rate", "accuracy at equal rate")]
    return table_of(["curve", "against"], heads, rows), f"No BD-rate: {'; '.join(notes)}." if notes else ""


def table_of(texts: Sequence[str], numbers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of texts, then of numbers, which are aligned to the right."""
    if not rows:
        return "Nothing of this was measured."
    lines = [_line([*texts, *numbers]), "|" + "---|" * len(texts) + "---:|" * len(numbers)]
    return "\n".join(lines + [_line(row) for row in rows])


def section(title: str, parts: Sequence[str], verdicts: Sequence[Verdict]) -> str:
    """A heading, and what is below it; empty parts are left out."""
    return "\n\n".join([f"## {title}", *(part for part in parts if part), *map(str, verdicts)]) + "\n"


def gain_cell(anchor: Sequence[Point], test: Sequence[Point]) -> str:
    """Mean accuracy that `test` has more at equal rate."""
    gain = mean_gain(anchor, test)
    return "-" if gain is None else f"{gain:+.3f}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
