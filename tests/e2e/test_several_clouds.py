"""One edge before several clouds: they take turns, and one may die and come back."""

import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dtufc.client import EdgeClient
from tests.e2e.services import Service

TWO = ["yes", "no"]
LLAMA = ("--profiles", "smollm2-135m@30")


@pytest.fixture
def clouds(launch: Callable[..., Service]) -> list[Service]:
    started = [launch("cloud", *LLAMA), launch("cloud", *LLAMA)]
    for cloud in started:
        cloud.wait_until_serving()
    return started


@pytest.fixture
def client(clouds: list[Service], launch: Callable[..., Service]) -> Iterator[EdgeClient]:
    edge = launch("edge", *LLAMA, "--cloud", f"ipv4:{','.join(cloud.address for cloud in clouds)}")
    edge.wait_until_serving()
    with EdgeClient(edge.address, timeout_s=40) as client:
        yield client


def work(cloud: Service) -> float:
    return cloud.total("dtufc_cloud_requests_total", task="answer")


def test_clouds_take_turns_and_the_others_go_on_where_one_dies(clouds: list[Service], client: EdgeClient) -> None:
    end = time.monotonic() + 60
    while min(map(work, clouds)) < 2:
        client.answer("Is it?", TWO)
        assert time.monotonic() < end, "one cloud gets no work"
    dead, alive = clouds
    dead.kill()
    before = work(alive)
    for _ in range(4):  # the one that was on its way too
        assert client.answer("Is it?", TWO).letter in "AB"
    assert work(alive) == before + 4


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_a_text_goes_on_at_the_other_cloud_where_its_own_stands_still_or_dies(
    clouds: list[Service], client: EdgeClient, number: signal.Signals
) -> None:
    """A cloud that stands still keeps its connection: only its silence tells, after 15 seconds at most."""
    ask: dict[str, Any] = {"max_tokens": 24, "plain": True, "codec": "raw"}
    expected = [reply.token.token_id for reply in client.complete("One, two,", **ask) if reply.HasField("token")]
    ids, longest_s, last = list[int](), 0.0, time.monotonic()
    for reply in client.complete("One, two,", **ask):
        longest_s, last = max(longest_s, time.monotonic() - last), time.monotonic()
        if reply.HasField("token"):
            ids.append(reply.token.token_id)
        if len(ids) == 8 and reply.HasField("token"):
            (busy,) = [cloud for cloud in clouds if cloud.total("dtufc_cloud_sequences")]
            busy.process.send_signal(number)
    assert ids == expected
    assert reply.generated.recoveries == 1
    assert longest_s < 16
