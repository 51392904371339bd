"""Training: interrupted and resumed, it ends with the same weights; its network codes features."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.numpy import save_file

from dtufc.coding.bitstream import CodecId
from dtufc.coding.codecs.learned import shipped_network
from dtufc.coding.codecs.learned.codec import LearnedCodec
from dtufc.coding.codecs.learned.network_file import load_network
from dtufc.models.profile import load_profile
from dtufc_research.training.configurations import TrainSpec, configurations
from dtufc_research.training.plane_transforms import PlaneTransformKind, fit_plane_transform
from dtufc_research.training.train import Training, export, run_folder, train, trained_steps
from tests.research.lightning import EXPECTED

TINY = {
    "widths": {"num_channels": 8, "num_latents": 16, "groups": [2, 2, 4, 8], "context": [8, 8]},
    "tasks": ["llm", "vit"],
    "lambdas": [0.001, 0.01, 0.1],
    "crops": [{"side": 64, "batch": 2}, {"from_epoch": 2, "side": 128, "batch": 1}],
    "shuffle": 0.3,
    "steps_per_epoch": 3,
    "precision": "32-true",
}
SCHEDULES = {
    "cycle": {"kind": "cycle", "learning_rate": 0.001, "epochs": 3},
    "plateau": {"kind": "plateau", "learning_rate": 0.001, "epochs": 3, "floor": 0.0009},
}
pytestmark = EXPECTED


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """So small a network gains nothing from two threads, and waits for the second on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> Path:
    """A cache folder with features of two tasks, two source files each."""
    monkeypatch.setenv("DTUFC_CACHE", str(tmp_path))
    for task, shape in (("llm", (2, 70, 576)), ("vit", (2, 17, 384))):
        (tmp_path / "features" / task).mkdir(parents=True)
        for part in ("train", "validate"):
            path = tmp_path / "features" / task / f"{part}.safetensors"
            save_file({"features": rng.standard_t(3, shape).astype(np.float16)}, path, {"part": part})
    return tmp_path


def configuration(folder: Path, name: str, **changes: object) -> str:
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**TINY, **changes}), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("schedule", sorted(SCHEDULES))
@pytest.mark.parametrize("kind", ["hyperprior", "elic"])
def test_an_interrupted_run_resumes_exactly(cache: Path, kind: str, schedule: str) -> None:
    names = [configuration(cache, name, kind=kind, schedule=SCHEDULES[schedule]) for name in ("whole", "cut")]
    train(names[0])
    train(names[1], epochs=2)
    train(names[1])
    whole, cut = (torch.load(run_folder(name) / "last.ckpt", weights_only=True)["state_dict"] for name in names)
    assert whole.keys() == cut.keys()
    for key, value in whole.items():
        torch.testing.assert_close(value, cut[key], rtol=1e-4, atol=1e-5)  # equal up to rounding
    assert list(run_folder(names[0]).glob("events.out.tfevents*"))


@pytest.mark.parametrize(
    ("kind", "plane_transform"),
    [("elic", "paper"), ("elic", "trimmed"), ("elic", "affine-grid"), ("elic", "truncate"), ("prior", "klt")],
)
def test_a_trained_network_codes_features(
    cache: Path, kind: str, plane_transform: PlaneTransformKind, rng: np.random.Generator
) -> None:
    widths = {**TINY["widths"], "num_latents": 256} if kind == "prior" else TINY["widths"]  # type: ignore[dict-item]
    schedule = SCHEDULES["cycle"]
    name = configuration(cache, "tiny", kind=kind, plane_transform=plane_transform, schedule=schedule, widths=widths)
    train(name, epochs=1)
    sent = rng.standard_t(3, (70, 576)).astype(np.float32)
    fitted = fit_plane_transform(plane_transform, load_profile("smollm2-135m"), [sent])
    codec = LearnedCodec(CodecId.elic, load_network(export(name)), fitted)
    payload = codec.encoder(sent)(0.5)
    got = codec.decode(payload, sent.shape, np.dtype(np.float32))
    assert got.shape == sent.shape
    assert np.isfinite(got).all()


def test_two_processes_share_the_work(cache: Path) -> None:
    name = configuration(cache, "shared", kind="hyperprior", schedule=SCHEDULES["cycle"])
    command = [sys.executable, "-W", "default", "-m", "dtufc_research.training.train", name, "--devices", "2"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("network-normal.safetensors") == 1  # one of them exports
    load_network(export(name))
    last = torch.load(run_folder(name) / "last.ckpt", weights_only=True)
    assert last["global_step"] == 9  # three epochs of three steps: a step has a batch of each process


@pytest.mark.parametrize("noise", [False, True])
def test_a_decoder_is_trained_with_noise_only_as_in_the_paper(cache: Path, noise: bool) -> None:
    spec = TrainSpec.load(configuration(cache, "n", kind="hyperprior", noise=noise, schedule=SCHEDULES["cycle"]))
    network = Training(spec, {}).network
    plane, rate = torch.randn(1, 1, 64, 64), torch.ones(1)
    first, second = (network(plane, rate) for _ in range(2))
    assert torch.equal(first.plane, second.plane) is not noise
    assert not torch.equal(first.bits, second.bits)  # the code length is computed with noise in either


def test_noise_is_rejected_for_elic(cache: Path) -> None:
    with pytest.raises(ValueError, match="noise: not for kind elic"):
        TrainSpec.load(configuration(cache, "n", kind="elic", noise=True, schedule=SCHEDULES["cycle"]))


def test_a_network_is_fine_tuned_from_a_file(cache: Path) -> None:
    """It starts from the weights of the file, trains on the last crops only, and counts the previous steps."""
    schedule = {**SCHEDULES["cycle"], "learning_rate": 1e-12}
    first, second = (configuration(cache, name, kind="hyperprior", schedule=schedule) for name in ("first", "second"))
    train(first, epochs=1)
    train(second, start=export(first))
    before, after = (load_network(export(name)).network.state_dict() for name in (first, second))
    for key, value in before.items():
        torch.testing.assert_close(value, after[key], rtol=2e-3, atol=1e-6)  # as float16 keeps it
    assert trained_steps(first)[0] == 3
    assert trained_steps(second)[0] == 3 + 3


def test_a_configuration_may_start_from_a_shipped_network(cache: Path) -> None:
    hybrid = TrainSpec.load("hyperprior-hybrid")
    changes: dict[str, object] = {"kind": hybrid.kind, "widths": {}, "lambdas": list(hybrid.lambdas)}
    name = configuration(cache, "more", schedule=SCHEDULES["cycle"], start="hyperprior", **changes)
    train(name, epochs=1)
    with safe_open(shipped_network("hyperprior"), "np") as file:
        assert trained_steps(name)[0] == int(file.metadata()["steps"]) + 3


def test_every_configuration_can_be_read() -> None:
    names = configurations()
    assert {"hyperprior-hybrid", "elic-hybrid", "paper-hyperprior"} <= set(names)
    assert all(TrainSpec.load(name).lambdas for name in names)


def test_training_without_features_says_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DTUFC_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"dtufc_research\.training\.features"):
        train("hyperprior-hybrid")
