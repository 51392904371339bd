"""Streams of the client: they start when they are read, and end when their reader leaves."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from dtufc.client import EdgeClient
from dtufc.v1 import inference_pb2, inference_pb2_grpc


class Edge(inference_pb2_grpc.InferenceServiceServicer):
    """Sends three words, and knows how many streams began and ended."""

    def __init__(self) -> None:
        self.begun = 0
        self.ended = threading.Event()

    def Complete(  # noqa: N802
        self, _: inference_pb2.CompleteRequest, context: grpc.ServicerContext
    ) -> Iterator[inference_pb2.CompleteReply]:
        self.begun += 1
        context.add_callback(self.ended.set)
        for word in ("a", "b", "c"):
            yield inference_pb2.CompleteReply(text=word)

    def ListModels(  # noqa: N802
        self, _: inference_pb2.ListModelsRequest, __: grpc.ServicerContext
    ) -> inference_pb2.ListModelsReply:
        return inference_pb2.ListModelsReply()


@pytest.fixture
def served() -> Iterator[tuple[Edge, EdgeClient]]:
    server, edge = grpc.server(ThreadPoolExecutor(2)), Edge()
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(edge, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with EdgeClient(f"127.0.0.1:{port}", timeout_s=10) as client:
        yield edge, client
    server.stop(0).wait()


def test_a_stream_that_is_never_read_never_starts(served: tuple[Edge, EdgeClient]) -> None:
    edge, client = served
    stream = client.complete("Hi")
    client.models()  # a call that came later has been answered
    assert edge.begun == 0
    assert [reply.text for reply in stream] == ["a", "b", "c"]
    assert edge.begun == 1


def test_a_call_may_take_a_day(served: tuple[Edge, EdgeClient]) -> None:
    with EdgeClient(served[1]._address, timeout_s=86_400) as client:
        client.models()
        assert [reply.text for reply in client.complete("Hi")] == ["a", "b", "c"]


def test_a_stream_whose_reader_leaves_ends(served: tuple[Edge, EdgeClient]) -> None:
    edge, client = served
    for reply in client.complete("Hi"):
        assert reply.text == "a"
        break
    assert edge.ended.wait(5)
