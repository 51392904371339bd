"""docs/results/faults.md, from what `faults` and `fuzz_requests` have found."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

Found = Mapping[str, Any]
_GOOD: Final = "good"


def write_page(path: Path) -> None:
    """Writes the page beside the JSON file."""
    results = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    path.with_suffix(".md").write_text(page(results), encoding="utf-8")


def page(results: Found) -> str:
    """Markdown of what the JSON file holds."""
    lines = ["# Faults and hostile requests", ""]
    if "faults" in results:
        lines += [*_answer(results["faults"]), ""]
    if "fuzz" in results:
        lines += [*_fuzz_answer(results["fuzz"]), ""]
    if "faults" in results:
        lines += ["## Faults", "", *_faults(results["faults"]), ""]
    if "fuzz" in results:
        lines += ["## Hostile requests", "", *_fuzz(results["fuzz"]), ""]
    return "\n".join(lines)


def _rows(found: Found) -> list[Found]:
    return [row for fault in found["rows"].values() for row in fault.get("seen", [])]


def _answer(found: Found) -> Iterator[str]:
    rows = _rows(found)
    bad, late = [row for row in rows if row["verdict"]], [row for row in rows if row["verdict"].startswith("beyond")]
    checks = [row for row in rows if row["call"].startswith("health")]
    reached = sum(not row["verdict"] for row in checks)
    slowest = max((row["seconds"] for row in checks), default=0.0)
    yield (
        f"Of {len(rows)} ends of calls under {len(found['rows'])} faults {len(rows) - len(bad)} are as they should be. "
        f"{len(late) or 'None'} came more than a second behind its deadline; health of the side that lives was "
        f"reachable in {reached} of {len(checks)} faults, and took at most {slowest:.2f} s."
    )
    for row in bad:
        yield f"\n**Not good**: {row['call']}: {row['outcome']} after {row['seconds']:.1f} s."


def _faults(found: Found) -> Iterator[str]:
    of = found["of"]
    yield (
        f"Edge and cloud are processes with default settings and the profiles {of['profiles'].replace(',', ' and ')}. "
        "The cloud is in a network namespace: what is lost are packets of its line, dropped by the kernel where they "
        "arrive. Connections are cut and bits flipped by a TCP forwarder between the two. A result counts as "
        "undisturbed if it equals, bit for bit, the one before all faults. A stream is greedy; where its cloud is lost "
        "it goes on at the next that answers."
    )
    yield ""
    yield "| fault | call | what the client saw | s | deadline, s | verdict |"
    yield "|---|---|---|---:|---:|---|"
    for fault in found["rows"].values():
        title = fault["title"]
        if "not run" in fault:
            yield f"| {title} | | not run: {fault['not run']} | | | |"
        for row in fault.get("seen", []):
            tokens = "" if row["tokens"] is None else f", {row['tokens']} tokens"
            seconds, deadline = (f"{row['seconds']:.2f}", f"{row['deadline_s']:g}") if row["deadline_s"] else ("", "")
            cells = (title, row["call"], row["outcome"] + tokens, seconds, deadline, row["verdict"] or _GOOD)
            yield f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
            title = ""
    yield ""
    quick = " In quick mode, which shows that it runs: no figures to quote." if of["quick"] else ""
    yield f"`python -m dtufc_research.evaluation.faults`; on {of['machine']}.{quick}"


def _fuzz_answer(found: Found) -> Iterator[str]:
    codes = {code for tallied in found["codes"].values() for code in tallied}
    bad = sorted(codes & {"INTERNAL", "UNKNOWN", "500"})
    slowest = found["slowest"][0]
    ended = f"some ended in {', '.join(bad)}" if bad else "none ended in an error of the service itself"
    yield f"Of {found['count']:,} hostile requests {ended}; the slowest took {slowest[0]:.2f} s."
    for fault in found["faults"]:
        yield f"\n**Not good**: {fault}."


def _fuzz(found: Found) -> Iterator[str]:
    yield (
        f"{found['count']:,} requests of seed {found['seed']} in {found['seconds']:.0f} s, some tens at a time, to a "
        "pair that serves two tiny models: valid messages whose fields have values at their borders, other types, odd "
        "or long texts, bytes that are no UTF-8, are missing, doubled or invented; bytes that are flipped, cut or "
        "moved; frames of which half have a checksum that fits. One in 50 is compressed; one in 100 has a deadline of "
        "milliseconds."
    )
    yield ""
    tallied = found["codes"]
    codes = sorted({code for each in tallied.values() for code in each}, key=lambda code: (code[0].isdigit(), code))
    for title, names in (
        ("method", [name for name in tallied if not name.startswith("HTTP")]),
        ("over HTTP", [name for name in tallied if name.startswith("HTTP")]),
    ):
        met = [code for code in codes if any(code in tallied[name] for name in names)]
        yield f"| {title} | {' | '.join(met)} |"
        yield f"|---|{'---:|' * len(met)}"
        for name in sorted(names):
            yield f"| {name} | {' | '.join(str(tallied[name].get(code, '')) for code in met)} |"
        yield ""
    yield "| the slowest: s | request | method | end |"
    yield "|---:|---:|---|---|"
    for seconds, number, method, code in found["slowest"]:
        yield f"| {seconds:.2f} | {number} | {method} | {code} |"
    yield ""
    yield "| memory, MB | before | after |"
    yield "|---|---:|---:|"
    for side, (before, after) in found["rss"].items():
        yield f"| {side} | {before / 1e6:.0f} | {after / 1e6:.0f} |"
    yield ""
    ends = ", ".join(f"{count} x {end}" for end, count in found["valid"]["after"].items())
    yield (
        f"Behind them, one valid request of each kind ended as before: {ends}."
        if (found["valid"]["after"] == found["valid"]["before"])
        else f"Behind them, valid requests ended otherwise than before: {ends}."
    )
    yield ""
    yield (
        f"`python -m dtufc_research.evaluation.fuzz_requests --count {found['count']} --seed {found['seed']}`; with "
        f"`--only N` the one of that number; on {found['machine']}."
    )
