"""A model named by its hub id, and models that run in 16 bits."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from dtufc.coding.rate import Rate
from dtufc.errors import InputError
from dtufc.models.device import pick_device
from dtufc.serving.telemetry import Record
from dtufc.v1 import head_pb2
from dtufc_cloud.pipeline import CloudPipeline
from dtufc_edge.pipeline import EdgePipeline
from tests.models.pairs import decoded, result
from tests.models.test_zoo import CPU, dinov2_folder, llama_folder, profile_of

__all__ = ["dinov2_folder", "llama_folder"]  # pytest finds fixtures by their names here
COMMIT = "0123456789abcdef0123456789abcdef01234567"
SPLIT = """
import sys
import torch
from dtufc.models.profile import load_profile
from dtufc.errors import InputError
from dtufc_edge.pipeline import EdgePipeline
try:
    pipeline = EdgePipeline(load_profile(sys.argv[1]), torch.device("cpu"), torch.float32)
except InputError as error:
    sys.exit(f"error: {error}")
print(pipeline.backbone.features(pipeline.backbone.start(), [3, 4, 5]).double().sum().item())
"""


def run(profile: Path, hub: Path) -> "subprocess.CompletedProcess[str]":
    """A process of its own, for which the hub is what lies in `hub` alone."""
    env = {**os.environ, "HF_HOME": str(hub), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-W", "ignore", "-c", SPLIT, str(profile)]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def hub_profile(folder: Path, hub_id: str) -> Path:
    spec = {"name": "hub", "family": "decoder", "layout": {"family": "llm"}, "split": 2, "source": {"hub": hub_id}}
    folder.mkdir()
    (folder / "profile.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")
    return folder


def test_a_model_named_by_its_hub_id_is_that_of_the_folder(llama_folder: Path, tmp_path: Path) -> None:
    cached = tmp_path / "home" / "hub" / "models--someone--tiny"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(COMMIT, encoding="utf-8")
    shutil.copytree(llama_folder, cached / "snapshots" / COMMIT)
    done = run(hub_profile(tmp_path / "by-hub", "someone/tiny"), tmp_path / "home")
    assert done.returncode == 0, done.stderr
    local = EdgePipeline(profile_of("decoder", llama_folder, 2), CPU, torch.float32)
    expected = float(local.backbone.features(local.backbone.start(), [3, 4, 5]).double().sum())
    assert float(done.stdout) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("hub_id", ["someone/absent", "not an id"])
def test_a_hub_id_that_is_not_available_is_one_line_with_what_to_do(tmp_path: Path, hub_id: str) -> None:
    done = run(hub_profile(tmp_path / "by-hub", hub_id), tmp_path / "empty")
    assert done.returncode == 1
    assert "Check the id and the network" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("split", [1, 3])
def test_a_pair_in_sixteen_bits_sends_its_features_as_they_are(
    llama_folder: Path, dtype: torch.dtype, split: int
) -> None:
    profile = profile_of("decoder", llama_folder, split)
    edge, cloud = EdgePipeline(profile, CPU, dtype), CloudPipeline(profile, CPU, dtype)
    features = edge.backbone.features(edge.backbone.start(), [3, 5, 7, 9])
    assert features.dtype == dtype
    frame = edge.encode(features, "raw", Rate(), Record("answer"))
    assert torch.equal(decoded(cloud, frame), features)
    answer = result(cloud, frame, "answer", head_pb2.AnswerTask(token_ids=[3, 4, 5]))
    assert sum(answer.probabilities) == pytest.approx(1)


def test_a_cloud_in_bfloat16_takes_what_an_edge_in_float32_sends(dinov2_folder: Path) -> None:
    profile = profile_of("vit", dinov2_folder, 2)
    edge, cloud = EdgePipeline(profile, CPU, torch.float32), CloudPipeline(profile, CPU, torch.bfloat16)
    features = edge.backbone.features(torch.zeros(1, 3, 56, 56))
    frame = edge.encode(features, "raw", Rate(), Record("segment"))
    task = head_pb2.SegmentTask(right=56, bottom=56, width=20, height=10)
    assert result(cloud, frame, "segment", task).label_map_png.startswith(b"\x89PNG")


def test_a_device_that_is_not_there_is_rejected_with_what_to_do() -> None:
    assert pick_device("cpu") == CPU
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("cuda:99", "abacus"):
        with pytest.raises(InputError, match="Use auto"):
            pick_device(name)
