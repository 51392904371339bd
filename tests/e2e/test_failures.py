"""Real faults: no cloud, a killed cloud, another cloud, no time, no room, no interest, a stop."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from dtufc.client import EdgeClient
from dtufc.errors import DtufcError, InputError, Overloaded, ProfileMismatch, Unavailable
from dtufc.v1 import inference_pb2
from tests.e2e.services import Service, free_port, inference_stub, start, stop_all

Launch = Callable[..., Service]
TWO = ["yes", "no"]
LLAMA = ("--profiles", "smollm2-135m")
LONG = {"max_tokens": 200, "plain": True, "codec": "raw"}
STORY = "Once upon a time, in a land far away, there was a long, long list of numbers: 1, 2, 3, 4, 5, 6, 7, 8,"


def eventually(condition: Callable[[], bool], timeout_s: float = 60) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.1)


def test_the_cloud_may_be_missing_killed_another_and_back_and_the_edge_tells_each(launch: Launch) -> None:
    port = free_port()
    address = f"127.0.0.1:{port}"
    last = ("--profiles", "smollm2-135m@30")
    edge = launch("edge", *last, "--cloud", address)
    edge.wait_until_serving()
    with EdgeClient(edge.address, timeout_s=10) as client:

        def answered() -> bool:
            try:
                return client.answer("Is it?", TWO).letter in "AB"
            except Unavailable:
                return False

        start = time.monotonic()
        with pytest.raises(Unavailable) as caught:
            client.answer("Is it?", TWO)
        assert time.monotonic() - start < 10
        assert caught.value.context["address"] == address
        assert address in str(caught.value)
        assert code_of(caught.value) == grpc.StatusCode.UNAVAILABLE

        cloud = launch("cloud", *last, port=port)
        cloud.wait_until_serving()
        eventually(answered)

        cloud.kill()
        with pytest.raises(Unavailable, match=address):
            client.answer("Is it?", TWO)

        other = launch("cloud", *LLAMA, port=port)  # of split 16
        other.wait_until_serving()
        with pytest.raises(ProfileMismatch) as mismatch:
            eventually(answered)
        assert mismatch.value.context["profile"] == "smollm2-135m"
        assert code_of(mismatch.value) == grpc.StatusCode.FAILED_PRECONDITION
        assert other.total("dtufc_cloud_requests_total") == 0, "features were sent to a cloud that cannot read them"
        other.kill()

        cloud = launch("cloud", *last, port=port)
        cloud.wait_until_serving()
        eventually(answered)
        assert cloud.terminate() == 0


def code_of(error: DtufcError) -> grpc.StatusCode:
    """The status under an error of our client."""
    status = error.__cause__
    assert isinstance(status, grpc.RpcError)
    return status.code()


def test_a_deadline_of_a_millisecond_is_told_as_such_and_the_edge_goes_on(edge_channel: grpc.Channel) -> None:
    stub = inference_stub(edge_channel)
    request = inference_pb2.AnswerRequest(question="Is it?", choices=TWO)
    with pytest.raises(grpc.RpcError) as caught:
        stub.Answer(request, timeout=0.001)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert stub.Answer(request, timeout=60).letter in "AB"


def test_a_deadline_that_ends_within_a_stream_ends_the_stream(edge: Service, client: EdgeClient) -> None:
    with EdgeClient(edge.address, timeout_s=1.5) as hasty, pytest.raises(DtufcError) as caught:
        list(hasty.complete(STORY, **LONG))  # type: ignore[arg-type]
    assert caught.value.code == "DEADLINE_EXCEEDED"
    eventually(lambda: edge.total("dtufc_edge_running") == 0)
    assert client.answer("Is it?", TWO).letter in "AB"


def test_a_cancelled_completion_stops_its_work_on_both_sides(
    edge: Service, cloud: Service, client: EdgeClient, edge_channel: grpc.Channel
) -> None:
    request = inference_pb2.CompleteRequest(
        coding=inference_pb2.Coding(codec="raw"), prompt=STORY, max_tokens=200, plain=True
    )
    stream = inference_stub(edge_channel).Complete(request, timeout=120)
    next(stream)
    stream.cancel()
    assert_quiet(edge, cloud)
    assert client.answer("Is it?", TWO).letter in "AB"


def test_a_completion_that_nobody_reads_on_stops_too(edge: Service, cloud: Service, client: EdgeClient) -> None:
    stream = client.complete(STORY, **LONG)  # type: ignore[arg-type]
    next(stream)
    del stream
    assert_quiet(edge, cloud)


def assert_quiet(edge: Service, cloud: Service) -> None:
    """Soon nothing runs, the cloud gets no more requests, and the edge has booked a cancelled completion."""
    eventually(
        lambda: (
            edge.total("dtufc_edge_errors_total", task="complete", reason="CANCELLED") > 0
            and edge.total("dtufc_edge_running") == cloud.total("dtufc_cloud_running") == 0
        ),
        timeout_s=10,
    )
    before = cloud.total("dtufc_cloud_requests_total")
    time.sleep(1)
    assert cloud.total("dtufc_cloud_requests_total") == before


@pytest.fixture(scope="module")
def narrow(cloud: Service, logs: Path) -> Iterator[Service]:
    """An edge with one thread, no queue, and messages of at most 200 kB."""
    flags = ("--threads", "1", "--queue-limit", "0", "--max-message-bytes", "200000", "--cloud", cloud.address)
    edge = start("edge", logs, *flags)
    try:
        edge.wait_until_serving()
        yield edge
    finally:
        stop_all([edge])


def test_a_full_queue_rejects_at_once_and_serves_the_others(narrow: Service) -> None:
    def one(_: int) -> tuple[str, float]:
        with EdgeClient(narrow.address) as client:
            barrier.wait()
            start = time.monotonic()
            try:
                client.answer("Is it? " * 60, TWO, codec="klt")
            except Overloaded as error:
                rejections.append(error)
                return "rejected", time.monotonic() - start
            return "answered", time.monotonic() - start

    rejections: list[Overloaded] = []
    barrier = threading.Barrier(8)
    with ThreadPoolExecutor(8) as threads:
        ends = list(threads.map(one, range(8)))
    answered = [taken for end, taken in ends if end == "answered"]
    rejected = [taken for end, taken in ends if end == "rejected"]
    assert rejected, "nobody was rejected: the queue has no end"
    assert answered, "nobody was answered: a rejection must not push out who came first"
    assert min(rejected) < max(answered)
    assert {code_of(error) for error in rejections} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert "again" in str(rejections[0])
    with EdgeClient(narrow.address) as client:
        assert client.answer("Is it?", TWO).letter in "AB"


def test_an_oversized_message_is_rejected_with_a_remedy_and_the_edge_goes_on(narrow: Service) -> None:
    with EdgeClient(narrow.address) as client:
        with pytest.raises(InputError) as caught:
            client.segment(bytes(300_000))
        assert caught.value.context["field"] == "message"
        assert "Send less" in str(caught.value)
        assert client.answer("Is it?", TWO).letter in "AB"


def test_features_too_large_for_a_message_are_rejected_and_smaller_ones_pass(narrow: Service, jpeg: bytes) -> None:
    with EdgeClient(narrow.address) as client:
        with pytest.raises(InputError) as caught:
            client.segment(jpeg, codec="raw")  # 2 MB of features
        assert caught.value.context["field"] == "message"
        assert client.segment(jpeg, codec="klt").width > 0


def test_sigterm_tells_the_watchers_and_stops_the_edge_cleanly_while_a_long_call_runs(
    launch: Launch, cloud: Service
) -> None:
    edge = launch("edge", *LLAMA, "--drain-s", "1", "--cloud", cloud.address)
    edge.wait_until_serving()
    with grpc.insecure_channel(edge.address) as channel, grpc.insecure_channel(edge.address) as other:
        watch = health_pb2_grpc.HealthStub(other).Watch(health_pb2.HealthCheckRequest(), timeout=60)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        request = inference_pb2.CompleteRequest(
            coding=inference_pb2.Coding(codec="raw"), prompt=STORY, max_tokens=200, plain=True
        )
        stream = inference_stub(channel).Complete(request, timeout=120)
        next(stream)
        start = time.monotonic()
        edge.process.terminate()
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        with pytest.raises(grpc.RpcError):
            list(stream)  # 200 tokens take longer than the drain
        assert edge.process.wait(20) == 0
        assert time.monotonic() - start < 10
    assert '"message": "stopped"' in edge.log_text()
    assert "never awaited" not in edge.log_text()
    assert '"message": "unexpected"' not in edge.log_text()


def test_a_short_call_that_runs_when_sigterm_comes_is_finished(launch: Launch, cloud: Service) -> None:
    edge = launch("edge", *LLAMA, "--cloud", cloud.address)
    edge.wait_until_serving()
    with EdgeClient(edge.address) as client:
        stream = client.complete("One, two,", max_tokens=5, plain=True, codec="raw")
        first = next(stream)
        edge.process.terminate()
        replies = [first, *stream]
    assert replies[-1].finish_reason == "length"
    assert len(replies) == 6
    assert edge.process.wait(20) == 0
