"""A machine without a Docker engine: the tests that want one are skipped, and pytest still ends with status 0."""

import os
import subprocess
import sys
from pathlib import Path

from tests.deploy.images import ROOT


def test_the_tests_of_containers_are_skipped_without_an_engine_and_the_run_passes(tmp_path: Path) -> None:
    env = {**os.environ, "DOCKER_HOST": f"unix://{tmp_path}/docker.sock"}
    command = [sys.executable, "-m", "pytest", "tests/deploy/test_images.py", "-p", "no:cacheprovider", "-rs"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no Docker engine answers" in done.stdout
    assert "skipped" in done.stdout
