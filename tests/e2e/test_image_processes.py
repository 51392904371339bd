"""An image that takes long holds up itself: not the edge, not its place, not its deadline.

A process that stands still (SIGSTOP) is a decoder that never ends, whatever is checked of a file before it is decoded.
"""

import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from dtufc.client import EdgeClient
from dtufc.errors import DeadlineExceeded, InputError
from dtufc.v1 import inference_pb2
from tests.e2e.conftest import MAX_IMAGE_SECONDS
from tests.e2e.services import Service, inference_stub
from tests.serving.scans import many_scans

TWO = ["yes", "no"]


def decoders(edge: Service) -> set[int]:
    """The processes in which an edge decodes images."""
    found: set[int] = set()
    for task in Path(f"/proc/{edge.process.pid}/task").iterdir():
        found |= {int(pid) for pid in (task / "children").read_text().split()}
    return {pid for pid in found if decodes(pid)}


def decodes(pid: int) -> bool:
    """Whether there is such a process."""
    try:
        return b"dtufc_edge.image_process" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


def stopped(edge: Service) -> int:
    """The one process of an edge of one thread; it stands still from here on."""
    eventually(lambda: len(decoders(edge)) == 1)
    (pid,) = decoders(edge)
    os.kill(pid, signal.SIGSTOP)
    return pid


def eventually(condition: Callable[[], bool], timeout_s: float = 30) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.05)


def test_hundreds_of_scans_are_rejected_in_time(edge: Service, client: EdgeClient, jpeg: bytes) -> None:
    """Less than 200 kB, which took a minute."""
    scans = many_scans(2000, 13_000)
    assert len(scans) < 200_000
    begin = time.monotonic()
    with pytest.raises(InputError) as caught:
        client.classify(scans)
    assert time.monotonic() - begin < MAX_IMAGE_SECONDS + 5  # two busy cores
    assert caught.value.context["field"] == "image"
    assert client.classify(jpeg).labels


def test_while_an_image_takes_its_time_others_are_answered(edge: Service, client: EdgeClient, jpeg: bytes) -> None:
    client.answer("Is it?", TWO)
    pid = stopped(edge)
    with ThreadPoolExecutor(1) as thread:
        rejected = thread.submit(client.classify, jpeg)
        num_answered = 0
        while not rejected.done():
            client.answer("Is it?", TWO)
            num_answered += not rejected.done()
        with pytest.raises(InputError, match=f"more than {MAX_IMAGE_SECONDS} s"):
            rejected.result()
    assert num_answered
    eventually(lambda: not decodes(pid))
    assert client.classify(jpeg).labels
    eventually(lambda: edge.total("dtufc_edge_running") == 0)


def test_a_deadline_ends_the_work_on_an_image(edge: Service, client: EdgeClient, jpeg: bytes) -> None:
    pid = stopped(edge)
    with EdgeClient(edge.address, timeout_s=0.5) as hasty, pytest.raises(DeadlineExceeded):
        hasty.classify(jpeg)
    eventually(lambda: not decodes(pid))
    eventually(lambda: edge.total("dtufc_edge_running") == 0)
    assert client.classify(jpeg).labels


def test_a_client_that_goes_away_ends_the_work_on_its_image(edge: Service, client: EdgeClient, jpeg: bytes) -> None:
    before = edge.total("dtufc_edge_image_decoders_ended_total", reason="cancelled")
    pid = stopped(edge)
    with grpc.insecure_channel(edge.address) as channel:
        call = inference_stub(channel).Classify.future(inference_pb2.ClassifyRequest(image=jpeg), timeout=60)
        eventually(lambda: edge.total("dtufc_edge_running") == 1)
        client.models()  # behind the request in the edge's loop
        call.cancel()
    eventually(lambda: not decodes(pid))
    assert edge.total("dtufc_edge_image_decoders_ended_total", reason="cancelled") == before + 1
    assert client.classify(jpeg).labels


def test_no_process_outlives_an_edge_that_is_killed(launch: Callable[..., Service], jpeg: bytes) -> None:
    edge = launch("edge", "--profiles", "efficientnet-lite0", "--threads", "2")
    edge.wait_until_serving()
    pids = decoders(edge)
    assert len(pids) == 2
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    with grpc.insecure_channel(edge.address) as channel:
        call = inference_stub(channel).Classify.future(inference_pb2.ClassifyRequest(image=jpeg), timeout=60)
        eventually(lambda: edge.total("dtufc_edge_running") == 1)
        edge.kill()
        assert isinstance(call.exception(10), grpc.RpcError)
    for pid in pids:  # one has an image to decode, and one has none
        os.kill(pid, signal.SIGCONT)
    eventually(lambda: not any(decodes(pid) for pid in pids))
