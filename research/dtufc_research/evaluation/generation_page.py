"""docs/results/generation.md and its plot, from what `generation` has measured."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

RAW: Final = "raw"
WHOLE: Final = "whole model"
SPAN: Final = 8  # tokens whose bytes are counted at both ends of a reply
EARLIER: Final = {8: (60e3, 1.3), 32: (308e3, 5.9), 96: (1.45e6, 20.5)}  # tokens: bytes, seconds; without sessions
TARGETS: Final = {RAW: 0.9, "klt": 0.85}
_TITLE: Final = """\
# Generation: bytes, seconds and lost clouds

How it works: [generation.md](../generation.md). Edge and cloud are processes on loopback with default settings:
float32, and `klt` at its default quality where no other is named. Both sides and the whole model run on the same
processors with as many threads. Bytes are those of frames and step frames. Where nothing else is said, replies are
greedy, without guessed tokens, and of a fixed length. Answers to questions at each quality: [language.md](language.md).
"""
Rows = Mapping[str, Any]


def write_page(path: Path) -> None:
    """Writes the page, and the plot, beside the JSON file."""
    results = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if results.get("length", {}).get("done"):
        plot_lengths(results["length"]["rows"], path.with_suffix(".png"))
    path.with_suffix(".md").write_text(page(results, path.with_suffix(".png").name), encoding="utf-8")


def page(results: Mapping[str, Any], plot: str) -> str:
    """Markdown of all sections that are done.

    Args:
        results: what the JSON file holds.
        plot: name of the plot's file.
    """
    parts = [_TITLE]
    for name, (title, lines) in _SECTIONS.items():
        found = results.get(name, {})
        if found.get("done"):
            command = f"python -m dtufc_research.evaluation.generation {name}"
            quick = " In quick mode, which shows that it runs: no figures to quote." if found["quick"] else ""
            said = f"`{command}`, {', '.join(found['of']['profiles'])}; on {found['of']['machine']}.{quick}"
            body = list(lines(found["rows"]))
            if name == "length":
                body += ["", f"![bytes and seconds against tokens]({plot})"]
            parts.append("\n".join([f"## {title}", "", *body, "", said, ""]))
    return "\n".join(parts)


def plot_lengths(rows: Rows, path: Path) -> None:
    """Bytes and seconds against tokens, beside those without sessions."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for axis, what, place in zip(axes, ("bytes", "seconds"), (0, 1), strict=True):
        for codec in TARGETS:
            chosen = sorted((row["tokens"], row[what]) for row in rows.values() if row.get("codec") == codec)
            axis.plot(*zip(*chosen, strict=True), "o-", label=codec, markersize=4)
        earlier = [(tokens, costs[place]) for tokens, costs in EARLIER.items()]
        axis.plot(*zip(*earlier, strict=True), "x--", label="without sessions")
        axis.set(xscale="log", yscale="log", xlabel="new tokens", ylabel=what)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _table(head: Sequence[str], rows: Iterator[Sequence[object]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|---|" + "---:|" * (len(head) - 1)
    for row in rows:
        yield f"| {' | '.join(map(str, row))} |"


def _length(rows: Rows) -> Iterator[str]:
    codecs = ("klt", RAW)
    counts = sorted({row["tokens"] for row in rows.values() if "tokens" in row})
    longest = counts[-1]
    shown = [count for count in counts if count not in (1, 1 + SPAN, longest - SPAN)]

    def cells(count: int) -> Iterator[object]:
        yield count
        for codec in codecs:
            row = rows[f"{codec} {count}"]
            yield f"{row['bytes']:,}"
            yield f"{row['seconds']:.2f}"
        bytes_, seconds = EARLIER.get(count, (None, None))
        yield f"{bytes_:,.0f}" if bytes_ else ""
        yield seconds or ""

    head = ["new tokens", *(f"{codec}, {what}" for codec in codecs for what in ("bytes", "s"))]
    yield from _table([*head, "without sessions, bytes", "s"], (list(cells(count)) for count in shown))
    yield ""

    def ends(codec: str) -> Sequence[object]:
        row = rows[f"{codec} {longest}"]
        early = rows[f"{codec} {1 + SPAN}"]["bytes"] - rows[f"{codec} 1"]["bytes"]
        late = row["bytes"] - rows[f"{codec} {longest - SPAN}"]["bytes"]
        return [codec, f"{early:,}", f"{late:,}", f"{late / early:.3f}", *_times(row)]

    head = [
        "",
        f"bytes of the first {SPAN} tokens",
        f"last {SPAN} tokens",
        "ratio",
        "ms a token, start",
        "end",
        "ratio",
    ]
    yield from _table(head, iter([*(ends(codec) for codec in codecs), [WHOLE, "", "", "", *_times(rows[WHOLE])]]))
    yield ""
    yield (
        f"The prompt has {rows[f'klt {longest}']['prompt_tokens']} tokens, whose bytes count to neither end of the "
        "reply. Times are medians over the first and the last third of the longest reply, at most 64 tokens."
    )


def _times(row: Rows) -> Sequence[str]:
    return [f"{1000 * row['start_s']:.1f}", f"{1000 * row['end_s']:.1f}", f"{row['end_s'] / row['start_s']:.2f}"]


_STAGES: Final[Mapping[str, Callable[[Mapping[str, float]], float]]] = {
    "layers of the edge": lambda s: s["edge.backbone"],
    "encode": lambda s: s["edge.encode"],
    "parse and decode": lambda s: s["cloud.parse"] + s["cloud.decode"],
    "layers of the cloud": lambda s: s["cloud.head"],
    "way, sampling": lambda s: s["round_trip"] - s["cloud.parse"] - s["cloud.decode"] - s["cloud.head"],
    "the rest": lambda s: s["all"] - s["edge.backbone"] - s["edge.encode"] - s["round_trip"],
}


def _speed(rows: Rows) -> Iterator[str]:
    def speeds() -> Iterator[Sequence[object]]:
        for name, row in rows.items():
            rates = {way: row["tokens"] / median(seconds) for way, seconds in row["seconds"].items()}
            yield [name, WHOLE, f"{rates[WHOLE]:.2f}", "", "", ""]
            for codec, target in TARGETS.items():
                same = {True: "yes", False: "no"}[row["raw is the whole model's"]] if codec == RAW else ""
                yield [name, codec, f"{rates[codec]:.2f}", f"{rates[codec] / rates[WHOLE]:.2f}", target, same]

    head = ["model", "", "tokens a second", "ratio", "target", "same text"]
    yield from _table(head, speeds())
    yield ""
    yield "The whole model is transformers' `generate` in one process. Where the time of the pair goes, ms a token:"
    yield ""

    def stages() -> Iterator[Sequence[object]]:
        for name, row in rows.items():
            for codec in TARGETS:
                found = row["stages"][codec]
                yield [
                    name,
                    codec,
                    *(f"{1000 * time_of(found) / row['tokens']:.2f}" for time_of in _STAGES.values()),
                ]

    yield from _table(["model", "", *_STAGES], stages())
    counts = {row["tokens"] for row in rows.values()}
    runs = {len(row["seconds"][WHOLE]) for row in rows.values()}
    yield ""
    yield f"Replies of {_listed(counts)} tokens, prompt included; the median of {_listed(runs)} runs, in turn."


def _distance(rows: Rows) -> Iterator[str]:
    def cells() -> Iterator[Sequence[object]]:
        for row in rows.values():
            off = rows[f"{row['round_trip_ms']} {row['prompt']} off"]
            count = row["new_tokens"]
            share = f"{row['accepted'] / row['drafted']:.2f} of {row['drafted']}" if row["drafted"] else ""
            yield [
                row["round_trip_ms"],
                row["prompt"],
                row["drafts"],
                f"{count / row['seconds']:.2f}",
                f"{off['seconds'] * count / row['seconds'] / off['new_tokens']:.2f}",
                share,
                f"{row['on the way'] / count:,.0f}",
                "yes" if row["ids"] == off["ids"] else "no",
            ]

    head = [
        "round trip, ms",
        "prompt",
        "drafts",
        "tokens a second",
        "times off",
        "accepted",
        "bytes a token",
        "same text",
    ]
    yield from _table(head, cells())
    yield ""
    yield (
        "A forwarder on the way holds all that passes for half a round trip each way. `code` asks for a function to be "
        "rewritten, `story` for a story. Bytes a token are all that passes between edge and cloud, both ways, with the "
        "prompt, gRPC's and HTTP/2's own."
    )


def _together(rows: Rows) -> Iterator[str]:
    def cells() -> Iterator[Sequence[object]]:
        for name, row in rows.items():
            seconds = (row[key] for key in ("first_s", "worst_first_s", "gap_s", "worst_gap_s"))
            times = (f"{1000 * value:.0f}" for value in seconds)
            yield [name, row["sessions"], f"{row['tokens_per_s']:.1f}", *times]

    head = [
        "",
        "sessions",
        "tokens a second in all",
        "first token, ms, median",
        "worst",
        "between tokens, median",
        "worst",
    ]
    yield from _table(head, cells())
    late = rows["long prompt"]
    yield ""
    yield (
        f"All sessions of a row start at once. Long prompt: one of {late['prompt_tokens']} tokens comes while they "
        f"run; its own first token takes {late['its_first_token_s']:.2f} s."
    )


def _recovery(rows: Rows) -> Iterator[str]:
    def cells() -> Iterator[Sequence[object]]:
        for clouds in sorted({row["clouds"] for row in rows.values()}):
            chosen = [row for row in rows.values() if row["clouds"] == clouds]
            pauses = [row["longest_pause_s"] for row in chosen]
            yield [
                clouds,
                len(chosen),
                sum(row["equal"] for row in chosen),
                sum(row["recoveries"] > 0 for row in chosen),
                f"{median(pauses):.2f}",
                f"{max(pauses):.2f}",
                f"{max(row['calm_pause_s'] for row in chosen):.2f}",
            ]

    head = ["clouds", "texts", "equal", "hit", "longest pause, s, median", "worst", "undisturbed, worst"]
    yield from _table(head, cells())
    yield ""
    yield (
        "Each text is sampled with a seed, twice: undisturbed, and with SIGKILL for a cloud at a random moment between "
        "first and last token. It is started again at once at the same address. Equal: all tokens are those of the "
        "undisturbed text. Hit: the session was opened again. With two clouds the one that is killed has the session."
    )


def _rate(rows: Rows) -> Iterator[str]:
    models = {name.removeprefix("coded "): row for name, row in rows.items() if name.startswith("coded ")}
    for name, row in models.items():
        qualities = [key for key, value in row.items() if isinstance(value, dict) and "rows" in value]
        yield (
            f"{name}, d = {row['channels']}, in {row['dtype']}: {row['texts']} held-out texts of {row['tokens']} "
            "tokens, each row a step frame of its own, and the whole text as one frame. Rows are float32."
        )
        yield ""

        def cells(row: Rows = row, qualities: Sequence[str] = qualities) -> Iterator[Sequence[object]]:
            yield [RAW, f"{row[RAW]['bytes']:,.0f}", "", f"{row[RAW]['perplexity']:.2f}", ""]
            for quality in qualities:
                alone, whole = row[quality]["rows"], row[quality]["frame"]
                sizes = (f"{each['bytes']:,.0f}" for each in (alone, whole))
                yield [quality, *sizes, *(f"{each['perplexity']:.2f}" for each in (alone, whole))]

        head = ["quality", "bytes a token, rows", "one frame", "perplexity, rows", "one frame"]
        yield from _table(head, cells())
        yield ""
    qualities = sorted({row["quality"] for row in rows.values() if "mode" in row})

    def differing() -> Iterator[Sequence[object]]:
        for quality in qualities:
            found = [rows[f"{mode} {quality}"] for mode in ("tokens", "both")]
            cells = []
            for row in found:
                whole = sum(count == row["tokens"] for count in row["same"])
                cells += [f"{median(row['same']):g}", f"{whole} of {len(row['same'])}"]
            yield [quality, *cells]

    yield (
        "Tokens of the reply before the first one that is not raw's, in the median over prompts, and replies that are "
        "raw's as a whole: with the prompt at quality 1 and the reply's rows at this quality, and with both at it."
    )
    yield ""
    yield from _table(["quality", "rows, tokens", "equal", "both, tokens", "equal"], differing())


def _listed(values: set[int]) -> str:
    return ", ".join(map(str, sorted(values)))


_SECTIONS: Final[Mapping[str, tuple[str, Callable[[Rows], Iterator[str]]]]] = {
    "length": ("Length of the reply", _length),
    "speed": ("Speed beside the whole model", _speed),
    "distance": ("Distance and drafts", _distance),
    "together": ("Several sessions", _together),
    "recovery": ("Lost clouds", _recovery),
    "rate": ("Rate", _rate),
}
