"""`python -m dtufc_research.evaluation.flood`: requests that are called and cancelled, and what they leave behind.

A pair as two processes, and thousands of requests of three tasks, over gRPC and HTTP, each cancelled at a random
moment: memory, held places, threads and open files of both sides, at the start, in the middle and at the end, into
docs/results/flood.md.
"""

import argparse
import asyncio
import random
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, aclosing, contextmanager, suppress
from pathlib import Path
from typing import Final

from dtufc.client import AsyncEdgeClient
from dtufc.errors import DtufcError
from dtufc_research.evaluation.process import Service, free_port

ROOT: Final = Path(__file__).parents[3]
PROFILES: Final = "smollm2-135m,efficientnet-lite0"
_AT_ONCE: Final = 24
_LONGEST_S: Final = 1.5  # before a call is cancelled
_SETTLE_S: Final = 20.0
_PARTS: Final = 4  # of the flood; after each, both sides are looked at
_COLUMNS: Final = ("resident, MiB", "running", "texts", "cache, bytes", "threads", "open files")


@contextmanager
def flooded_pair() -> Iterator[tuple[Service, Service, str]]:
    """Cloud, edge, and the edge's address of HTTP."""
    with ExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        http = f"127.0.0.1:{free_port()}"
        cloud = Service("cloud", {"profiles": PROFILES}, logs)
        stack.callback(cloud.kill)
        edge = Service("edge", {"profiles": PROFILES, "cloud": cloud.address, "http-listen": http}, logs)
        stack.callback(edge.kill)
        cloud.wait()
        edge.wait()
        yield cloud, edge, http


async def flood(address: str, http: str | None, count: int, rng: random.Random) -> Counter[str]:
    """Calls and cancels; returns how the calls ended: cancelled, done, or an error's code. No HTTP if there is none."""
    image = (ROOT / "samples" / "chelsea.jpg").read_bytes()
    turns = asyncio.Semaphore(_AT_ONCE)
    ends: Counter[str] = Counter()

    async def one(client: AsyncEdgeClient, kind: int, wait_s: float) -> None:
        async with turns:
            try:
                async with asyncio.timeout(wait_s):
                    await _call(client, http, kind, image)
                ends["done"] += 1
            except TimeoutError:
                ends["cancelled"] += 1
            except DtufcError as error:
                ends[error.code] += 1

    async with AsyncEdgeClient(address) as client:
        await asyncio.gather(
            *(one(client, rng.randrange(4 if http else 3), rng.uniform(0, _LONGEST_S)) for _ in range(count))
        )
    return ends


async def _call(client: AsyncEdgeClient, http: str | None, kind: int, image: bytes) -> None:
    match kind:
        case 0:
            await client.answer("Which is a fruit?", ["stone", "apple", "chair"])
        case 1:
            await client.classify(image)
        case 2:
            async with aclosing(client.complete("Tell a long story.", max_tokens=60)) as replies:
                async for _ in replies:
                    pass
        case _:
            await _over_http(str(http))


async def _over_http(http: str) -> None:
    """A streamed chat, whose connection is closed where the call is cancelled."""
    host, _, port = http.rpartition(":")
    body = (
        b'{"model": "smollm2-135m", "stream": true, "max_tokens": 60, '
        b'"messages": [{"role": "user", "content": "Tell a long story."}]}'
    )
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {http}\r\nContent-Type: application/json\r\n"
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
        while await reader.read(1 << 14):
            pass
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


def state(side: Service) -> list[float]:
    """What a side holds, in the order of the table's columns."""
    folder = Path(f"/proc/{side.pid}")
    return [
        side.rss_bytes / (1 << 20),
        side.metric("running"),
        side.metric("sequences"),
        side.metric("cache_bytes"),
        len(list((folder / "task").iterdir())),
        len(list((folder / "fd").iterdir())),
    ]


def settle(*sides: Service) -> None:
    """Waits until nothing is worked on, for some seconds at most: what is held then is shown."""
    end = time.monotonic() + _SETTLE_S
    while time.monotonic() < end and any(side.metric("running") or side.metric("sequences") for side in sides):
        time.sleep(0.2)


def measure(count: int, seed: int) -> tuple[list[tuple[str, str, list[float]]], Counter[str], str]:
    """(when, side, state) of both sides; how the calls ended; what the logs hold of traces."""
    rng, rows, ends = random.Random(seed), [], Counter[str]()
    with flooded_pair() as (cloud, edge, http):
        urllib.request.urlopen(f"http://{http}/health", timeout=30).close()
        for part in range(_PARTS + 1):
            if part:
                ends += asyncio.run(flood(edge.address, http, count // _PARTS, rng))
                settle(edge, cloud)
            when = f"after {part * (count // _PARTS)} calls"
            rows += [(when, "edge", state(edge)), (when, "cloud", state(cloud))]
        traces = "".join(side.log_text() for side in (edge, cloud)).count('"trace"')
    return rows, ends, f"{traces} traces in the logs"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=4000, help="calls")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "results" / "flood.md")
    given = parser.parse_args()
    rows, ends, traces = measure(given.count, given.seed)
    ended = ", ".join(f"{number} {end}" for end, number in sorted(ends.items()))
    lines = [
        "# A flood of calls that are cancelled",
        "",
        f"Of {given.count} calls, answers, labels and streamed texts over gRPC and HTTP, {_AT_ONCE} at a time, each "
        f"with up to {_LONGEST_S:g} s before it is cancelled: {ended}; {traces}. What is held once nothing runs:",
        "",
        f"| | side | {' | '.join(_COLUMNS)} |",
        f"|---|---|{'---:|' * len(_COLUMNS)}",
        *(f"| {when} | {side} | {' | '.join(f'{value:.0f}' for value in values)} |" for when, side, values in rows),
        "",
        f"`python -m dtufc_research.evaluation.flood --count {given.count}`, {PROFILES}.",
        "",
    ]
    print("\n".join(lines))
    given.output.write_text("\n".join(lines), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
