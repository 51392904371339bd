"""A Docker engine where one can be had; deploy/scripts/engine.sh sets one up on a bare Debian."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

import docker
import pytest
from docker.errors import DockerException

from tests.deploy.images import SIDES, Built, build, torch_arguments


@contextmanager
def docker_engine() -> Iterator[docker.DockerClient]:
    """A client of the engine that DOCKER_HOST names; DockerException where none answers.

    docker-py leaves its socket open where nothing listens, so that is found out first.
    """
    host = urlsplit(os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock")
    if host.scheme == "unix":
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(host.path):
                raise DockerException(f"nothing listens on {host.path}")
    client = docker.from_env(timeout=600)
    try:
        client.ping()
        yield client
    finally:
        client.close()


@pytest.fixture(scope="session")
def engine() -> Iterator[docker.DockerClient]:
    how = "start one, or run deploy/scripts/engine.sh run make test"
    with ExitStack() as stack:
        try:
            client = stack.enter_context(docker_engine())
        except DockerException as error:
            pytest.skip(f"no Docker engine answers ({error}): {how}")
        _check_compose(how)
        yield client


def _check_compose(how: str) -> None:
    version = ["docker", "compose", "version"]
    if shutil.which("docker") is None or subprocess.run(version, capture_output=True, check=False).returncode:
        pytest.skip(f"docker compose is not installed: {how}")


@pytest.fixture(scope="session")
def images(engine: docker.DockerClient) -> dict[str, Built]:
    """Both sides' images."""
    with torch_arguments(engine) as arguments:
        return {side: build(engine, side, f"dtufc-{side}:test", arguments) for side in SIDES}
