"""`docker compose up`, for real: what users start, what they ask of it, and what happens when a part of it dies.

Grafana's image is in no registry that the tests reach: its part is validated, not started.
"""

import json
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import docker
import pytest
import yaml
from docker.models.containers import Container

from dtufc.client import EdgeClient
from dtufc.errors import DtufcError, Unavailable
from tests.deploy.examples import EXAMPLES
from tests.deploy.images import ROOT, Built
from tests.deploy.stack import Stack
from tests.e2e.services import free_port

STARTED = ("edge", "cloud", "prometheus")
DEADLINE_S = 20.0
DOWN_S = 10.0

# Without masquerading, what is on these networks reaches this machine and nothing beyond.
NO_NETWORK = {"driver_opts": {"com.docker.network.bridge.enable_ip_masquerade": "false"}}


@pytest.fixture(scope="module")
def stack(
    engine: docker.DockerClient, images: dict[str, Built], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """Edge, cloud and Prometheus, up and healthy on free ports, without any network but their own."""
    override = tmp_path_factory.mktemp("compose") / "offline.yaml"
    override.write_text(yaml.safe_dump({"networks": {"outside": NO_NETWORK}}), encoding="utf-8")
    stack = Stack(
        engine=engine,
        project=f"dtufc-test-{free_port()}",
        files=(ROOT / "compose.yaml", override),
        env={
            "EDGE_IMAGE": images["edge"].name,
            "CLOUD_IMAGE": images["cloud"].name,
            "PROMETHEUS_IMAGE": "dtufc-test/prometheus",
            "EDGE_PORT": str(free_port()),
            "PROMETHEUS_PORT": str(free_port()),
            "MORE_CLOUDS": "1",
            "RESTART": "no",
        },
    )
    try:
        stack.fill_cache()
        seconds = stack.timed("up", "--wait", "--no-build", "--pull=never", *STARTED)
        print(f"\nup and healthy in {seconds:.1f} s")
        yield stack
    finally:
        stack.compose("--profile=*", "down", "--volumes", "--timeout=1", check=False)


@pytest.fixture(scope="module")
def client(stack: Stack) -> Iterator[EdgeClient]:
    with EdgeClient(f"127.0.0.1:{stack.env['EDGE_PORT']}", timeout_s=DEADLINE_S) as client:
        yield client


def only(stack: Stack, service: str) -> Container:
    (container,) = stack.containers(service)
    return container


def asked(stack: Stack, query: str) -> list[dict[str, Any]]:
    """The stack's own Prometheus, through its published port."""
    url = f"http://127.0.0.1:{stack.env['PROMETHEUS_PORT']}/api/v1/query?query={urllib.parse.quote(query)}"
    with urllib.request.urlopen(url, timeout=10) as reply:
        return list(json.load(reply)["data"]["result"])


def eventually(check: Callable[[], bool], timeout_s: float = 60) -> None:
    end = time.monotonic() + timeout_s
    while not check():
        assert time.monotonic() < end, "not within the time"
        time.sleep(0.5)


def test_every_task_that_the_services_offer_answers_through_the_published_port(client: EdgeClient) -> None:
    tasks = {task for info in client.models() for task in info.tasks}
    assert tasks == set(EXAMPLES)
    for task in sorted(tasks):
        cost = EXAMPLES[task](client)
        assert 0 < cost.wire_bytes < cost.raw_bytes
        assert {"edge.backbone", "cloud.head"} <= {stage.name for stage in cost.stages}


def test_nothing_is_published_but_the_edge_and_prometheus_and_that_on_loopback_alone(stack: Stack) -> None:
    for service in STARTED:
        ports = only(stack, service).attrs["NetworkSettings"]["Ports"]
        bound = [binding for bindings in ports.values() for binding in bindings or ()]
        assert {binding["HostIp"] for binding in bound} <= {"127.0.0.1"}
        assert len(bound) == (service != "cloud")


def test_the_services_run_without_rights_on_read_only_file_systems(stack: Stack) -> None:
    for service in STARTED:
        container = only(stack, service)
        host = container.attrs["HostConfig"]
        assert host["ReadonlyRootfs"]
        assert host["CapDrop"] == ["ALL"]
        assert host["Init"]
        assert container.attrs["Config"]["User"] not in ("", "0", "root")
        status, _ = container.exec_run(["sh", "-c", "echo x > /usr/x || echo x > /opt/x || echo x > /x"])
        assert status != 0


def test_the_health_check_is_a_call_that_fails_where_nobody_serves(stack: Stack) -> None:
    for service, port in (("edge", 50051), ("cloud", 50052)):
        container = only(stack, service)
        assert container.attrs["State"]["Health"]["Status"] == "healthy"
        status, said = container.exec_run(["dtufc", "health", f"127.0.0.1:{port}"])
        assert isinstance(said, bytes)
        assert (status, said.split()) == (0, [b"status", b"SERVING"])
        status, _ = container.exec_run(["dtufc", "health", "127.0.0.1:1"])
        assert status == 1


def test_prometheus_scrapes_both_sides_and_has_loaded_the_rules(stack: Stack) -> None:
    def seen() -> dict[str, str]:
        return {sample["metric"]["job"]: sample["value"][1] for sample in asked(stack, "up")}

    eventually(lambda: seen() == {"dtufc-edge": "1", "dtufc-cloud": "1"})
    eventually(lambda: bool(asked(stack, "task:dtufc_edge_requests:rate5m")))


def test_a_killed_cloud_is_unavailable_within_the_deadline_and_comes_back(stack: Stack, client: EdgeClient) -> None:
    cloud = only(stack, "cloud")
    cloud.kill()
    start = time.monotonic()
    with pytest.raises(Unavailable):
        EXAMPLES["answer"](client)
    print(f"\nUNAVAILABLE after {time.monotonic() - start:.1f} s")
    assert time.monotonic() - start < DEADLINE_S
    start = time.monotonic()
    stack.compose("up", "--wait", "--no-build", "--pull=never", "cloud")

    def answers() -> bool:
        try:
            return EXAMPLES["answer"](client).wire_bytes > 0
        except Unavailable:
            return False

    eventually(answers)
    print(f"answers again {time.monotonic() - start:.1f} s after the start")


def test_several_clouds_share_the_work_and_one_may_die(stack: Stack, client: EdgeClient) -> None:
    stack.compose("--profile=several", "up", "--wait", "--no-build", "--pull=never", "cloud-more")
    clouds = 'count(up{job="dtufc-cloud"} == 1)'
    eventually(lambda: [sample["value"][1] for sample in asked(stack, clouds)] == ["2"])
    only(stack, "cloud").restart(timeout=8)  # the edge looks its clouds up anew when it loses one

    def both_work() -> bool:
        try:
            EXAMPLES["answer"](client)
        except Unavailable:
            return False
        return len(asked(stack, "dtufc_cloud_requests_total > 0 and on (instance) up == 1")) > 1

    eventually(both_work)
    only(stack, "cloud-more").kill()
    eventually(lambda: "UNAVAILABLE" not in outcomes(client, 4), timeout_s=20)


def test_the_profile_for_a_gpu_is_valid_and_needs_no_cloud_on_the_cpu(stack: Stack) -> None:
    found = json.loads(
        replace(stack, env={**stack.env, "CLOUDS": "0"}).compose("--profile=gpu", "config", "--format=json")
    )
    gpu, cpu = (found["services"][name] for name in ("cloud-gpu", "cloud"))
    (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["count"], device["capabilities"]) == ("nvidia", 1, ["gpu"])
    assert gpu["build"]["args"]["ACCELERATOR"] == "cuda"
    assert gpu["environment"]["DTUFC_CLOUD_DEVICE"] == "cuda"
    assert gpu["networks"] == cpu["networks"] == {"pair": {"aliases": ["cloud"]}}
    assert cpu["scale"] == 0


def outcomes(client: EdgeClient, times: int) -> list[str]:
    """How so many answers ended."""
    ended = []
    for _ in range(times):
        try:
            EXAMPLES["answer"](client)
        except Unavailable as error:
            ended.append(error.code)
        else:
            ended.append("OK")
    return ended


def test_down_takes_less_than_ten_seconds_in_the_middle_of_work(stack: Stack, client: EdgeClient) -> None:
    story = client.complete("Once upon a time", max_tokens=200, plain=True)
    next(story)
    seconds = stack.timed("--profile=several", "down")
    print(f"\ndown in {seconds:.1f} s")
    with pytest.raises(DtufcError):
        list(story)
    assert seconds < DOWN_S
    assert stack.containers() == []
