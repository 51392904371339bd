"""The border under load and hostile clients: messages that are none, streams that stand idle, floods, proxies."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from dtufc.errors import DeadlineExceeded, DtufcError, InputError, Overloaded, TooManyStreams, Unavailable
from dtufc.serving.border import Incoming, Rpc, client_of
from dtufc.serving.calls import Calls
from dtufc.serving.limits import MAX_BRIEF_READS, MAX_STREAMS_OF_KIND_EACH
from dtufc.serving.status import error_of
from dtufc.serving.telemetry import Telemetry
from dtufc.serving.transport import Server, channel, check_health
from dtufc.serving.worker import Worker
from dtufc.v1 import head_pb2
from dtufc_edge.cloud import Cloud
from dtufc_edge.settings import EdgeSettings
from tests.serving.local_pair import eventually

TIMEOUT_S = 0.5
WORK_S = 0.02
MAX_BYTES = 1 << 20
NO_TEXT = b"\x0a\x02\xff\xfe"  # field 1, a text, that is no UTF-8
CUT = b"\x0a\x05a"
RUN, LIST = "/test.Test/Run", "/test.Test/List"
CHECK, WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"
REFLECT = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


@dataclass
class Scene:
    """A server with a request that works for WORK_S, and a call that takes no place."""

    port: str
    worker: Worker
    telemetry: Telemetry

    def connection(self, host: str = "127.0.0.1") -> grpc.aio.Channel:
        """One of its own, from this host, since a loopback address calls itself."""
        own = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)]
        return grpc.aio.insecure_channel(f"{host}:{self.port}", options=own)

    def errors(self, reason: str) -> float:
        labels = {"task": "test", "reason": reason, "model": "unknown", "codec": "unknown"}
        return self.telemetry.registry.get_sample_value("dtufc_cloud_errors_total", labels) or 0.0

    def rejected(self, kind: str, reason: str) -> float:
        labels = {"kind": kind, "reason": reason}
        return self.telemetry.registry.get_sample_value("dtufc_cloud_rejected_total", labels) or 0.0


@asynccontextmanager
async def served(*, queue_limit: int = 3, timeout_s: float = TIMEOUT_S) -> AsyncIterator[Scene]:
    telemetry, worker = Telemetry("cloud"), Worker(threads=1, queue_limit=queue_limit)
    server = Server("[::]:0", max_message_bytes=MAX_BYTES, rejected=telemetry.rejected)
    port = server.bind().rpartition(":")[2]
    calls = Calls(
        worker,
        telemetry,
        service="the test",
        address=port,
        timeout_s=timeout_s,
        max_message_bytes=MAX_BYTES,
        max_pending_bytes=2 * MAX_BYTES,
    )

    async def run(call: Incoming[head_pb2.RunRequest]) -> Message:
        async with calls.admit("test", call.timeout_s), calls.received(call) as message:
            await worker.run(time.sleep, WORK_S)
            return head_pb2.RunReply(stages=[head_pb2.Stage(name=message.profile)])
        raise AssertionError

    async def describe(call: Incoming[head_pb2.DescribeRequest]) -> Message:
        await call.brief()
        return head_pb2.DescribeReply()

    listing = Rpc(name="List", request=head_pb2.DescribeRequest, handle=describe, kind="list")
    server.add("test.Test", [Rpc(name="Run", request=head_pb2.RunRequest, handle=run), listing])
    await server.start([])
    try:
        yield Scene(port, worker, telemetry)
    finally:
        await server.stop(0)
        await worker.close(5)


async def error_from(call: Awaitable[object]) -> DtufcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return error_of(caught.value, "the test", "nowhere", None)


def request(profile: str = "", num_bytes: int = 0) -> bytes:
    return head_pb2.RunRequest(profile=profile, frame=bytes(num_bytes)).SerializeToString()


async def serves(at: Scene, host: str = "127.0.0.1") -> bool:
    async with at.connection(host) as to_server:
        reply = await to_server.unary_unary(CHECK)(health_pb2.HealthCheckRequest().SerializeToString(), timeout=2)
    return health_pb2.HealthCheckResponse.FromString(reply).status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("message", [NO_TEXT, CUT, b"\xff"])
def test_a_message_that_cannot_be_parsed_is_an_input_error_and_counted(message: bytes) -> None:
    async def scene() -> None:
        async with served() as at, at.connection() as to_server:
            error = await error_from(to_server.unary_unary(RUN)(message))
            assert isinstance(error, InputError)
            assert error.context["field"] == "request"
            assert "dtufc.v1.RunRequest" in str(error)
            await eventually(lambda: at.errors("INPUT") == 1 and at.worker.places.taken == 0)

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("method", "kind", "message"),
    [(CHECK, "health", NO_TEXT), (WATCH, "health", NO_TEXT), (REFLECT, "reflection", NO_TEXT), (LIST, "list", CUT)],
)
def test_every_method_counts_a_message_that_cannot_be_parsed(method: str, kind: str, message: bytes) -> None:
    async def scene() -> None:
        async with served() as at, at.connection() as to_server:
            error = await error_from(to_server.unary_unary(method)(message))
            assert isinstance(error, InputError)
            assert at.rejected(kind, "INPUT") == 1

    asyncio.run(scene())


@pytest.mark.parametrize(("messages", "problem"), [([], "no message"), ([request(), request()], "several messages")])
def test_a_call_without_a_message_or_with_two_is_told_so(messages: list[bytes], problem: str) -> None:
    async def scene() -> None:
        async with served() as at, at.connection() as to_server:
            error = await error_from(to_server.stream_unary(RUN)(iter(messages)))
            assert isinstance(error, InputError)
            assert problem in str(error)

    asyncio.run(scene())


def test_who_sends_no_message_holds_a_place_no_longer_than_the_services_own_time() -> None:
    async def scene() -> None:
        async with served() as at, at.connection() as to_server:
            call = to_server.stream_unary(RUN)(timeout=60)
            await eventually(lambda: at.worker.places.taken == 1)
            assert isinstance(await error_from(call), DeadlineExceeded)
            await eventually(lambda: at.worker.places.taken == 0)

    asyncio.run(scene())


def test_hundreds_of_idle_streams_leave_health_and_requests_answered_and_are_counted() -> None:
    async def scene() -> None:
        async with served() as at, at.connection() as first, at.connection() as second:
            idle = [to.stream_stream(method)() for to in (first, second) for method in (CHECK, LIST) for _ in range(50)]
            held = [first.stream_stream(REFLECT)() for _ in range(20)]
            watch = health_pb2.HealthCheckRequest().SerializeToString()
            watches = [second.unary_stream(WATCH)(watch) for _ in range(20)]
            await eventually(
                lambda: at.rejected("health", "INPUT") + at.rejected("list", "INPUT") >= 200 - MAX_BRIEF_READS
            )
            reflected = ("TOO_MANY_STREAMS", "INPUT")  # some give way to calls that come later
            await eventually(
                lambda: sum(at.rejected("reflection", why) for why in reflected) >= 20 - MAX_STREAMS_OF_KIND_EACH
            )
            await eventually(lambda: at.rejected("health", "TOO_MANY_STREAMS") == 20 - MAX_STREAMS_OF_KIND_EACH)
            assert await serves(at)
            async with at.connection() as third:
                assert await third.unary_unary(RUN)(request(), timeout=2)
            one_more = second.unary_stream(WATCH)(watch).__aiter__()
            assert isinstance(await error_from(anext(one_more)), TooManyStreams)
            for call in (*idle, *held, *watches):
                call.cancel()

    asyncio.run(scene())


def test_standard_reflection_works_as_before() -> None:
    async def scene() -> None:
        async with served() as at, at.connection() as to_server:
            asked = reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()
            call = to_server.stream_stream(REFLECT)(iter([asked, asked]))
            replies = [reflection_pb2.ServerReflectionResponse.FromString(reply) async for reply in call]
            assert [len(reply.list_services_response.service) for reply in replies] == [2, 2]

    asyncio.run(scene())


def test_a_full_queue_says_at_once_when_to_try_again_and_is_counted() -> None:
    async def scene() -> None:
        async with served(queue_limit=0) as at, at.connection() as to_server:
            held = to_server.stream_unary(RUN)()
            await eventually(lambda: at.worker.places.taken == 1)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await to_server.unary_unary(RUN)(request(), timeout=2)
            error = error_of(caught.value, "", "", None)
            assert isinstance(error, Overloaded)
            (status,) = [value for key, value in caught.value.trailing_metadata() if key == "grpc-status-details-bin"]
            info = error_details_pb2.RetryInfo()
            assert [detail.Unpack(info) for detail in status_pb2.Status.FromString(status).details] == [False, True]
            assert 0 < info.retry_delay.ToMilliseconds() / 1000 == error.retry_s <= 30
            assert at.rejected("request", "OVERLOADED") == at.errors("OVERLOADED") == 1
            held.cancel()

    asyncio.run(scene())


def test_a_flood_of_one_client_leaves_another_a_place_and_its_turn() -> None:
    async def scene() -> None:
        async with served(queue_limit=15, timeout_s=5) as at, at.connection() as flood, at.connection("[::1]") as other:
            ends: list[grpc.StatusCode | None] = []

            async def hammer() -> None:
                while True:
                    try:
                        await flood.unary_unary(RUN)(request())
                        ends.append(None)
                    except grpc.aio.AioRpcError as error:
                        ends.append(error.code())
                        await asyncio.sleep(0.002)

            hammers = [asyncio.create_task(hammer()) for _ in range(24)]
            await eventually(lambda: grpc.StatusCode.RESOURCE_EXHAUSTED in ends and at.worker.places.taken >= 16)
            await other.unary_unary(LIST)(b"", timeout=2)  # connects
            for _ in range(5):
                before = ends.count(None)
                await other.unary_unary(RUN)(request(), timeout=5)
                assert ends.count(None) - before <= 6, "it waited behind the flood"
            for task in hammers:
                task.cancel()
            await asyncio.gather(*hammers, return_exceptions=True)

    asyncio.run(scene())


def test_slow_senders_of_one_client_do_not_hold_all_memory_and_their_messages_wait_unread() -> None:
    async def scene() -> None:
        async with served(timeout_s=5) as at, at.connection() as slow, at.connection("[::1]") as other:
            held = [slow.stream_unary(RUN)() for _ in range(3)]
            await eventually(lambda: at.worker.places.taken == 3)
            assert await other.unary_unary(RUN)(request("read", MAX_BYTES // 2), timeout=2)
            waiting = slow.unary_unary(RUN)(request("waits for the client's turn", MAX_BYTES // 2), timeout=0.3)
            assert isinstance(await error_from(waiting), DeadlineExceeded)
            for call in held:
                call.cancel()
            assert await slow.unary_unary(RUN)(request("is read", MAX_BYTES // 2), timeout=2)

    asyncio.run(scene())


def test_a_dead_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)

    async def scene() -> None:
        async with served() as at:
            async with channel(f"127.0.0.1:{at.port}") as to_server:
                assert await to_server.unary_unary(RUN)(request("an answer"), timeout=2)
            await asyncio.to_thread(check_health, f"127.0.0.1:{at.port}", timeout_s=2)

    asyncio.run(scene())


def test_a_proxy_that_was_asked_for_is_used_and_named_where_it_is_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "no_grpc_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)

    async def scene() -> None:
        async with served() as at:
            settings = EdgeSettings(cloud=f"127.0.0.1:{at.port}", cloud_proxy="http://user:secret@127.0.0.1:9")
            async with channel(settings.cloud, proxy=settings.cloud_proxy) as to_cloud:
                cloud = Cloud(to_cloud, settings.cloud_name, {"p": b""})
                with pytest.raises(Unavailable) as caught:
                    await cloud.run(head_pb2.RunRequest(profile="p"), 5)
            assert "through the proxy 127.0.0.1:9" in str(caught.value)
            assert "secret" not in str(caught.value)

    asyncio.run(scene())


@pytest.mark.parametrize("proxy", ["127.0.0.1:9", "https://127.0.0.1:9", "http://127.0.0.1", "http://127.0.0.1:9/path"])
def test_a_proxy_that_grpc_would_ignore_is_no_setting(proxy: str) -> None:
    with pytest.raises(ValueError, match="http://HOST:PORT"):
        EdgeSettings(cloud_proxy=proxy)


@pytest.mark.parametrize(
    ("peer", "client"),
    [
        ("ipv4:10.0.0.7:50051", "10.0.0.7"),
        ("ipv6:%5B::ffff:10.0.0.7%5D:50051", "10.0.0.7"),
        ("ipv6:[2001:db8:1:2:3:4:5:6]:50051", "2001:0db8:0001:0002"),
        ("ipv6:%5Bfe80::1%25eth0%5D:50051", "fe80:0000:0000:0000"),
        ("unix:/run/dtufc.sock", "unix:/run/dtufc.sock"),
    ],
)
def test_a_client_is_a_host_whatever_its_port(peer: str, client: str) -> None:
    assert client_of(peer) == client
