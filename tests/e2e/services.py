"""Edge and cloud as processes of their own on 127.0.0.1, and what the tests ask of them."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from dtufc.v1 import head_pb2, head_pb2_grpc, inference_pb2_grpc

START_S = 120.0  # two busy cores and a cold disk
SAMPLES = Path(__file__).parents[2] / "samples"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment without what this shell may have set for DT-UFC, and one thread a process."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DTUFC_EDGE_", "DTUFC_CLOUD_"))}
    return {**kept, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **(extra or {})}


@dataclass
class Service:
    """One running side."""

    side: str
    address: str
    metrics_address: str
    process: "subprocess.Popen[bytes]"
    log: Path

    def wait_until_serving(self) -> None:
        """Asks grpc.health.v1 until it says SERVING. Fails with the service's log where it never does."""
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            if self.process.poll() is not None:
                break
            with grpc.insecure_channel(self.address) as channel:
                try:
                    reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=2)
                except grpc.RpcError:
                    time.sleep(0.2)
                    continue
            if reply.status == health_pb2.HealthCheckResponse.SERVING:
                return
        raise AssertionError(f"{self.side} does not serve (exit {self.process.poll()}):\n{self.log_text()}")

    def wait_until_logged(self, message: str) -> None:
        """Waits for a line of the log; for a server whose TLS a plain health check cannot pass, or that starts none."""
        end = time.monotonic() + START_S
        while f'"message": "{message}"' not in self.log_text():
            if time.monotonic() > end or self.process.poll() is not None:
                raise AssertionError(f"{self.side} never logs {message}:\n{self.log_text()}")
            time.sleep(0.1)

    def log_text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def samples(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """Every sample of the metrics page, by name and labels."""
        with urllib.request.urlopen(f"http://{self.metrics_address}/metrics", timeout=10) as page:
            text = page.read().decode()
        return {
            (sample.name, frozenset(sample.labels.items())): float(sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def total(self, name: str, **labels: str) -> float:
        """The sum of the samples of this name that have these labels."""
        wanted = set(labels.items())
        return sum(value for (found, has), value in self.samples().items() if found == name and wanted <= has)

    def terminate(self, timeout_s: float = 30) -> int:
        """SIGTERM; the exit code."""
        self.process.terminate()
        return self.process.wait(timeout_s)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(30)


def start(
    side: str,
    folder: Path,
    *flags: str,
    port: int | None = None,
    metrics: str | None = None,
    env: Mapping[str, str] | None = None,
) -> Service:
    """Starts `python -m dtufc_SIDE` with these flags on free ports; its stderr goes to a file in `folder`."""
    address, metrics = f"127.0.0.1:{port or free_port()}", metrics or f"127.0.0.1:{free_port()}"
    log = folder / f"{side}-{address.rpartition(':')[2]}-{time.monotonic_ns()}.log"
    command = [sys.executable, "-m", f"dtufc_{side}", "--listen", address, "--metrics-listen", metrics, *flags]
    with log.open("wb") as stderr:
        process = subprocess.Popen(command, stderr=stderr, stdout=stderr, env=environment(env))
    return Service(side=side, address=address, metrics_address=metrics, process=process, log=log)


def run_to_end(side: str, *flags: str, env: Mapping[str, str] | None = None) -> "subprocess.Popen[str]":
    """Starts a side that is expected to reject its settings; `communicate` gives its output."""
    command = [sys.executable, "-m", f"dtufc_{side}", *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(env))


def stop_all(services: Sequence[Service]) -> None:
    for service in services:
        if service.process.poll() is None:
            service.process.kill()
    for service in services:
        service.process.wait(30)


def inference_stub(channel: grpc.Channel) -> inference_pb2_grpc.InferenceServiceStub:
    return inference_pb2_grpc.InferenceServiceStub(channel)  # type: ignore[no-untyped-call]


def head_stub(channel: grpc.Channel) -> head_pb2_grpc.HeadServiceStub:
    return head_pb2_grpc.HeadServiceStub(channel)  # type: ignore[no-untyped-call]


def run_request(profile: str, frame: bytes, task: Message | None = None) -> head_pb2.RunRequest:
    """A frame and what to do with it, as the edge sends them to the cloud."""
    request = head_pb2.RunRequest(profile=profile, frame=frame)
    if task is not None:
        request.task.Pack(task)
    return request


def error_info(error: grpc.RpcError) -> error_details_pb2.ErrorInfo:
    """The google.rpc.ErrorInfo that came with the status, as any client could read it."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for detail in status_pb2.Status.FromString(value).details:
                info = error_details_pb2.ErrorInfo()
                if detail.Unpack(info):
                    return info
    raise AssertionError(f"no ErrorInfo in {error}")
