"""A pair for faults: its processes, the line and the forwarders between them, and what every fault is asked.

client -> edge ----- line ----> cloud, in a network of its own where this process may make one
client -> front -> edge behind a forwarder -> forwarder -> the same cloud
"""

import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self

from dtufc_research.evaluation.fault_calls import OK, Asked, Client, Seen, health
from dtufc_research.evaluation.lossy_line import LossyLine, can_make_lines
from dtufc_research.evaluation.pair import Forwarder
from dtufc_research.evaluation.process import Service

PROFILES: Final = "smollm2-135m,efficientnet-lite0"
KINDS: Final = ("answer", "classify", "complete")
BROKEN: Final = ("UNAVAILABLE",)
LATE: Final = ("UNAVAILABLE", "DEADLINE_EXCEEDED")
_BEFORE: Final = 8  # tokens of a stream when a fault hits it
_PAUSE_S: Final = 0.5  # between two questions for health
_BACK_S: Final = 30.0  # until calls are answered again
_LATE_S: Final = 120.0  # of calls that nothing disturbs: a busy machine


class Bench:
    """A cloud, and edges before it, started when they are first asked for. Use it as a context manager.

    Attributes:
        logs: a folder; a small file system of its own where this process may make one.
    """

    def __init__(self, *, profiles: str = PROFILES, num_tokens: int = 48, unary_s: float = 10) -> None:
        """
        Args:
            profiles: that both sides serve.
            num_tokens: of a stream.
            unary_s: deadline of a unary call under a fault.
        """
        self.unary_s = unary_s
        self.kinds = [kind for kind in KINDS if kind != "classify" or "efficientnet" in profiles]
        self._profiles, self._num_tokens = profiles, num_tokens
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @cached_property
    def logs(self) -> Path:
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        if can_make_lines():
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder], check=True)
            self._stack.callback(lambda: subprocess.run(["umount", "-l", folder], check=True))
        return folder

    @cached_property
    def line(self) -> LossyLine:
        """Raises OSError where this process may make none."""
        if not can_make_lines():
            raise PermissionError("needs root, ip and tc")
        line = LossyLine()
        self._stack.callback(line.close)
        return line

    @cached_property
    def cloud(self) -> Service:
        behind: Any = {"host": self.line.host, "before": self.line.before} if can_make_lines() else {}
        return self._started(Service("cloud", {"profiles": self._profiles}, self.logs, **behind))

    @cached_property
    def edge(self) -> Service:
        return self.edge_before(self.cloud.address)

    @cached_property
    def forwarder(self) -> Forwarder:
        """Before the cloud."""
        return self._forwarder(self.cloud.address)

    @cached_property
    def forwarded_edge(self) -> Service:
        return self.edge_before(self.forwarder.address)

    @cached_property
    def front(self) -> Forwarder:
        """Before the edge that is before the forwarder."""
        return self._forwarder(self.forwarded_edge.address)

    @cached_property
    def client(self) -> Client:
        """Of the edge. The first asks for the undisturbed results."""
        client = self._stack.enter_context(Client(self.edge.address, num_tokens=self._num_tokens))
        self.cloud.wait()
        self.edge.wait()
        client.learn(["answer in raw", "complete in raw", *self.kinds])
        return client

    @cached_property
    def forwarded_client(self) -> Client:
        expected = self.client.expected
        self.forwarded_edge.wait()
        return self.client_of(self.forwarded_edge.address, expected)

    def client_of(self, address: str, expected: dict[str, object] | None = None) -> Client:
        """Another client, which expects the same."""
        known = expected or self.client.expected
        return self._stack.enter_context(Client(address, num_tokens=self._num_tokens, expected=known))

    def edge_before(self, cloud: str, profiles: str = "") -> Service:
        """An edge before what is at this address."""
        return self._started(Service("edge", {"profiles": profiles or self._profiles, "cloud": cloud}, self.logs))

    def _started(self, service: Service) -> Service:
        self._stack.callback(service.kill)
        return service

    def _forwarder(self, target: str) -> Forwarder:
        forwarder = Forwarder(target)
        self._stack.callback(forwarder.close)
        return forwarder


def under_way(client: Client, edge: Service, unary_s: float, stream_s: float) -> list[Asked]:
    """A stream in its middle and a unary call that an edge works on."""
    stream = client.ask("complete", stream_s, "in the middle")
    until(lambda: stream.is_over or (stream.tokens or 0) >= _BEFORE)
    unary = client.ask("answer", unary_s, "in flight")
    until(lambda: unary.is_over or edge.metric("running") > (not stream.is_over))
    return [stream, unary]


@contextmanager
def watched(service: Service, side: str, rows: list[Seen]) -> Iterator[None]:
    """Asks for health again and again; the slowest reply, or the first failure, becomes a row."""
    found, over = list[Seen](), threading.Event()

    def watch() -> None:
        while not over.is_set():
            found.append(health(service.address, side).seen())
            over.wait(_PAUSE_S)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        worst = next((each for each in found if each.verdict), max(found, key=lambda each: each.seconds))
        rows.append(replace(worst, call=f"{worst.call}, slowest of {len(found)}"))


def back(client: Client, kinds: Collection[str]) -> list[Seen]:
    """Whether calls are answered again: seconds until the first is, and all kinds as undisturbed."""
    start, (first, *others) = time.monotonic(), kinds
    while True:
        seen = client.ask(first, _BACK_S, "the first that is answered afterwards").seen()
        seconds = time.monotonic() - start
        if seen.outcome == OK or seconds > _BACK_S:
            break
        time.sleep(0.1)
    asked = [client.ask(kind, _LATE_S, "afterwards") for kind in others]
    return [replace(seen, seconds=seconds, deadline_s=_BACK_S), *(each.seen() for each in asked)]


def until(condition: Callable[[], bool], timeout_s: float = _LATE_S) -> float:
    """Waits until it is true; the seconds that it took. Raises TimeoutError."""
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > timeout_s:
            raise TimeoutError(f"not within {timeout_s} s")
        time.sleep(0.02)
    return time.monotonic() - start
