"""Tables as data, tables of points, and the names of the curves that most tables have."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from dtufc_research.paper.compare import bd_rate, mean_gain
from dtufc_research.paper.points import Point, curves_of, select, tasks_of
from dtufc_research.paper.verdicts import Verdict

HYBRID: Final = "hyperprior-hybrid"
ELIC: Final = "elic-hybrid"
BASELINE: Final = "baseline-hybrid"
KLTPRIOR: Final = "kltprior"
_POINT_COLUMNS: Final = ("task", "curve", "rate", "bpfp_payload", "bpfp_wire", "accuracy", "mse")
_BD_COLUMNS: Final = ("curve", "against", "task", "bd_rate_percent", "common_range", "accuracy_gain", "no_bd_rate")


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One table of the results.

    Attributes:
        name: of its file.
        text: what it shows, and how.
        columns: their names.
        rows: a cell for each column; empty where there is no number.
    """

    name: str
    text: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def csv(self) -> str:
        """The table as CSV."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(self.rows)
        return file.getvalue()

    def markdown(self) -> str:
        """The table as Markdown, without its text."""
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Tables of one topic, and the verdicts on them."""

    tables: Sequence[Table] = ()
    verdicts: Sequence[Verdict] = ()


def point_table(points: Sequence[Point]) -> Table:
    """Every point that was measured."""
    curves = [(curve, task) for task in tasks_of(points) for curve in curves_of(points)]
    return long_table("points", "All points.", points, curves)


def long_table(name: str, text: str, points: Sequence[Point], curves: Iterable[tuple[str, str]]) -> Table:
    """A row for each point of these (curve, task)."""
    rows = [
        [
            p.task,
            p.curve,
            "" if p.rate is None else f"{p.rate:.3g}",
            f"{p.bpfp_payload:.3f}",
            f"{p.bpfp_wire:.3f}",
            f"{p.accuracy:.4f}",
            f"{p.mse:.4g}",
        ]
        for curve, task in curves
        for p in select(points, curve, task)
    ]
    return Table(name=name, text=text, columns=_POINT_COLUMNS, rows=rows)


def bd_table(
    name: str,
    text: str,
    points: Sequence[Point],
    pairs: Sequence[tuple[str, str]],
    tasks: Sequence[str],
    changes: Sequence[str] = (),
) -> Table:
    """A row for each (test, anchor) and task; with a column of `changes`, one for each pair, where there are any."""
    rows = []
    for index, (test, anchor) in enumerate(pairs):
        for task in tasks:
            curves = select(points, anchor, task), select(points, test, task)
            if not all(curves):
                continue
            found = bd_rate(*curves)
            percent = "" if found.percent is None else f"{found.percent:.1f}"
            cells = [test, anchor, task, percent, f"{found.span:.2f}", gain_cell(*curves), found.reason or ""]
            rows.append([*changes[index : index + 1], *cells])
    columns = ("change", *_BD_COLUMNS) if changes else _BD_COLUMNS
    return Table(name=name, text=text, columns=columns, rows=rows)


def gain_cell(anchor: Sequence[Point], test: Sequence[Point]) -> str:
    """Mean accuracy of `test` minus that of `anchor` at equal rate."""
    gain = mean_gain(anchor, test)
    return "" if gain is None else f"{gain:+.3f}"
