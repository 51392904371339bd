"""The dry run at full size, at the smallest one."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import Dinov2Config, LlamaConfig

from dtufc_research.evaluation.dry import configurations, main, run, write

SMALL = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}
LLAMA = LlamaConfig(
    **SMALL,
    architectures=["LlamaForCausalLM"],
    vocab_size=97,
    intermediate_size=64,
    num_key_value_heads=2,
    max_position_embeddings=64,
    tie_word_embeddings=False,
    dtype="bfloat16",
)
DINOV2 = Dinov2Config(**SMALL, architectures=["Dinov2Model"], use_swiglu_ffn=True, image_size=56, dtype="bfloat16")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DTUFC_CACHE", str(tmp_path / "cache"))


def test_each_side_runs_its_half_in_its_own_process_and_every_stage_is_in_the_table(tmp_path: Path) -> None:
    section = run("llama", LLAMA, tmp_path / "home", 16, proof_limit=0)
    stages = re.findall(r"^\| (\w+): .* \| \d+\.\d\d \|", section, re.MULTILINE)
    assert stages == ["start"] * 2 + ["edge"] * 7 + ["cloud"] * 4
    for text in ("nothing is proven at the start", "Frame: 16 x 32 values", "the next token is"):
        assert text in section


def test_a_model_for_images_runs_too_and_one_that_is_small_enough_is_proven(tmp_path: Path) -> None:
    section = run("dinov2", DINOV2, tmp_path / "home", 16, call=lambda function, *given: function(*given))
    for text in ("bit for bit", "| start: proof", "Frame: 17 x 32 values", "labels of 56 x 56 pixels"):
        assert text in section


def test_a_disk_that_is_too_full_is_named_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1_000_000_000))
    assert main(["llama-3-8b", "--folder", str(tmp_path / "small"), "--output", str(tmp_path / "page.md")]) == 1
    assert "has 1000 MB free, and about 16329 MB are needed" in capsys.readouterr().err
    assert not list(tmp_path.glob("small/*"))
    assert not (tmp_path / "page.md").exists()


def test_a_models_section_is_kept_when_the_other_is_run(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    for name, text in (("b", "first\n\n| b |"), ("a", "second"), ("b", "third")):
        write(page, name, text)
    assert page.read_text(encoding="utf-8").endswith("## a\n\nsecond\n\n## b\n\nthird\n")


def test_the_shapes_are_those_of_the_models() -> None:
    assert {name: config.num_hidden_layers for name, config in configurations().items()} == {
        "llama-3-8b": 32,
        "dinov2-giant": 40,
    }
