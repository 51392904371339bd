"""`python -m dtufc_research.evaluation.first_request`: the first request to a fresh pair against the next ones."""

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Final

from dtufc.client import EdgeClient
from dtufc_research.evaluation.pair import pair

_IMAGE: Final = (Path(__file__).parents[3] / "samples" / "chelsea.jpg").read_bytes()
_FOLLOWING: Final = 9
ASKS: Final[Mapping[str, Callable[[EdgeClient], object]]] = {
    "smollm2-135m": lambda client: list(client.complete("The capital of France is", max_tokens=1, plain=True)),
    "dinov2-small": lambda client: client.segment(_IMAGE),
    "efficientnet-lite0": lambda client: client.classify(_IMAGE),
}


def seconds_of(profile: str) -> list[float]:
    """Of requests to a pair that has just become ready, in order; the connection is there before the first."""
    taken = []
    with pair(profile) as started, EdgeClient(started.address, timeout_s=120) as client:
        client.models()
        for _ in range(1 + _FOLLOWING):
            start = time.monotonic()
            ASKS[profile](client)
            taken.append(time.monotonic() - start)
    return taken


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--starts", type=int, default=3, help="of a pair of each profile")
    starts = parser.parse_args().starts
    print("| profile | first request, ms | the next nine, ms | ratio |\n|---|---:|---:|---:|")
    for profile in ASKS:
        runs = [seconds_of(profile) for _ in range(starts)]
        first, later = (
            1000 * median(values) for values in ([run[0] for run in runs], [t for run in runs for t in run[1:]])
        )
        print(f"| `{profile}` | {first:.0f} | {later:.0f} | {first / later:.1f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
