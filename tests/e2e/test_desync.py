"""What the edge does when the cloud decodes other symbols than were encoded, and when the cloud never speaks."""

import socket
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from dtufc.client import EdgeClient
from dtufc.coding import bitstream
from dtufc.coding.rate import Rate
from dtufc.errors import Desync, Unavailable
from dtufc.v1 import head_pb2, head_pb2_grpc, inference_pb2
from tests.e2e.services import Service, head_stub


class Meddler(head_pb2_grpc.HeadServiceServicer):
    """Stands before a cloud, and forges the symbol checksum of every frame that has one; the frame stays whole."""

    def __init__(self, stub: head_pb2_grpc.HeadServiceStub) -> None:
        self._stub = stub
        self.codecs: list[str] = []
        self.spares_prompts = False

    def Describe(self, message: head_pb2.DescribeRequest, context: grpc.ServicerContext) -> head_pb2.DescribeReply:  # noqa: N802
        return self._stub.Describe(message)

    def Run(self, message: head_pb2.RunRequest, context: grpc.ServicerContext) -> head_pb2.RunReply:  # noqa: N802
        message.frame = self._forged(message.frame)
        with _passed_on(context):
            return self._stub.Run(message)
        raise AssertionError("a call that fails is aborted")

    def Generate(  # noqa: N802
        self, messages: Iterator[head_pb2.GenerateRequest], context: grpc.ServicerContext
    ) -> Iterator[head_pb2.GenerateReply]:
        def forged() -> Iterator[head_pb2.GenerateRequest]:
            codec = ""
            for message in messages:
                codec = message.open.codec or codec
                for rows in message.rows:
                    if rows.step_frame:
                        self.codecs.append(codec)
                        if codec != "raw":
                            rows.step_frame = rows.step_frame[:-4] + _inverted(rows.step_frame[-4:])
                    elif not self.spares_prompts:
                        rows.frame = self._forged(rows.frame)
                yield message

        with _passed_on(context):
            yield from self._stub.Generate(forged())

    def _forged(self, frame: bytes) -> bytes:
        codec = bitstream.parse(frame).codec.name
        self.codecs.append(codec)
        if codec == "raw":
            return frame
        body = frame[:-8] + _inverted(frame[-8:-4])
        return body + zlib.crc32(body).to_bytes(4, "little")


def _inverted(data: bytes) -> bytes:
    return bytes(byte ^ 0xFF for byte in data)


@contextmanager
def _passed_on(context: grpc.ServicerContext) -> Iterator[None]:
    """A cloud's error goes on to the edge."""
    try:
        yield
    except grpc.RpcError as error:
        context.set_trailing_metadata(error.trailing_metadata())
        context.abort(error.code(), error.details())


@pytest.fixture
def meddler(cloud_channel: grpc.Channel) -> Iterator[tuple[Meddler, str]]:
    server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.max_receive_message_length", 1 << 26)])
    servicer = Meddler(head_stub(cloud_channel))
    head_pb2_grpc.add_HeadServiceServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield servicer, f"127.0.0.1:{port}"
    server.stop(0).wait()


@pytest.mark.parametrize("rate", [Rate(quality=0.5), Rate(max_bytes=200_000)])
def test_features_that_desync_go_again_as_raw_and_the_reply_says_so(
    meddler: tuple[Meddler, str], launch: Callable[..., Service], client: EdgeClient, rate: Rate
) -> None:
    servicer, address = meddler
    edge = launch("edge", "--cloud", address, "--profiles", "smollm2-135m")
    edge.wait_until_serving()
    with EdgeClient(edge.address) as through:
        reply = through.answer("Which is a fruit?", ["stone", "apple"], rate=rate)
    expected = client.answer("Which is a fruit?", ["stone", "apple"], codec="raw")
    assert servicer.codecs == ["klt", "raw"]
    assert reply.cost.codec == "raw"
    assert reply.cost.num_frames == 2
    assert list(reply.probabilities) == pytest.approx(list(expected.probabilities), abs=1e-6)
    assert edge.total("dtufc_edge_desyncs_total", model="smollm2-135m", codec="klt") == 1


def test_a_desync_is_told_where_raw_would_break_the_byte_limit(
    meddler: tuple[Meddler, str], launch: Callable[..., Service]
) -> None:
    servicer, address = meddler
    edge = launch("edge", "--cloud", address, "--profiles", "smollm2-135m")
    edge.wait_until_serving()
    with EdgeClient(edge.address) as through:
        raw = through.answer("Which is a fruit?", ["stone", "apple"], codec="raw").cost
        for limit in (raw.raw_bytes // 2, raw.raw_bytes, raw.wire_bytes - 1):
            servicer.codecs.clear()
            with pytest.raises(Desync):
                through.answer("Which is a fruit?", ["stone", "apple"], rate=Rate(max_bytes=limit))
            assert servicer.codecs == ["klt"], "a frame beyond the limit was sent"


@pytest.mark.parametrize("spares_prompts", [False, True])
def test_a_text_whose_rows_desync_goes_on_in_raw(
    meddler: tuple[Meddler, str], launch: Callable[..., Service], client: EdgeClient, spares_prompts: bool
) -> None:
    servicer, address = meddler
    servicer.spares_prompts = spares_prompts
    edge = launch("edge", "--cloud", address, "--profiles", "smollm2-135m")
    edge.wait_until_serving()
    with EdgeClient(edge.address) as through:
        ids, cost = completed(through, codec="klt", rate=Rate(quality=1.0))
    assert len(ids) == 4
    if not spares_prompts:
        assert ids == completed(client, codec="raw")[0]
    assert servicer.codecs == ["klt", *["raw"] * (3 if spares_prompts else 4)]
    assert cost.codec == "raw"
    assert edge.total("dtufc_edge_desyncs_total", model="smollm2-135m", codec="klt") == 1


def completed(client: EdgeClient, **options: Any) -> tuple[list[int], inference_pb2.Cost]:
    replies = list(client.complete("One, two,", max_tokens=4, plain=True, **options))
    return [reply.token.token_id for reply in replies if reply.HasField("token")], replies[-1].cost


def test_a_cloud_that_accepts_and_never_speaks_is_unavailable_and_named(launch: Callable[..., Service]) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        edge = launch("edge", "--cloud", address, "--profiles", "smollm2-135m")
        edge.wait_until_serving()
        with EdgeClient(edge.address, timeout_s=20) as client, pytest.raises(Unavailable, match=address):
            client.answer("Which is a fruit?", ["stone", "apple"])
