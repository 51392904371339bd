"""Grafana's dashboards as code: `operator` and `codec` say what is on them, `grafana` writes Grafana's files.

A dashboard is rows of panels, each panel what it shows, why, in which unit, and what stands there while there is
nothing to show.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

QUIET = "no requests in this time"

Kind = Literal["lines", "stack", "number", "bars"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One panel. A query is PromQL and the legend of its series; `width` is in 24ths of the page."""

    title: str
    text: str
    unit: str
    queries: Sequence[tuple[str, str]]
    kind: Kind = "lines"
    width: int = 8
    empty: str = QUIET
    limits: Sequence[float] = ()  # a number turns orange at the first, red at the second
    highest: float | None = None

    @property
    def height(self) -> int:
        return 4 if self.kind == "number" else 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A heading and the panels below it, left to right."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dashboard:
    """One page. A variable is a label of the edge's requests that the reader may narrow."""

    uid: str
    title: str
    text: str
    rows: Sequence[Row]
    variables: Sequence[str] = ()


def queries(page: Dashboard) -> Iterator[tuple[str, str]]:
    """Title and PromQL of every query of a page."""
    for row in page.rows:
        for panel in row.panels:
            for expr, _ in panel.queries:
                yield panel.title, expr
