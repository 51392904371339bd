"""Whatever is wrong with a request is said in a status, a reason and a sentence that helps; the service goes on."""

import io
import math
import struct
import time
import zlib
from collections.abc import Callable, Iterator

import grpc
import numpy as np
import pytest
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from numpy.typing import NDArray

from dtufc.client import EdgeClient
from dtufc.coding.rate import Rate
from dtufc.errors import InputError
from dtufc.models.fitting import load
from dtufc.v1 import head_pb2, inference_pb2
from tests.e2e.services import Service, error_info, head_stub, inference_stub, run_request

Call = Callable[[EdgeClient, bytes], object]
TWO = ["yes", "no"]


@pytest.fixture(autouse=True)
def _goes_on(edge: Service, cloud: Service) -> Iterator[None]:
    """Behind every bad request, both processes run, and a good one is answered."""
    yield
    assert edge.process.poll() is None
    assert cloud.process.poll() is None
    with EdgeClient(edge.address, timeout_s=60) as client:
        assert client.answer("Is it?", TWO).letter in "AB"


def bomb() -> bytes:
    """A PNG of a few kilobytes that unpacks to 900 million pixels of one bit."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    side = 30_000
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes((side + 7) // 8 + 1)) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def complete(client: EdgeClient, prompt: str, **options: object) -> object:
    return list(client.complete(prompt, **options))  # type: ignore[arg-type]


BAD: dict[str, tuple[Call, str, str]] = {
    # what is wrong: the call, the field that the error names, and a word of the remedy
    "empty prompt": (lambda c, j: complete(c, ""), "prompt", "Write"),
    "blank prompt": (lambda c, j: complete(c, " \n\t"), "prompt", "Write"),
    "long prompt": (lambda c, j: complete(c, "word " * 300), "prompt", "Stay within 200"),
    "long question": (lambda c, j: c.answer("word " * 300, TWO), "prompt", "Stay within 200"),
    "empty question": (lambda c, j: c.answer("", TWO), "question", "Ask"),
    "no choice": (lambda c, j: c.answer("Why?", []), "choices", "two to 26"),
    "one choice": (lambda c, j: c.answer("Why?", ["so"]), "choices", "two to 26"),
    "27 choices": (lambda c, j: c.answer("Why?", ["so"] * 27), "choices", "two to 26"),
    "empty choice": (lambda c, j: c.answer("Why?", ["so", ""]), "choices", "say something"),
    "no image": (lambda c, j: c.segment(b""), "image", "Send a file"),
    "text as image": (lambda c, j: c.segment(b"this is no image at all"), "image", "JPEG, PNG or WebP"),
    "cut image": (lambda c, j: c.segment(j[: len(j) // 2]), "image", "whole"),
    "large file": (lambda c, j: c.segment(j + bytes(200_000)), "image", "200000 bytes"),
    "bomb": (lambda c, j: c.segment(bomb()), "image", ""),
    "nothing to classify": (lambda c, j: c.classify(b""), "image", "Send a file"),
    "text to classify": (lambda c, j: c.classify(b"this is no image at all"), "image", "JPEG, PNG or WebP"),
    "cut image to classify": (lambda c, j: c.classify(j[: len(j) // 2]), "image", "whole"),
    "large file to classify": (lambda c, j: c.classify(j + bytes(200_000)), "image", "200000 bytes"),
    "bomb to classify": (lambda c, j: c.classify(bomb()), "image", ""),
    "classify by another model": (lambda c, j: c.classify(j, profile="dinov2-small"), "profile", "efficientnet-lite0"),
    "segment by a classifier": (lambda c, j: c.segment(j, profile="efficientnet-lite0"), "profile", "dinov2-small"),
    "unknown profile": (lambda c, j: c.answer("Why?", TWO, profile="gpt-9"), "profile", "smollm2-135m"),
    "profile of another task": (lambda c, j: c.answer("Why?", TWO, profile="dinov2-small"), "profile", "smollm2-135m"),
    "segment with text": (lambda c, j: c.segment(j, profile="smollm2-135m"), "profile", "dinov2-small"),
    "unknown codec": (lambda c, j: c.answer("Why?", TWO, codec="zip"), "codec", "raw, levels, klt"),
    "too many tokens": (lambda c, j: complete(c, "Hi", max_tokens=257), "max_tokens", "256"),
    "far too many tokens": (lambda c, j: complete(c, "Hi", max_tokens=2**32 - 1), "max_tokens", "256"),
    "impossible rate": (lambda c, j: c.answer("Why?", TWO, rate=Rate(target_bpfp=1e-6)), "rate", "Allow"),
    "impossible bytes": (lambda c, j: c.answer("Why?", TWO, rate=Rate(max_bytes=10)), "rate", "Allow"),
    "raw within a rate": (lambda c, j: c.answer("Why?", TWO, codec="raw", rate=Rate(target_bpfp=4)), "rate", "codec"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_request_is_an_input_error_that_names_the_field_and_the_remedy(
    what: str, client: EdgeClient, jpeg: bytes
) -> None:
    call, field, remedy = BAD[what]
    with pytest.raises(InputError) as caught:
        call(client, jpeg)
    status = caught.value.__cause__
    assert isinstance(status, grpc.RpcError)
    assert status.code() == grpc.StatusCode.INVALID_ARGUMENT
    info = error_info(status)
    assert (info.reason, info.domain) == ("INPUT", "dtufc")
    assert info.metadata["field"] == field
    assert remedy in status.details()
    assert status.details() == str(caught.value)


@pytest.mark.parametrize(
    ("rate", "field"),
    [
        ({"quality": 1.5}, "quality"),
        ({"quality": -1.0}, "quality"),
        ({"quality": math.nan}, "quality"),
        ({"target_bpfp": 0.0}, "target_bpfp"),
        ({"target_bpfp": math.nan}, "target_bpfp"),
        ({"target_bpfp": math.inf}, "target_bpfp"),
        ({"max_bytes": 0}, "max_bytes"),
    ],
)
def test_a_rate_that_cannot_be_is_rejected_though_our_client_would_not_send_it(
    rate: dict[str, float], field: str, edge_channel: grpc.Channel
) -> None:
    coding = inference_pb2.Coding(**rate)  # type: ignore[arg-type]
    request = inference_pb2.AnswerRequest(coding=coding, question="Why?", choices=TWO)
    with pytest.raises(grpc.RpcError) as caught:
        inference_stub(edge_channel).Answer(request, timeout=60)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert error_info(caught.value).metadata["field"] == field


@pytest.mark.parametrize("top_k", [0, -1, 101])
def test_our_client_rejects_a_number_of_labels_that_cannot_be(top_k: int, client: EdgeClient, jpeg: bytes) -> None:
    with pytest.raises(InputError) as caught:
        client.classify(jpeg, top_k=top_k)
    assert caught.value.context["field"] == "top_k"


@pytest.mark.parametrize("top_k", [101, 2**32 - 1])
def test_more_labels_than_there_may_be_are_rejected_by_the_edge(
    top_k: int, edge_channel: grpc.Channel, jpeg: bytes
) -> None:
    request = inference_pb2.ClassifyRequest(image=jpeg, top_k=top_k)
    with pytest.raises(grpc.RpcError) as caught:
        inference_stub(edge_channel).Classify(request, timeout=60)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert error_info(caught.value).metadata["field"] == "top_k"


def test_a_bomb_is_rejected_before_it_is_unpacked(edge: Service, client: EdgeClient) -> None:
    data = bomb()
    assert len(data) < 200_000
    start = time.monotonic()
    with pytest.raises(InputError):
        client.segment(data)
    assert time.monotonic() - start < 3


def test_a_very_long_name_is_rejected_like_a_short_one(client: EdgeClient) -> None:
    with pytest.raises(InputError) as caught:
        client.answer("Why?", TWO, profile="x" * 100_000)
    assert caught.value.context["field"] == "profile"
    with pytest.raises(InputError) as caught:
        client.answer("Why?", TWO, codec="x" * 100_000)
    assert caught.value.context["field"] == "codec"


def test_a_prompt_of_megabytes_is_rejected_and_holds_nobody_up(edge: Service, edge_channel: grpc.Channel) -> None:
    request = inference_pb2.AnswerRequest(question="hello world and more " * 600_000, choices=TWO)
    call = inference_stub(edge_channel).Answer.future(request, timeout=120)
    slowest = 0.0
    with grpc.insecure_channel(edge.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        while not call.done():
            start = time.monotonic()
            health.Check(health_pb2.HealthCheckRequest(), timeout=60)
            slowest = max(slowest, time.monotonic() - start)
            time.sleep(0.05)
    assert call.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert slowest < 3, "the event loop stood still"


# Straight to the cloud, as a stranger might.


def features() -> NDArray[np.float32]:
    return np.random.default_rng(7).normal(size=(5, 576)).astype(np.float32)


NEXT = head_pb2.AnswerTask(token_ids=[1])


def rejection(channel: grpc.Channel, profile: str, frame: bytes, task: Message | None = None) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        head_stub(channel).Run(run_request(profile, frame, task), timeout=60)
    return caught.value


@pytest.mark.parametrize("codec", ["raw", "levels", "klt"])
def test_a_frame_with_a_bit_flipped_anywhere_is_rejected_as_bad(cloud_channel: grpc.Channel, codec: str) -> None:
    frame = load("smollm2-135m").encode(features(), codec=codec)
    for position in [*range(16), len(frame) // 2, len(frame) - 1]:
        bad = bytearray(frame)
        bad[position] ^= 0x10
        error = rejection(cloud_channel, "smollm2-135m", bytes(bad), NEXT)
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert error_info(error).reason in {"BAD_MAGIC", "UNSUPPORTED_VERSION", "CORRUPT", "TRUNCATED"}


@pytest.mark.parametrize(("length", "reason"), [(0, "TRUNCATED"), (3, "TRUNCATED"), (40, "TRUNCATED")])
def test_a_frame_that_is_cut_is_rejected_as_truncated(cloud_channel: grpc.Channel, length: int, reason: str) -> None:
    frame = load("smollm2-135m").encode(features(), codec="klt")[:length]
    error = rejection(cloud_channel, "smollm2-135m", frame, NEXT)
    assert (error.code(), error_info(error).reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)


def test_a_frame_of_the_same_model_at_another_split_is_rejected_by_name(cloud_channel: grpc.Channel) -> None:
    frame = load("smollm2-135m", split=30).encode(features(), codec="klt")
    error = rejection(cloud_channel, "smollm2-135m", frame, NEXT)
    assert (error.code(), error_info(error).reason) == (grpc.StatusCode.FAILED_PRECONDITION, "PROFILE_MISMATCH")
    assert "smollm2-135m" in error.details()


def test_a_frame_of_another_model_is_rejected_by_name(cloud_channel: grpc.Channel) -> None:
    other = np.random.default_rng(7).normal(size=(1370, 384)).astype(np.float32)
    frame = load("dinov2-small").encode(other, codec="raw")
    error = rejection(cloud_channel, "smollm2-135m", frame, NEXT)
    assert (error.code(), error_info(error).reason) == (grpc.StatusCode.FAILED_PRECONDITION, "PROFILE_MISMATCH")
    assert "smollm2-135m" in error.details()


def test_a_profile_that_the_cloud_does_not_serve_is_rejected_by_name(cloud_channel: grpc.Channel) -> None:
    error = rejection(cloud_channel, "gpt-9", b"", NEXT)
    assert error.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert "gpt-9" in error.details()


def test_a_frame_without_a_task_is_an_input_error(cloud_channel: grpc.Channel) -> None:
    frame = load("smollm2-135m").encode(features(), codec="raw")
    error = rejection(cloud_channel, "smollm2-135m", frame)
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert error_info(error).metadata["field"] == "task"


def test_a_task_that_the_model_cannot_do_is_an_input_error(cloud_channel: grpc.Channel) -> None:
    frame = load("smollm2-135m").encode(features(), codec="raw")
    segment = {"right": 10, "bottom": 10, "width": 10, "height": 10}
    error = rejection(cloud_channel, "smollm2-135m", frame, head_pb2.SegmentTask(**segment))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert error_info(error).metadata["field"] == "task"


def test_more_tokens_than_the_cloud_takes_are_an_input_error(cloud_channel: grpc.Channel) -> None:
    frame = load("smollm2-135m").encode(np.zeros((2049, 576), np.float16), codec="raw")
    error = rejection(cloud_channel, "smollm2-135m", frame, NEXT)
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "2048" in error.details()


@pytest.mark.parametrize("token_ids", [[], [49152], [2**32 - 1], [1, 2, 10**6]])
def test_tokens_that_the_model_does_not_have_are_an_input_error(
    cloud_channel: grpc.Channel, token_ids: list[int]
) -> None:
    frame = load("smollm2-135m").encode(features(), codec="raw")
    error = rejection(cloud_channel, "smollm2-135m", frame, head_pb2.AnswerTask(token_ids=token_ids))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert error_info(error).metadata["field"] == "token_ids"


@pytest.mark.parametrize(
    ("segment", "field"),
    [
        ({"right": 518, "bottom": 518, "width": 0, "height": 10}, "size"),
        ({"right": 518, "bottom": 518, "width": 2**32 - 1, "height": 2**32 - 1}, "size"),
        ({"right": 518, "bottom": 518, "width": 10_000, "height": 10_000}, "size"),
        ({"right": 519, "bottom": 518, "width": 10, "height": 10}, "box"),
        ({"left": 5, "right": 5, "bottom": 518, "width": 10, "height": 10}, "box"),
        ({"left": 2**32 - 1, "top": 2**32 - 1, "right": 2**32 - 1, "bottom": 1, "width": 1, "height": 1}, "box"),
    ],
)
def test_an_absurd_size_or_box_is_an_input_error(
    cloud_channel: grpc.Channel, segment: dict[str, int], field: str
) -> None:
    frame = load("dinov2-small").encode(np.zeros((1370, 384), np.float32), codec="raw")
    error = rejection(cloud_channel, "dinov2-small", frame, head_pb2.SegmentTask(**segment))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert error_info(error).metadata["field"] == field


@pytest.mark.parametrize("patches", [2, 1000])
def test_patches_that_are_no_square_are_an_input_error(cloud_channel: grpc.Channel, patches: int) -> None:
    frame = load("dinov2-small").encode(np.zeros((1 + patches, 384), np.float32), codec="raw")
    segment = {"right": 518, "bottom": 518, "width": 10, "height": 10}
    error = rejection(cloud_channel, "dinov2-small", frame, head_pb2.SegmentTask(**segment))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_several_crops_in_one_frame_are_an_input_error(cloud_channel: grpc.Channel) -> None:
    frame = load("dinov2-small").encode(np.zeros((2, 325, 384), np.float32), codec="raw")  # 2 * 325 - 1 is no square
    segment = {"right": 518, "bottom": 518, "width": 10, "height": 10}
    error = rejection(cloud_channel, "dinov2-small", frame, head_pb2.SegmentTask(**segment))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    frame = load("dinov2-small").encode(np.zeros((2, 5, 384), np.float32), codec="raw")  # 2 * 5 - 1 is
    error = rejection(cloud_channel, "dinov2-small", frame, head_pb2.SegmentTask(**segment))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("shape", [(1280, 7, 8), (1280, 1, 1), (1, 1279, 7, 7), (3, 224, 224), (1, 1, 1)])
def test_feature_maps_that_the_edge_does_not_make_are_an_input_error(
    cloud_channel: grpc.Channel, shape: tuple[int, ...]
) -> None:
    frame = load("efficientnet-lite0").encode(np.zeros(shape, np.float32), codec="raw")
    error = rejection(cloud_channel, "efficientnet-lite0", frame, head_pb2.ClassifyTask(top_k=1))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert error_info(error).metadata["field"] == "frame"
    assert "(1280, 7, 7)" in error.details()


@pytest.mark.parametrize("top_k", [0, 101, 2**32 - 1])
def test_a_number_of_labels_that_cannot_be_is_an_input_error(cloud_channel: grpc.Channel, top_k: int) -> None:
    frame = load("efficientnet-lite0").encode(np.zeros((1280, 7, 7), np.float32))
    error = rejection(cloud_channel, "efficientnet-lite0", frame, head_pb2.ClassifyTask(top_k=top_k))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert error_info(error).metadata["field"] == "top_k"


def test_an_image_of_a_dishonest_size_is_an_input_error(client: EdgeClient, jpeg: bytes) -> None:
    file = io.BytesIO(jpeg)
    forged = bytearray(file.getvalue())
    start = forged.index(b"\xff\xc0") if b"\xff\xc0" in forged else forged.index(b"\xff\xc2")
    forged[start + 5 : start + 9] = struct.pack(">HH", 60_000, 60_000)
    with pytest.raises(InputError) as caught:
        client.segment(bytes(forged))
    assert caught.value.context["field"] == "image"
