"""The page of docs/results: verdicts, then plots, then links to the tables, which are CSV files.

Everything here follows from kept numbers: nothing is measured, and no network is needed.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from dtufc_research.paper import paper
from dtufc_research.paper.beyond import (
    baseline_section,
    change_section,
    codec_section,
    companding_section,
    scalar_section,
)
from dtufc_research.paper.distributions import Distributions
from dtufc_research.paper.measure import PROFILES
from dtufc_research.paper.points import Point, tasks_of, untrained_tasks
from dtufc_research.paper.rows import Section, Table
from dtufc_research.paper.tables import (
    figure2_section,
    figure3_section,
    table1,
    table2,
    table3,
    table4,
    table5,
    table6,
)
from dtufc_research.paper.verdicts import OURS, Verdict, word_of

_FIGURES: Final = {
    "figure4.png": "Figure 4: rate against accuracy and error",
    "figure5.png": "Figure 5: networks that were trained on one task, on every other task",
    "figure2.png": "Figure 2: the features, the learned map and the transformed features of each task",
    "figure3.png": "Figure 3: activation of the latent channels",
}
_LINKS: Final = """\
## Tables, data, more pages

- [All tables](tables/README.md) as CSV; `verdicts.csv` has every finding behind the lines above.
- The numbers as JSON: [points](points.json) (Tables 2 to 6, Figures 4 and 5, all codecs),
  [distributions](distributions.json) (Table 1, Figures 2 and 3), [exactness](exactness.json),
  [trainings](networks.json).
- Rate against [quality of generated images](generated-images.md); [what a quality means](quality.md).
- A [vision transformer](vision.md), cut in several places.
- Times [of the learned codecs](speed.md) and [of klt](klt-speed.md); [decoding on other machines](determinism.md).
- With commands of their own, which their pages name: a [large language model](language.md),
  [generation](generation.md), [models of one's own](own-models.md), [features of full size](full-size.md),
  [releases of Python](pythons.md), what [image files](images.md) are taken for, and what
  [cancelled calls](flood.md) leave behind.

`make results` measures and writes the rest. `python -m dtufc_research.paper --pages-only` writes this page, the
tables and the plots again from the JSON files, without measuring.
"""


def sections_of(points: Sequence[Point], found: Distributions) -> list[Section]:
    """All tables and verdicts, in the order of the page."""
    return [
        table1(found),
        figure2_section(found),
        figure3_section(found),
        *(section(points) for section in (table2, table3, table4, table5, table6, baseline_section)),
        change_section(points),
        codec_section(points),
        scalar_section(points),
        companding_section(found),
    ]


def results_page(points: Sequence[Point], sections: Sequence[Section]) -> str:
    """README.md of docs/results."""
    verdicts = [verdict for section in sections for verdict in section.verdicts]
    theirs = [verdict for verdict in verdicts if verdict.claim.source != OURS]
    ours = [verdict for verdict in verdicts if verdict.claim.source == OURS]
    counts = {word: sum(verdict.word == word for verdict in theirs) for word in ("yes", "no", "open")}
    summary = f"We agree with {counts['yes']} of the paper's {len(theirs)} claims, and disagree with {counts['no']}"
    figures = {**_FIGURES, **{f"codecs-{task}.png": f"All codecs on `{task}`" for task in tasks_of(points)}}
    return "\n".join(
        [
            "# Results: the paper's claims, on our models",
            "",
            f"{summary}. {measured_tasks(points)}",
            "",
            "## What the paper says, and what we found",
            "",
            "| paper | claim | found | agree |",
            "|---|---|---|---|",
            *(f"| {v.claim.source} | {v.claim.text} | {v.found} | {v.word} |" for v in theirs),
            "",
            "## What else we found",
            "",
            "| | found |",
            "|---|---|",
            *(f"| {v.claim.text} | {v.found} |" for v in ours),
            "",
            "Bits are BD-rates of the payload: the mean difference of the rate at equal accuracy, negative if fewer.",
            "",
            "## Plots",
            "",
            *(f"{title}:\n\n![{name}]({name})\n" for name, title in figures.items()),
            _LINKS,
        ]
    )


def measured_tasks(points: Sequence[Point]) -> str:
    """Which tasks stand for the paper's, and which of the paper's are missing."""
    found = tasks_of(points)
    there = [
        f"`{task}` ({PROFILES[task][0]}, split {PROFILES[task][1]}) for the paper's {name}"
        for task, name in paper.TASK_NAMES.items()
        if task in found
    ]
    missing = [name for task, name in paper.TASK_NAMES.items() if task not in found]
    text = f"Measured: {', '.join(there)}." if there else "None of the paper's tasks was measured."
    if missing:
        text += f" Not measured: {', '.join(missing)}."
    if "llm-16" in found:
        text += f" `llm-16` is {PROFILES['llm-16'][0]} at split {PROFILES['llm-16'][1]}."
    untrained = [f"`{task}`" for task in untrained_tasks(points)]
    if untrained:
        text += f" No network was trained on {' and '.join(untrained)}."
    return f"{text} Accuracy is agreement with the uncompressed model; of `tti`, structural similarity of the images."


def verdict_table(verdicts: Iterable[Verdict]) -> Table:
    """Every finding behind the verdicts."""
    rows = [
        [verdict.claim.source, verdict.claim.text, verdict.word, found.subject, found.value, word_of(found.holds)]
        for verdict in verdicts
        for found in verdict.findings
    ]
    columns = ("source", "claim", "verdict", "subject", "found", "holds")
    return Table(name="verdicts", text="Every finding behind the verdicts.", columns=columns, rows=rows)


def write_tables(tables: Sequence[Table], folder: Path) -> None:
    """A CSV file for each table, and README.md, which says what they show; other CSV files there are removed."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.csv"):
        path.unlink()
    for table in tables:
        (folder / f"{table.name}.csv").write_text(table.csv(), encoding="utf-8")
    listed = "\n".join(f"| [{table.name}]({table.name}.csv) | {table.text} |" for table in tables)
    note = (
        "`bpfp_payload` is bits a feature value of the payload, as in the paper, `bpfp_wire` of whole frames. "
        "`bd_rate_percent` is the mean difference of the rate at equal accuracy over the common accuracy range (pchip "
        "over log-rate, improving points only; negative is fewer bits); `common_range` is the share of that range in "
        "both curves' range; `accuracy_gain` is the mean difference of the accuracy at equal rate; `no_bd_rate` says "
        "why there is no BD-rate."
    )
    page = f"# Tables\n\n{note}\n\n| file | what it shows |\n|---|---|\n{listed}\n"
    (folder / "README.md").write_text(page, encoding="utf-8")
