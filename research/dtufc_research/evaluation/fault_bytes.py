"""Faults of what crosses the wire and of who reads it: cut, flipped, of the future, of another profile, not read.

A fault is a function of the bench, as those of `fault_kinds`.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

import grpc
import numpy as np
from google.protobuf.any_pb2 import Any as AnyMessage

from dtufc.models.fitting import load
from dtufc.v1 import head_pb2, head_pb2_grpc
from dtufc_research.evaluation.fault_bench import BROKEN, LATE, Bench, back, until, watched
from dtufc_research.evaluation.fault_calls import Asked, Seen

_LONG_S: Final = 90.0  # deadline of a stream that shall go on
_SOON_S: Final = 10.0  # deadline of what is rejected
_BEFORE: Final = 8  # tokens of a stream when a fault hits it
_READERS: Final = 8
_READERS_S: Final = 30.0
_MAX_GROWTH_BYTES: Final = 64 << 20
_FLIPS: Final = 200
_FLIPPED_STREAMS: Final = 3
_MODEL: Final = "smollm2-135m"
_CHANNELS: Final = 576
_DAMAGED: Final = (*BROKEN, "DATA_LOSS")


class _Cut:
    """Cuts the connection behind so many bytes, once."""

    def __init__(self, after: int) -> None:
        self._left = after

    def __call__(self, data: bytes) -> bytes:
        is_open = self._left <= 0
        self._left -= len(data)
        if is_open or self._left > 0:
            return data
        raise ConnectionResetError


class _Flip:
    """Flips a bit behind so many bytes, once."""

    def __init__(self, after: int) -> None:
        self._left = after

    def __call__(self, data: bytes) -> bytes:
        place, self._left = self._left, self._left - len(data)
        if not 0 <= place < len(data):
            return data
        return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def connection_cut(bench: Bench) -> list[Seen]:
    """connection to the cloud cut in the middle of a message"""
    client = bench.forwarded_client
    with _altered(bench, _Cut(100_000)):
        rows = [client.ask("answer in raw", bench.unary_s, "cut behind 100 kB").seen(BROKEN)]
    stream = client.ask("complete", _LONG_S, "cut in a step")
    until(_has_begun(stream))
    with _altered(bench, _Cut(50)):
        rows.append(stream.seen())
    return rows + back(client, bench.kinds)


def upload_cut(bench: Bench) -> list[Seen]:
    """connection to the edge cut in the middle of a request"""
    expected = bench.forwarded_client.expected
    bench.front.alter = _Cut(150)
    rows = [bench.client_of(bench.front.address, expected).ask("answer", bench.unary_s, "cut").seen(BROKEN)]
    bench.front.alter = bytes
    return rows + back(bench.client_of(bench.front.address, expected), bench.kinds)


def bit_flipped(bench: Bench) -> list[Seen]:
    """a bit flipped on the way to the cloud"""
    client = bench.forwarded_client
    with _altered(bench, _Flip(100_000)):
        rows = [client.ask("answer in raw", bench.unary_s, "in its frame").seen(_DAMAGED)]
    for number in range(_FLIPPED_STREAMS):
        stream = client.ask("complete in raw", _LONG_S, f"in a step, {number + 1} of {_FLIPPED_STREAMS}")
        until(_has_begun(stream))
        with _altered(bench, _Flip(1000 + 500 * number)):
            rows.append(stream.seen(_DAMAGED))
    return rows + back(client, bench.kinds)


def frames_damaged(bench: Bench) -> list[Seen]:
    """frames with a flipped bit, sent to the cloud"""
    generator, ends = random.Random(0), Counter[str]()
    frames = [_frame(codec) for codec in ("raw", "klt")]

    def work(_: Asked) -> str:
        with _head(bench) as head:
            for number in range(_FLIPS):
                frame = bytearray(frames[number % len(frames)])
                frame[generator.randrange(len(frame))] ^= 1 << generator.randrange(8)
                ends[Asked("", _SOON_S, _run(head, _request(bytes(frame)))).seen().outcome] += 1
        return ", ".join(f"{count} x {outcome}" for outcome, count in sorted(ends.items()))

    seen = Asked(f"{_FLIPS} frames, together", _LONG_S, work).seen()
    return [replace(seen, verdict="" if all(end.startswith("INVALID_ARGUMENT") for end in ends) else "not expected")]


def future_version(bench: Bench) -> list[Seen]:
    """messages of a later release, and of none, sent to the cloud"""
    frame = _frame("klt")
    later = frame[:3] + bytes([frame[3] + 1]) + frame[4:]
    asked = {
        "frame of the next version": (_request(later), "INVALID_ARGUMENT (UNSUPPORTED_VERSION)"),
        "frame that is cut": (_request(frame[:-9]), "INVALID_ARGUMENT (TRUNCATED)"),
        "bytes that are no frame": (_request(b"\x89PNG" + frame), "INVALID_ARGUMENT (BAD_MAGIC)"),
        "unknown task": (_request(frame, "FutureTask"), "INVALID_ARGUMENT (INPUT)"),
        "unknown profile": (_request(frame, profile="future"), "FAILED_PRECONDITION (PROFILE_MISMATCH)"),
    }
    with _head(bench) as head:
        return [Asked(what, _SOON_S, _run(head, request)).seen([end]) for what, (request, end) in asked.items()]


def other_profile(bench: Bench) -> list[Seen]:
    """edge and cloud with profiles of different splits"""
    edge = bench.edge_before(bench.cloud.address, f"{_MODEL}@30")
    edge.wait()
    client = bench.client_of(edge.address)
    end = "FAILED_PRECONDITION (PROFILE_MISMATCH)"
    rows = [client.ask(kind, _SOON_S, "new").seen([end]) for kind in ("answer", "complete")]
    edge.kill()
    return rows


def slow_reader(bench: Bench) -> list[Seen]:
    """eight clients that do not read their streams"""
    client, edge, rows = bench.forwarded_client, bench.forwarded_edge, list[Seen]()
    idle = bench.client_of(bench.front.address, client.expected)
    rows.append(idle.ask("answer", _LONG_S, "before").seen())  # connected
    before = edge.rss_bytes
    bench.front.reads_back = False
    asked = [idle.flood(_READERS_S) for _ in range(_READERS)]
    until(lambda: edge.metric("running") >= len(asked))
    with watched(edge, "edge", rows):
        rows.append(client.ask("answer", _LONG_S, "beside them").seen())
        ends = [each.seen(LATE) for each in asked]
        rows.append(next((end for end in ends if end.verdict), max(ends, key=lambda end: end.seconds)))
        until(lambda: not edge.metric("running"))
    bench.front.reads_back = True
    grown = edge.rss_bytes - before
    verdict = "" if grown < _MAX_GROWTH_BYTES else "it grows"
    rows.append(
        Seen(call="memory of the edge", outcome=f"{grown / 1e6:+.0f} MB", seconds=0, deadline_s=0, verdict=verdict)
    )
    return rows


@contextmanager
def _altered(bench: Bench, alter: Callable[[bytes], bytes]) -> Iterator[None]:
    bench.forwarder.alter = alter
    try:
        yield
    finally:
        bench.forwarder.alter = bytes


def _has_begun(stream: Asked) -> Callable[[], bool]:
    return lambda: stream.is_over or (stream.tokens or 0) >= _BEFORE


def _frame(codec: str) -> bytes:
    features = np.random.default_rng(0).standard_normal((5, _CHANNELS), np.float32)
    return load(_MODEL).encode(features, codec=codec)


def _request(frame: bytes, task: str = "AnswerTask", profile: str = _MODEL) -> head_pb2.RunRequest:
    arguments = head_pb2.AnswerTask(token_ids=[1, 2]).SerializeToString()
    packed = AnyMessage(type_url=f"type.googleapis.com/dtufc.v1.{task}", value=arguments)
    return head_pb2.RunRequest(profile=profile, frame=frame, task=packed)


@contextmanager
def _head(bench: Bench) -> Iterator[Any]:
    bench.cloud.wait()
    with grpc.insecure_channel(bench.cloud.address) as channel:
        yield head_pb2_grpc.HeadServiceStub(channel)


def _run(head: Any, request: head_pb2.RunRequest) -> Callable[[Asked], str]:
    """Work of a call that has to fail."""

    def work(_: Asked) -> str:
        head.Run(request, timeout=_SOON_S)
        return "accepted"

    return work
