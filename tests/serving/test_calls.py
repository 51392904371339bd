"""The deadline of a call that brings none, and how calls end: a real server, a real worker of one thread."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, nullcontext
from dataclasses import dataclass

import grpc
import pytest

from dtufc.errors import DeadlineExceeded, DtufcError, Internal, Overloaded
from dtufc.serving.calls import Admitted, Calls
from dtufc.serving.status import error_of, grpc_status
from dtufc.serving.telemetry import Telemetry
from dtufc.serving.transport import Server, channel
from dtufc.serving.worker import Worker

TIMEOUT_S = 0.3
CENTURY_S = 3.2e9
Body = Callable[[Admitted, Worker, grpc.aio.ServicerContext], Awaitable[bytes | None]]


@dataclass
class Scene:
    """A server with one method whose body a test gives, and a channel to it."""

    method: grpc.aio.UnaryUnaryMultiCallable
    stream: grpc.aio.UnaryStreamMultiCallable
    worker: Worker
    telemetry: Telemetry

    def outcomes(self, reason: str) -> float:
        found = self.telemetry.registry.get_sample_value(
            "dtufc_edge_errors_total", {"task": "test", "reason": reason, "model": "unknown", "codec": "unknown"}
        )
        return found or 0.0


@asynccontextmanager
async def served(body: Body) -> AsyncIterator[Scene]:
    worker, telemetry = Worker(threads=1, queue_limit=2), Telemetry("edge")
    server = Server("127.0.0.1:0")
    address = server.bind()
    calls = Calls(worker, telemetry, service="the edge", address=address, timeout_s=TIMEOUT_S)

    async def handle(_: bytes, context: grpc.aio.ServicerContext) -> bytes | None:
        async with grpc_status(context), calls.admit("test", context.time_remaining()) as admitted:
            return await body(admitted, worker, context)
        raise AssertionError("a call that fails is aborted")

    handlers = {
        "Once": grpc.unary_unary_rpc_method_handler(handle),
        "Many": grpc.unary_stream_rpc_method_handler(handle),
    }
    server.grpc.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Test", handlers),))
    await server.start([])
    async with channel(address) as to_server:
        method, stream = to_server.unary_unary("/test.Test/Once"), to_server.unary_stream("/test.Test/Many")
        yield Scene(method, stream, worker, telemetry)
    await server.stop(0)
    await worker.close(5)


async def error_from(call: Awaitable[object]) -> DtufcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return error_of(caught.value, "the edge", "nowhere", None)


@pytest.fixture(autouse=True)
def _nothing_unexpected(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> object:
    """However a call ends, neither grpc nor asyncio has anything to complain of."""
    with caplog.at_level(logging.WARNING):
        yield
    ours = {"dtufc.serving.status"}  # a trace where a test provokes one
    assert [record.getMessage() for record in caplog.records if record.name not in ours] == []
    assert "Traceback" not in capfd.readouterr().err


def test_a_call_without_a_deadline_ends_after_the_services_own_and_says_so() -> None:
    async def body(_: Admitted, worker: Worker, __: grpc.aio.ServicerContext) -> bytes:
        await worker.run(time.sleep, 1)
        return b"too late"

    async def scene() -> None:
        async with served(body) as at:
            start = time.monotonic()
            error = await error_from(at.method(b""))
            assert TIMEOUT_S <= time.monotonic() - start < 0.9
            assert isinstance(error, DeadlineExceeded)
            assert error.context["timeout_s"] == str(TIMEOUT_S)
            assert error.context["peer"] == "the edge"
            assert at.worker.places.taken == 0
            assert at.outcomes("DEADLINE_EXCEEDED") == 1

    asyncio.run(scene())


def test_the_deadline_holds_while_a_call_waits_for_a_thread() -> None:
    began = []

    async def body(_: Admitted, worker: Worker, __: grpc.aio.ServicerContext) -> bytes:
        began.append(await worker.run(lambda: "began"))
        return b"in time"

    async def scene() -> None:
        async with served(body) as at:
            other = asyncio.create_task(at.worker.run(time.sleep, 0.8))
            await asyncio.sleep(0)
            start = time.monotonic()
            assert isinstance(await error_from(at.method(b"")), DeadlineExceeded)
            assert time.monotonic() - start < 0.7
            await other
            assert await at.method(b"") == b"in time"
            assert began == ["began"], "the work of a call that is over was done"

    asyncio.run(scene())


def test_the_callers_own_deadline_goes_before_the_services() -> None:
    async def body(admitted: Admitted, worker: Worker, _: grpc.aio.ServicerContext) -> bytes:
        await worker.run(time.sleep, 2 * TIMEOUT_S)
        return f"{admitted.remaining_s}".encode()

    async def scene() -> None:
        async with served(body) as at:
            assert 1 < float(await at.method(b"", timeout=5)) < 5
            start = time.monotonic()
            assert isinstance(await error_from(at.method(b"", timeout=0.05)), DeadlineExceeded)
            assert time.monotonic() - start < TIMEOUT_S
            await asyncio.sleep(0.1)
            assert at.worker.places.taken == 0

    asyncio.run(scene())


def test_a_deadline_in_a_century_is_one_in_a_day_which_can_be_passed_on() -> None:
    """The clients of some languages send it where they want none."""

    async def body(admitted: Admitted, _: Worker, __: grpc.aio.ServicerContext) -> bytes:
        return str(admitted.remaining_s).encode()

    async def scene() -> None:
        async with served(body) as at:
            assert 86_300 < float(await at.method(b"", timeout=CENTURY_S)) <= 86_400

    asyncio.run(scene())


@pytest.mark.parametrize("end", ["expired", "cancelled", "expired at the caller", "read to the end"])
def test_a_stream_cleans_up_in_its_own_task_however_it_ends(end: str) -> None:
    tasks: list[object] = []

    async def body(_: Admitted, worker: Worker, context: grpc.aio.ServicerContext) -> None:
        async def replies() -> AsyncGenerator[bytes, None]:
            tasks.append(asyncio.current_task())
            try:
                async with asyncio.timeout(60):
                    for number in range(3):
                        yield f"{number}".encode()
                    while end != "read to the end":
                        await worker.run(time.sleep, 0.01)
                        yield b"more"
            finally:
                tasks.append(asyncio.current_task())

        async with aclosing(replies()) as stream:
            async for reply in stream:
                await context.write(reply)

    async def scene() -> None:
        async with served(body) as at:
            call = at.stream(b"", timeout=0.5 if end == "expired at the caller" else None)
            replies = call.__aiter__()
            assert await anext(replies) == b"0"
            if end == "cancelled":
                call.cancel()
            elif end == "read to the end":
                assert [reply async for reply in replies] == [b"1", b"2"]
            else:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    _ = [reply async for reply in replies]
                assert isinstance(error_of(caught.value, "the edge", "", None), DeadlineExceeded)
            async with asyncio.timeout(2):
                while len(tasks) < 2 or at.worker.places.taken:
                    await asyncio.sleep(0.01)
            assert tasks[0] is tasks[1]
            assert at.outcomes("CANCELLED") + at.outcomes("DEADLINE_EXCEEDED") == (end != "read to the end")
            # Both sides have the caller's deadline: which of the two timers is the first is open.
            if end != "expired at the caller":
                assert at.outcomes("DEADLINE_EXCEEDED") == (end == "expired")

    asyncio.run(scene())


def test_calls_that_are_cancelled_or_expire_at_any_moment_give_their_places_back() -> None:
    async def body(_: Admitted, worker: Worker, __: grpc.aio.ServicerContext) -> bytes:
        await worker.run(time.sleep, 0.002)
        return b"answered"

    async def scene() -> None:
        async with served(body) as at:
            for number in range(100):
                call = at.method(b"")
                await asyncio.sleep(0.0005 * (number % 7))
                call.cancel()
            for number in range(100):
                await asyncio.gather(at.method(b"", timeout=0.0001 * (number % 40)), return_exceptions=True)
            async with asyncio.timeout(5):
                while at.worker.places.taken:
                    await asyncio.sleep(0.01)
            assert await at.method(b"") == b"answered"

    asyncio.run(scene())


def test_one_call_more_than_there_are_places_is_rejected_at_once() -> None:
    async def body(_: Admitted, worker: Worker, __: grpc.aio.ServicerContext) -> bytes:
        await worker.run(time.sleep, 0.05)
        return b"answered"

    async def scene() -> None:
        async with served(body) as at:
            ends = await asyncio.gather(*(at.method(b"") for _ in range(4)), return_exceptions=True)
            failures = [end for end in ends if isinstance(end, grpc.aio.AioRpcError)]
            assert [type(error_of(failure, "", "", None)) for failure in failures] == [Overloaded]

    asyncio.run(scene())


@pytest.mark.parametrize("fault", [TimeoutError("of a file"), ValueError("/secret/path"), asyncio.InvalidStateError()])
def test_an_unknown_fault_is_internal_its_trace_logged_and_nothing_of_it_told(
    fault: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async def body(_: Admitted, worker: Worker, __: grpc.aio.ServicerContext) -> bytes:
        def work() -> bytes:
            raise fault

        return await worker.run(work)

    async def scene() -> None:
        async with served(body) as at:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await at.method(b"")
            assert isinstance(error_of(caught.value, "", "", None), Internal)
            assert str(fault) == "" or str(fault) not in str(caught.value.details())
            assert at.outcomes("INTERNAL") == 1

    asyncio.run(scene())
    assert [record.getMessage() for record in caplog.records] == ["unexpected"]


@pytest.mark.parametrize("end", ["deadline", "closed", "read to the end"])
def test_an_iterator_that_holds_a_call_ends_it_as_its_reader_does(end: str) -> None:
    async def replies(calls: Calls) -> AsyncGenerator[int, None]:
        async with calls.admit("test", None):
            for number in range(3):
                yield number

    async def read(calls: Calls) -> None:
        async with aclosing(replies(calls)) as numbers:
            async for _ in numbers:
                if end == "closed":
                    return
                await asyncio.sleep(10 if end == "deadline" else 0)  # a client that does not read on

    async def scene() -> None:
        worker, telemetry = Worker(threads=1, queue_limit=0), Telemetry("edge")
        calls = Calls(worker, telemetry, service="the edge", address="", timeout_s=0.1)
        with pytest.raises(DeadlineExceeded) if end == "deadline" else nullcontext():
            await read(calls)
        assert worker.places.taken == 0
        labels = {"task": "test", "model": "unknown", "codec": "unknown"}
        counted = [
            telemetry.registry.get_sample_value("dtufc_edge_errors_total", {**labels, "reason": reason})
            for reason in ("DEADLINE_EXCEEDED", "CANCELLED")
        ]
        assert counted == [1.0 if end == "deadline" else None, 1.0 if end == "closed" else None]

    asyncio.run(scene())
