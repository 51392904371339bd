"""An image that takes long holds up itself: not the edge, not its place, not its deadline."""

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


@pytest.fixture(scope="module")
def scans() -> bytes:
    """Less than 200 kB, and a minute of work."""
    data = many_scans(6000, 90)
    assert len(data) < 200_000
    return data


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


def cpu_s(pid: int) -> float:
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / 100


def eventually(condition: Callable[[], bool], timeout_s: float = 30) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.05)


def test_ninety_large_scans_are_rejected_in_time_and_others_are_answered_meanwhile(
    edge: Service, scans: bytes, jpeg: bytes
) -> None:
    with EdgeClient(edge.address, timeout_s=60) as client, ThreadPoolExecutor(1) as thread:
        client.classify(jpeg)
        client.answer("Is it?", TWO)
        begin = time.monotonic()
        rejected = thread.submit(client.classify, scans)
        num_answered = 0
        while not rejected.done():
            client.answer("Is it?", TWO)
            num_answered += not rejected.done()
        with pytest.raises(InputError) as caught:
            rejected.result()
        assert time.monotonic() - begin < MAX_IMAGE_SECONDS + 5  # two busy cores
        assert caught.value.context["field"] == "image"
        if "s to decode" in caught.value.context["problem"]:
            assert num_answered
        assert client.classify(jpeg).labels
    assert edge.total("dtufc_edge_running") == 0


def test_a_deadline_ends_the_work_on_an_image(edge: Service, scans: bytes, jpeg: bytes) -> None:
    with EdgeClient(edge.address, timeout_s=60) as client:
        client.classify(jpeg)
        before = decoders(edge)
        with EdgeClient(edge.address, timeout_s=0.5) as hasty, pytest.raises(DeadlineExceeded):
            hasty.classify(scans)
        eventually(lambda: not before & decoders(edge))
        eventually(lambda: edge.total("dtufc_edge_running") == 0)
        assert client.classify(jpeg).labels


def test_a_client_that_goes_away_ends_the_work_on_its_image(edge: Service, scans: bytes) -> None:
    eventually(lambda: len(decoders(edge)) == 1)
    (pid,) = decoders(edge)
    before = edge.total("dtufc_edge_image_decoders_ended_total", reason="cancelled")
    with grpc.insecure_channel(edge.address) as channel:
        idle_s = cpu_s(pid)
        call = inference_stub(channel).Classify.future(inference_pb2.ClassifyRequest(image=scans), timeout=60)
        eventually(lambda: cpu_s(pid) > idle_s + 0.1)
        call.cancel()
    eventually(lambda: not decodes(pid))
    eventually(lambda: edge.total("dtufc_edge_image_decoders_ended_total", reason="cancelled") == before + 1)


def test_no_process_outlives_an_edge_that_is_killed(launch: Callable[..., Service], scans: bytes) -> None:
    edge = launch(
        "edge", "--profiles", "efficientnet-lite0", "--threads", "2", "--max-image-seconds", str(MAX_IMAGE_SECONDS)
    )
    edge.wait_until_serving()
    pids = decoders(edge)
    assert len(pids) == 2
    with grpc.insecure_channel(edge.address) as channel:
        before = {pid: cpu_s(pid) for pid in pids}
        request = inference_pb2.ClassifyRequest(image=scans)
        call = inference_stub(channel).Classify.future(request, timeout=60)
        eventually(lambda: any(cpu_s(pid) > before[pid] + 0.1 for pid in pids))
        edge.kill()
        assert isinstance(call.exception(10), grpc.RpcError)
    eventually(lambda: not any(decodes(pid) for pid in pids), timeout_s=MAX_IMAGE_SECONDS + 10)
