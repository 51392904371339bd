"""`python -m dtufc_research.evaluation.fuzz_requests`: a hundred thousand hostile requests to a pair.

The pair serves tiny models; asked are every method of both sides, and the edge's interface over HTTP. A request is made
of the seed and its number: `--seed S --only N` sends that one alone, and shows it. What came of all goes into
docs/results/faults.json, and from there into docs/results/faults.md. The status is 1 where a reply, a log or a process
is not as it should be.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import dtufc
from dtufc.coding.feature_codec import FeatureCodec
from dtufc_research.evaluation.faults_page import write_page
from dtufc_research.evaluation.fuzz_cases import CLOUD, EDGE, Calls
from dtufc_research.evaluation.fuzz_sending import Sender
from dtufc_research.evaluation.machine import machine
from dtufc_research.evaluation.process import Service, free_port
from dtufc_research.evaluation.tiny import fitted, tiny_classifier, tiny_decoder

RESULTS: Final = Path(__file__).parents[3] / "docs" / "results"
MAX_GROWTH_BYTES: Final = 200 << 20  # of a process, over all requests
_SHOWN: Final = 5  # numbers of bad requests, of each kind
_WARM: Final = 10  # rounds of valid requests, before memory is looked at
_LIMITS: Final = {"max-message-bytes": str(1 << 20), "queue-limit": "256"}
_EDGE_LIMITS: Final = {"max-prompt-tokens": "64", "max-new-tokens": "8"}
_CLOUD_LIMITS: Final = {"max-tokens": "72", "max-sessions": "1000", "session-idle-s": "1"}


@dataclass(frozen=True, slots=True)
class Target:
    """A pair of tiny models, and what makes calls to it."""

    edge: Service
    cloud: Service
    http: str
    calls: Calls

    def sender(self, seed: int) -> Sender:
        """Of requests of this seed."""
        return Sender(seed, self.calls, {EDGE: self.edge.address, CLOUD: self.cloud.address}, self.http)


@contextmanager
def target() -> Iterator[Target]:
    """Makes the models, and starts the pair."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name in ("decoder", "classifier", "logs"):
            (folder / name).mkdir()
        profiles = [
            fitted(tiny_decoder("Llama", folder / "decoder"), folder / "decoder"),
            fitted(tiny_classifier(folder / "classifier"), folder / "classifier"),
        ]
        served = {"profiles": f"{folder}/decoder/profile,{folder}/classifier/profile", **_LIMITS}
        http = f"127.0.0.1:{free_port()}"
        cloud = Service("cloud", {**served, **_CLOUD_LIMITS}, folder / "logs")
        edge_flags = {**served, **_EDGE_LIMITS, "cloud": cloud.address, "http-listen": http}
        edge = Service("edge", edge_flags, folder / "logs")
        try:
            cloud.wait()
            edge.wait()
            yield Target(edge, cloud, http, Calls(*map(FeatureCodec, profiles)))
        finally:
            edge.kill()
            cloud.kill()


async def measure(against: Target, seed: int, count: int) -> dict[str, Any]:
    """Sends requests, and looks at replies, processes and logs before and after."""
    sides = {EDGE: against.edge, CLOUD: against.cloud}
    async with against.sender(seed) as sender:
        for _ in range(_WARM):
            before = await sender.valid()
        rss = {name: side.rss_bytes for name, side in sides.items()}
        await sender.run(count)
        runs = all(side.is_running for side in sides.values())
        after = await sender.valid() if runs else ["a process ended"]
        tally = sender.tally
    return {
        "seed": seed,
        "count": count,
        "seconds": tally.seconds,
        "codes": tally.codes,
        "bare": tally.bare,
        "bad": {
            what: {"count": len(numbers), "numbers": sorted(numbers)[:_SHOWN]} for what, numbers in tally.bad.items()
        },
        "slowest": tally.slowest,
        "valid": {"before": Counter(before), "after": Counter(after)},
        "rss": {name: [rss[name], side.rss_bytes if side.is_running else 0] for name, side in sides.items()},
        "logged": {name: logged(side.log_text()) for name, side in sides.items()},
        "machine": f"{machine()}, dtufc {dtufc.__version__}",
    }


def logged(log: str) -> dict[str, int]:
    """Errors, traces, and lines that are no JSON, of a service's log: how many of each."""
    found = Counter[str]()
    for line in log.splitlines():
        entry = None
        with suppress(ValueError):
            entry = json.loads(line)
        if not isinstance(entry, dict):
            found[f"no JSON: {line[:100]}"] += 1
        elif "trace" in entry:
            found[f"trace: {entry['trace'].splitlines()[-1][:100]}"] += 1
        elif entry["level"] not in ("INFO", "WARNING"):
            found[f"{entry['level']}: {entry['message'][:100]}"] += 1
    return dict(found.most_common(20))


def faults_of(found: Mapping[str, Any]) -> list[str]:
    """What is not as it should be."""
    faults = [f"{each['count']} x {what}, as number {each['numbers'][0]}" for what, each in found["bad"].items()]
    faults += [f"{count} x {code} without a reason" for code, count in found["bare"].items()]
    if found["valid"]["before"] != found["valid"]["after"]:
        faults.append(f"valid requests end otherwise afterwards: {dict(found['valid']['after'])}")
    for name, (before, after) in found["rss"].items():
        if not 0 < after < before + MAX_GROWTH_BYTES:
            faults.append(f"memory of the {name}: {before / 1e6:.0f} MB before, {after / 1e6:.0f} MB after")
    for name, lines in found["logged"].items():
        faults += [f"{count} x in the {name}'s log: {line}" for line, count in lines.items()]
    return faults


async def show(against: Target, seed: int, number: int) -> None:
    """Sends one request, and prints it, its end, and what the logs say of it."""
    async with against.sender(seed) as sender:
        print(await sender.send(number))
    for side in (against.edge, against.cloud):
        print(*(line for line in side.log_text().splitlines() if '"INFO"' not in line), sep="\n")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000, help="of requests")
    parser.add_argument("--seed", type=int, default=0, help="of their generator")
    parser.add_argument("--only", type=int, metavar="N", help="send this request alone, and show it")
    parser.add_argument("--output", type=Path, default=RESULTS / "faults.json", help="the JSON file")
    given = parser.parse_args(arguments)
    with target() as against:
        if given.only is not None:
            asyncio.run(show(against, given.seed, given.only))
            return 0
        found = asyncio.run(measure(against, given.seed, given.count))
    results = json.loads(given.output.read_text(encoding="utf-8")) if given.output.is_file() else {}
    faults = faults_of(found)
    results["fuzz"] = {**found, "faults": faults}
    given.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    write_page(given.output)
    print(f"{given.count} requests of seed {given.seed} in {found['seconds']:.0f} s", *faults, sep="\n")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
