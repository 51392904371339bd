"""A Docker engine where one can be had; deploy/scripts/engine.sh sets one up on a bare Debian."""

import shutil
import subprocess
from collections.abc import Iterator

import docker
import pytest
from docker.errors import DockerException

from tests.deploy.images import SIDES, Built, build, torch_arguments


@pytest.fixture(scope="session")
def engine() -> Iterator[docker.DockerClient]:
    how = "start one, or run deploy/scripts/engine.sh run make test"
    try:
        client = docker.from_env(timeout=600)
        client.ping()
    except DockerException as error:
        pytest.skip(f"no Docker engine answers ({error}): {how}")
    version = ["docker", "compose", "version"]
    if shutil.which("docker") is None or subprocess.run(version, capture_output=True, check=False).returncode:
        pytest.skip(f"docker compose is not installed: {how}")
    yield client
    client.close()


@pytest.fixture(scope="session")
def images(engine: docker.DockerClient) -> dict[str, Built]:
    """Both sides' images."""
    with torch_arguments(engine) as arguments:
        return {side: build(engine, side, f"dtufc-{side}:test", arguments) for side in SIDES}
