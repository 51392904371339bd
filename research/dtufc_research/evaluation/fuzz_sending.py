"""Sends hostile requests, each made of a seed and its number, and books how they end."""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final, Self

import grpc

from dtufc.serving.status import error_info
from dtufc_research.evaluation.fuzz_cases import Call, Calls
from dtufc_research.evaluation.fuzz_http import hostile_request, status_of, valid_requests

_HTTP_SHARE: Final = 0.12
_IN_FLIGHT: Final = 32
_LATE_S: Final = 30.0  # deadline of a call: nothing hostile may take so long
_SLOWEST: Final = 5
_TOLD: Final = 5000
_NO_END: Final = "no end"
_LATE: Final = "DEADLINE_EXCEEDED"
_BAD: Final = frozenset({"INTERNAL", "UNKNOWN", _LATE, "500", "502", _NO_END})


@dataclass(slots=True)
class Tally:
    """What came of the requests.

    Attributes:
        codes: how many of each method ended with each status.
        bare: of our methods, how many failed with each status without a reason of ours.
        bad: the numbers of requests with a status that none should have, by method and status.
        slowest: seconds, number, method and status.
        seconds: of all.
    """

    codes: dict[str, Counter[str]] = field(default_factory=dict)
    bare: Counter[str] = field(default_factory=Counter)
    bad: dict[str, list[int]] = field(default_factory=dict)
    slowest: list[tuple[float, int, str, str]] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, number: int, method: str, code: str, seconds: float) -> None:
        """Books a request."""
        self.codes.setdefault(method, Counter())[code] += 1
        if code in _BAD:
            self.bad.setdefault(f"{method}: {code}", []).append(number)
        self.slowest = sorted([*self.slowest, (round(seconds, 3), number, method, code)], reverse=True)[:_SLOWEST]


class Sender:
    """Sends numbered requests to a pair. Use it as a context manager.

    Attributes:
        tally: of the requests so far.
    """

    def __init__(self, seed: int, calls: Calls, sides: Mapping[str, str], http: str) -> None:
        """
        Args:
            seed: of all requests.
            calls: makes those over gRPC.
            sides: addresses of edge and cloud.
            http: address of the edge's interface over HTTP.
        """
        self._seed, self._calls, self._sides, self._http = seed, calls, sides, http
        self.tally = Tally()

    async def __aenter__(self) -> Self:
        self._stack = AsyncExitStack()
        self._channels = {
            side: await self._stack.enter_async_context(grpc.aio.insecure_channel(address))
            for side, address in self._sides.items()
        }
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def run(self, count: int) -> None:
        """Sends the first `count` requests, some tens at a time."""
        start, numbers = time.monotonic(), iter(range(count))

        async def work() -> None:
            for number in numbers:
                await self.send(number)
                if number % _TOLD == _TOLD - 1:
                    print(f"{number + 1} of {count} requests: {time.monotonic() - start:.0f} s", flush=True)

        await asyncio.gather(*(work() for _ in range(_IN_FLIGHT)))
        self.tally.seconds = time.monotonic() - start

    async def send(self, number: int) -> str:
        """Sends one request; what it was, and how it ended."""
        random = Random(f"{self._seed}:{number}")
        if random.random() < _HTTP_SHARE:
            return await self._send_http(number, random)
        return await self._send_grpc(number, random)

    async def valid(self) -> list[str]:
        """How valid calls and requests end now, one of each kind."""
        errors = [await self._error_of(call) for call in self._calls.valid()]
        statuses = [await status_of(self._http, data) for _, data in valid_requests()]
        return [*("OK" if error is None else f"{error.code().name} {error.details()}" for error in errors), *statuses]

    async def _send_http(self, number: int, random: Random) -> str:
        method, data, is_whole = hostile_request(random)
        start = time.monotonic()
        try:
            code = await status_of(self._http, data, is_whole=is_whole)
        except TimeoutError:
            code = _NO_END
        self.tally.add(number, f"HTTP {method}", code, time.monotonic() - start)
        return f"{data!r}\n{code}"

    async def _send_grpc(self, number: int, random: Random) -> str:
        call = self._calls.hostile(random)
        start = time.monotonic()
        error = await self._error_of(call)
        code, said = ("OK", None) if error is None else (error.code().name, error_info(error))
        if code == _LATE and call.deadline_s is not None:
            code = "as late as asked"
        elif error is not None and said is None and call.exists and call.method.startswith("/dtufc."):
            self.tally.bare[code] += 1
        self.tally.add(number, call.name, code, time.monotonic() - start)
        return f"{call}\n{code} {said or (error.details() if error else '')}"

    async def _error_of(self, call: Call) -> grpc.aio.AioRpcError | None:
        try:
            await _make(self._channels[call.side], call)
        except grpc.aio.AioRpcError as error:
            return error
        return None


async def _make(channel: grpc.aio.Channel, call: Call) -> None:
    """Raises grpc.aio.AioRpcError."""
    options: dict[str, Any] = {
        "timeout": call.deadline_s or _LATE_S,
        "compression": grpc.Compression.Gzip if call.is_compressed else None,
    }
    if call.sends_many:
        async for _ in channel.stream_stream(call.method)(iter(call.messages), **options):
            pass
    elif call.gets_many:
        async for _ in channel.unary_stream(call.method)(call.messages[-1], **options):
            pass
    else:
        unary = channel.unary_unary(call.method)
        for message in call.messages:
            await unary(message, **options)
