"""`dtufc` as a shell has it: every command, its JSON, and errors of one line."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dtufc.coding.codecs.learned import VARIANTS
from dtufc.models.fitting import load
from dtufc.models.profile import load_profile
from tests.e2e.services import SAMPLES, Service, environment, free_port

OF_FILES = ["models", "fetch", "prove", "init", "fit", "evaluate", "encode", "decode", "inspect"]
OF_SERVICES = ["answer", "complete", "chat", "segment", "classify", "generate-image", "health"]
COMMANDS = [*OF_FILES, *OF_SERVICES]
DTUFC = Path(sys.executable).with_name("dtufc")


def dtufc(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    env = {**environment(), "COLUMNS": "120", "NO_COLOR": "1", "TERM": "dumb"}
    return subprocess.run(
        [DTUFC, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=120, env=env
    )


def parsed(*arguments: str | Path) -> Any:
    """What the command prints with --json; it must be one JSON text and nothing else."""
    done = dtufc(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def error_of(*arguments: str | Path) -> str:
    """The one line on stderr of a command that must fail with status 1."""
    done = dtufc(*arguments)
    assert "Traceback" not in done.stderr
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ten feature files and the profile that `dtufc fit` made of them."""
    folder = tmp_path_factory.mktemp("fitted")
    rng = np.random.default_rng(1)
    mixing = rng.normal(size=(32, 32))
    for i in range(10):
        np.save(folder / f"{i}.npy", (rng.normal(size=(40, 32)) @ mixing).astype(np.float32))
    facts = parsed("fit", folder / "profile", *sorted(folder.glob("*.npy")))
    assert facts["codecs"] == ["raw", "levels", "klt", *VARIANTS]
    assert facts["digest"] == load_profile(folder / "profile").digest.hex()
    return folder


def test_help_of_the_program_names_every_command() -> None:
    done = dtufc("--help")
    assert done.returncode == 0
    assert all(command in done.stdout for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_says_what_it_does(command: str) -> None:
    done = dtufc(command, "--help")
    assert done.returncode == 0
    assert f"dtufc {command}" in done.stdout
    assert "--json" in done.stdout


def test_models_lists_the_shipped_profiles() -> None:
    rows = {row["profile"]: row for row in parsed("models")}
    assert set(rows) == {"dinov2-small", "efficientnet-lite0", "qwen2.5-coder-1.5b", "sd3-emoji", "smollm2-135m"}
    llama = rows["smollm2-135m"]
    assert (llama["family"], llama["split"], llama["fitted_splits"]) == ("decoder", 16, [16, 30])
    assert llama["fetched"] is True
    assert llama["digest"] == load_profile("smollm2-135m").digest.hex()


def test_models_without_json_is_a_table_that_names_them() -> None:
    done = dtufc("models")
    assert done.returncode == 0
    assert "smollm2-135m" in done.stdout
    assert "dinov2-small" in done.stdout


def test_fit_takes_gradients_from_the_profiles_own_head_and_says_what_they_save(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for index in range(3):
        np.save(tmp_path / f"{index}.npy", rng.standard_normal((24, 576)).astype(np.float32))
    files = sorted(tmp_path.glob("*.npy"))
    facts = parsed("fit", "smollm2-135m", *files, "-o", tmp_path / "p", "--split", "30")
    assert (facts["rows"], facts["channels"]) == (72, 576)
    assert facts["saved_by_gradients"] > 0
    plain = parsed("fit", "smollm2-135m", *files, "-o", tmp_path / "q", "--split", "30", "--no-gradients")
    assert plain["saved_by_gradients"] is None


@pytest.mark.parametrize("codec", ["raw", "levels", "klt"])
def test_what_encode_writes_decode_reads_back(fitted: Path, tmp_path: Path, codec: str) -> None:
    frame, output = tmp_path / "f.dtufc", tmp_path / "f.npy"
    facts = parsed("encode", fitted / "0.npy", "-o", frame, "--profile", fitted / "profile", "--codec", codec)
    assert facts["codec"] == codec
    assert facts["wire_bytes"] == frame.stat().st_size
    assert facts["bpfp_wire"] == pytest.approx(8 * frame.stat().st_size / (40 * 32))
    told = parsed("decode", frame, "-o", output, "--profile", fitted / "profile")
    assert (told["shape"], told["dtype"]) == ("40 x 32", "float32")
    original, decoded = np.load(fitted / "0.npy"), np.load(output)
    np.testing.assert_array_equal(decoded, load(fitted / "profile").decode(frame.read_bytes()))
    error = np.sqrt(np.mean((decoded - original) ** 2)) / original.std()
    assert error == 0 if codec == "raw" else error < 0.5


def test_encode_keeps_a_limit_of_bytes(fitted: Path, tmp_path: Path) -> None:
    frame = tmp_path / "f.dtufc"
    facts = parsed("encode", fitted / "0.npy", "-o", frame, "--profile", fitted / "profile", "--target-bpfp", "3")
    assert 2.5 < facts["bpfp_wire"] <= 3


def test_inspect_says_what_a_frame_is_without_its_profile(fitted: Path, tmp_path: Path) -> None:
    frame = tmp_path / "f.dtufc"
    parsed("encode", fitted / "0.npy", "-o", frame, "--profile", fitted / "profile")
    facts = parsed("inspect", frame)
    assert (facts["codec"], facts["dtype"], facts["shape"], facts["values"]) == ("klt", "float32", "40 x 32", 1280)
    assert facts["wire_bytes"] == frame.stat().st_size
    assert facts["profile_digest"] == load_profile(fitted / "profile").short_digest.hex()
    assert facts["profile"] == "not a shipped one"


def test_inspect_names_a_shipped_profile_and_its_split(tmp_path: Path) -> None:
    frame = tmp_path / "f.dtufc"
    features = np.zeros((2, 576), np.float16)
    frame.write_bytes(load("smollm2-135m", split=30).encode(features, codec="raw"))
    facts = parsed("inspect", frame)
    assert facts["profile"] == "smollm2-135m@30"
    assert (facts["dtype"], facts["raw_bytes"]) == ("float16", 2 * 2 * 576)


def test_decode_tells_the_file_that_it_wrote(fitted: Path, tmp_path: Path) -> None:
    frame = tmp_path / "f.dtufc"
    parsed("encode", fitted / "0.npy", "-o", frame, "--profile", fitted / "profile")
    told = parsed("decode", frame, "-o", tmp_path / "no-suffix", "--profile", fitted / "profile")
    assert Path(told["output"]).is_file()


def test_answer_prints_letter_probabilities_and_cost(edge: Service) -> None:
    facts = parsed("answer", "Is it?", "yes", "no", "--edge", edge.address, "--codec", "klt", "--quality", "0.9")
    assert facts["letter"] in "AB"
    assert facts["choice"] in ("yes", "no")
    assert sum(facts["probabilities"]) == pytest.approx(1)
    assert facts["choice"] == ["yes", "no"][facts["probabilities"].index(max(facts["probabilities"]))]
    assert facts["cost"]["codec"] == "klt"
    assert facts["cost"]["wire_bytes"] > facts["cost"]["payload_bytes"] > 0
    assert facts["cost"]["cloud.head_ms"] > 0


def test_complete_prints_text_reason_and_cost(edge: Service) -> None:
    arguments = ["complete", "The capital of France is", "--plain", "--max-tokens", "3", "--edge", edge.address]
    facts = parsed(*arguments)
    assert facts["finish_reason"] == "length"
    assert facts["cost"]["frames"] == 3
    done = dtufc(*arguments)
    assert done.returncode == 0
    assert done.stdout.startswith(facts["text"])


def test_segment_writes_a_label_map_of_the_images_size(edge: Service, tmp_path: Path) -> None:
    output = tmp_path / "map.png"
    facts = parsed("segment", SAMPLES / "chelsea.jpg", "-o", output, "--edge", edge.address)
    with Image.open(output) as labels, Image.open(SAMPLES / "chelsea.jpg") as image:
        assert labels.size == image.size == (facts["width"], facts["height"])
    assert facts["cost"]["profile"] == "dinov2-small"


def test_classify_prints_labels_best_first_and_cost(edge: Service) -> None:
    arguments = ["classify", str(SAMPLES / "chelsea.jpg"), "--top-k", "3", "--edge", edge.address]
    facts = parsed(*arguments)
    names = [label["name"] for label in facts["labels"]]
    assert set(names) == {"tiger cat", "Egyptian cat", "tabby"}
    probabilities = [label["probability"] for label in facts["labels"]]
    assert probabilities == sorted(probabilities, reverse=True)
    assert (facts["cost"]["profile"], facts["cost"]["codec"]) == ("efficientnet-lite0", "klt")
    done = dtufc(*arguments)
    assert done.returncode == 0
    assert all(name in done.stdout for name in names)
    assert "top_k" in error_of(*arguments[:2], "--top-k", "0", "--edge", edge.address)


def test_segment_by_a_learned_codec_says_so(edge: Service, tmp_path: Path) -> None:
    paths = ("segment", SAMPLES / "chelsea.jpg", "-o", tmp_path / "map.png")
    facts = parsed(*paths, "--edge", edge.address, "--codec", "hyperprior", "--target-bpfp", "1.0")
    assert facts["cost"]["codec"] == "hyperprior"
    assert 0.8 < facts["cost"]["bpfp_wire"] <= 1.0


def test_errors_of_the_edge_are_one_line(edge: Service, tmp_path: Path) -> None:
    assert "question" in error_of("answer", "", "yes", "no", "--edge", edge.address)
    assert "gpt-9" in error_of("complete", "Hi", "--profile", "gpt-9", "--edge", edge.address)
    (tmp_path / "text.jpg").write_text("no image", encoding="utf-8")
    assert "image" in error_of("segment", tmp_path / "text.jpg", "-o", tmp_path / "o.png", "--edge", edge.address)
    assert "nothing.jpg" in error_of("segment", tmp_path / "nothing.jpg", "-o", tmp_path / "o.png")
    assert "image" in error_of("classify", tmp_path / "text.jpg", "--edge", edge.address)


def test_an_edge_that_is_not_there_is_one_line_with_its_address() -> None:
    address = f"127.0.0.1:{free_port()}"
    assert address in error_of("answer", "Is it?", "yes", "no", "--edge", address, "--timeout", "5")


def test_health_asks_either_side_and_is_one_line_where_nobody_serves(edge: Service, cloud: Service) -> None:
    for service in (edge, cloud):
        assert parsed("health", service.address) == {"status": "SERVING"}
    address = f"127.0.0.1:{free_port()}"
    assert address in error_of("health", address)


def test_bad_files_are_one_line(fitted: Path, tmp_path: Path) -> None:
    good, profile = fitted / "0.npy", fitted / "profile"
    (tmp_path / "text.npy").write_text("no array", encoding="utf-8")
    np.save(tmp_path / "wide.npy", np.zeros((3, 33), np.float32))
    np.save(tmp_path / "nan.npy", np.full((3, 32), np.nan, np.float32))
    np.save(tmp_path / "double.npy", np.zeros((3, 32)))
    out = tmp_path / "o.dtufc"
    assert "text.npy" in error_of("encode", tmp_path / "text.npy", "-o", out, "--profile", profile)
    assert "none.npy" in error_of("encode", tmp_path / "none.npy", "-o", out, "--profile", profile)
    assert "33 channels" in error_of("encode", tmp_path / "wide.npy", "-o", out, "--profile", profile)
    assert "NaN" in error_of("encode", tmp_path / "nan.npy", "-o", out, "--profile", profile)
    assert "float64" in error_of("encode", tmp_path / "double.npy", "-o", out, "--profile", profile)
    assert "quality" in error_of("encode", good, "-o", out, "--profile", profile, "--quality", "1.5")
    assert "together" in error_of("encode", good, "-o", out, "--profile", profile, "--quality", "1", "--max-bytes", "9")
    assert "smollm2-135m" in error_of("encode", good, "-o", out, "--profile", "nope")
    assert not out.exists()
    assert "no DT-UFC frame" in error_of("inspect", good)
    assert "no DT-UFC frame" in error_of("decode", good, "-o", tmp_path / "o.npy", "--profile", profile)


def test_a_frame_of_another_profile_is_one_line(fitted: Path, tmp_path: Path) -> None:
    frame = tmp_path / "f.dtufc"
    frame.write_bytes(load("smollm2-135m").encode(np.zeros((2, 576), np.float32), codec="raw"))
    assert "profile profile is" in error_of("decode", frame, "-o", tmp_path / "o.npy", "--profile", fitted / "profile")


def test_samples_that_do_not_fit_each_other_are_one_line(fitted: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "wide.npy", np.zeros((3, 33), np.float32))
    assert "33 channels" in error_of("fit", tmp_path / "p", fitted / "0.npy", tmp_path / "wide.npy")


def test_a_name_that_no_profile_may_have_is_one_line(fitted: Path, tmp_path: Path) -> None:
    assert "name" in error_of("fit", tmp_path / "My Profile!", fitted / "0.npy", fitted / "1.npy")


def test_a_profile_that_is_not_valid_is_one_line(fitted: Path, tmp_path: Path) -> None:
    (tmp_path / "profile.yaml").write_text("name: mine\nmodel: llama\nlayout: {family: moon}\n", encoding="utf-8")
    assert "profile.yaml" in error_of("encode", fitted / "0.npy", "-o", tmp_path / "o", "--profile", tmp_path)
    (tmp_path / "profile.yaml").write_text("name: [mine\n", encoding="utf-8")
    assert "profile.yaml" in error_of("encode", fitted / "0.npy", "-o", tmp_path / "o", "--profile", tmp_path)


def test_an_output_that_cannot_be_written_is_one_line(fitted: Path, edge: Service, tmp_path: Path) -> None:
    nowhere = tmp_path / "no" / "folder"
    frame = tmp_path / "f.dtufc"
    parsed("encode", fitted / "0.npy", "-o", frame, "--profile", fitted / "profile")
    failed = []
    for arguments in (
        ("encode", fitted / "0.npy", "-o", nowhere / "o.dtufc", "--profile", fitted / "profile"),
        ("decode", frame, "-o", nowhere / "o.npy", "--profile", fitted / "profile"),
        ("segment", SAMPLES / "chelsea.jpg", "-o", nowhere / "o.png", "--edge", edge.address),
        ("fit", frame / "below-a-file", fitted / "0.npy", fitted / "1.npy"),
    ):
        done = dtufc(*arguments)
        if done.returncode != 1 or len(done.stderr.splitlines()) != 1:
            failed.append(f"{arguments[0]}: {done.returncode}, {done.stderr[-200:]}")
    assert not failed
