"""Builds both images on a Docker engine, and says what is in them.

Hides where PyTorch comes from: a wheel for CPUs in a folder that pip here is told to look in is served to the build;
without one the Dockerfiles' own default holds.
"""

import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import docker

ROOT = Path(__file__).parents[2]
SIDES = ("edge", "cloud")
_PORT = 38217  # always the same: an engine's cache of a build goes by the arguments


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """One image, and how long its build took."""

    name: str
    seconds: float


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: the build's own log has what was asked for."""


@contextmanager
def torch_arguments(engine: docker.DockerClient) -> Iterator[dict[str, str]]:
    """Build arguments that let the build take this machine's wheel of CPU torch; empty where there is none.

    Such a wheel has no torchvision to go with it, so CompressAI is left out.
    """
    folder, version = _cpu_torch()
    gateway = _gateway(engine)
    if folder is None or not _can_bind(gateway, _PORT):
        yield {}
        return
    server = ThreadingHTTPServer((gateway, _PORT), partial(_Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield {
            "TORCH": f"torch=={version}",
            "TORCH_CPU_INDEX": "",
            "PIP_FIND_LINKS": f"http://{gateway}:{server.server_port}/",
            "PIP_TRUSTED_HOST": gateway,
        }
    finally:
        server.shutdown()
        server.server_close()


def build(engine: docker.DockerClient, side: str, tag: str, arguments: Mapping[str, str]) -> Built:
    """Builds one side's image. Fails with the build's log."""
    start = time.monotonic()
    log: list[str] = []
    stream = engine.api.build(
        path=str(ROOT), dockerfile=f"Dockerfile.{side}", tag=tag, buildargs=dict(arguments), rm=True, decode=True
    )
    for line in stream:
        log.append(line.get("stream", ""))
        if "error" in line:
            raise AssertionError(f"{''.join(log[-60:])}\n{line['error']}")
    return Built(name=tag, seconds=time.monotonic() - start)


def layers(engine: docker.DockerClient, image: str) -> list[tuple[int, str]]:
    """Bytes and origin of each layer of an image that has any, the first one first."""
    history = reversed(engine.images.get(image).history())
    return [(entry["Size"], entry["CreatedBy"]) for entry in history if entry["Size"]]


def _cpu_torch() -> tuple[Path | None, str]:
    places = os.environ.get("PIP_FIND_LINKS") or _pip_config("global.find-links")
    for place in map(Path, places.split()):
        for wheel in sorted(place.glob("torch-*+cpu-cp311-*.whl"), reverse=True):
            match = re.match(r"torch-([^+]+)\+cpu", wheel.name)
            if match:
                return place, match.group(1)
    return None, ""


def _pip_config(name: str) -> str:
    command = [sys.executable, "-m", "pip", "config", "get", name]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _gateway(engine: docker.DockerClient) -> str:
    """The address under which builds see the machine of the engine."""
    (config, *_) = engine.networks.get("bridge").attrs["IPAM"]["Config"]
    return config.get("Gateway") or str(next(ip_network(config["Subnet"]).hosts()))


def _can_bind(address: str, port: int) -> bool:
    """Whether a server here can listen there: not where the engine is another machine's."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
        return True
