"""`python -m dtufc_research.evaluation.faults [FAULT ...]`: what clients of a pair see of real faults, and how soon.

Edge and cloud are processes of the shipped profiles; the cloud is in a network of its own where this process may make
one (Linux, root, ip and tc). Each fault puts its rows into docs/results/faults.json, so that the command goes on where
it stopped; from that docs/results/faults.md is written. The status is 1 where a verdict is bad.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final

import dtufc
from dtufc_research.evaluation import fault_bytes, fault_disk, fault_kinds
from dtufc_research.evaluation.fault_bench import PROFILES, Bench
from dtufc_research.evaluation.fault_calls import Seen
from dtufc_research.evaluation.faults_page import write_page
from dtufc_research.evaluation.machine import machine

RESULTS: Final = Path(__file__).parents[3] / "docs" / "results"
FAULTS: Final[Mapping[str, Callable[[Bench], list[Seen]]]] = {
    "version": fault_bytes.future_version,
    "damaged": fault_bytes.frames_damaged,
    "cut": fault_bytes.connection_cut,
    "upload": fault_bytes.upload_cut,
    "flipped": fault_bytes.bit_flipped,
    "killed": fault_kinds.cloud_killed,
    "restarted": fault_kinds.cloud_restarted,
    "stopped": fault_kinds.cloud_stopped,
    "partitioned": fault_kinds.partitioned,
    "partitioned-for-good": fault_kinds.partitioned_for_good,
    "slow": fault_kinds.cloud_slow,
    "narrow": fault_kinds.line_narrow,
    **{f"loss-{percent}": fault_kinds.losing(percent / 100) for percent in (1, 5, 10, 30)},
    "reader": fault_bytes.slow_reader,
    "log": fault_disk.log_full,
    "disk": fault_disk.cache_full,
    "profile": fault_bytes.other_profile,
    "edge-killed": fault_kinds.edge_killed,
}
QUICK: Final = ("version", "damaged", "cut", "flipped", "edge-killed")


def measure(path: Path, names: Sequence[str], make: Callable[[], Bench], of: Mapping[str, Any]) -> bool:
    """Runs faults, and keeps each one's rows in the JSON file; returns whether all verdicts are good.

    Args:
        path: of the JSON file.
        names: of FAULTS. One whose rows are there is not run again, but where all are.
        make: the pair.
        of: what the rows are of. Rows of something else are not kept.
    """
    results = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    found = results.get("faults", {})
    if found.get("of") != of or all(name in found["rows"] for name in names):
        found = {"of": of, "rows": {}}
    results["faults"] = found
    with make() as bench:
        for name in (name for name in names if name not in found["rows"]):
            start = time.monotonic()
            seen: dict[str, Any]
            try:
                seen = {"seen": [asdict(row) for row in FAULTS[name](bench)]}
            except PermissionError as error:
                seen = {"not run": str(error)}
            found["rows"][name] = {"title": FAULTS[name].__doc__, **seen}
            path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
            print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)
            for row in seen.get("seen", []):
                print(f"    {row['call']}: {row['outcome']}, {row['seconds']:.1f} s  {row['verdict']}", flush=True)
    return not any(row["verdict"] for fault in found["rows"].values() for row in fault.get("seen", []))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faults", nargs="*", metavar="FAULT", help=f"of {', '.join(FAULTS)}; by default all")
    parser.add_argument("--quick", action="store_true", help=f"{', '.join(QUICK)}, with one model: shows that it works")
    parser.add_argument("--page-only", action="store_true", help="write the page again from the JSON file")
    parser.add_argument("--output", type=Path, default=RESULTS / "faults.json", help="the JSON file")
    given = parser.parse_args(arguments)
    unknown = sorted(set(given.faults) - set(FAULTS))
    if unknown:
        parser.error(f"{', '.join(unknown)}: give some of {', '.join(FAULTS)}")
    good = True
    if not given.page_only:
        profiles = "smollm2-135m" if given.quick else PROFILES
        names = given.faults or (QUICK if given.quick else list(FAULTS))
        of = {"profiles": profiles, "quick": given.quick, "machine": f"{machine()}, dtufc {dtufc.__version__}"}
        good = measure(given.output, names, partial(Bench, profiles=profiles), of)
    write_page(given.output)
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
