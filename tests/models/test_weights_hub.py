"""A hub's repository and a user's folder: which files are taken, and that those are whole."""

import hashlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import torch
import yaml
from transformers import LlamaConfig, LlamaForCausalLM

from dtufc.errors import InputError
from dtufc.models.fingerprint import fingerprint
from dtufc.models.profile import FolderSource, ProfileSpec
from dtufc.models.split import load_whole, read_config
from dtufc.models.zoo import weights_folder
from dtufc.models.zoo.hub import wanted_files
from tests.models.test_weights_cache import small_disk

__all__ = ["small_disk"]  # pytest finds fixtures by their names here

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKENIZER = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.model"]
SHARDS = [f"model-0000{i}-of-00004.safetensors" for i in range(1, 5)]
PICKLED_SHARDS = [f"pytorch_model-0000{i}-of-00002.bin" for i in range(1, 3)]

SINGLE = (
    ["config.json", "generation_config.json", "model.safetensors", *TOKENIZER, "chat_template.jinja"],
    [
        *(".gitattributes", "README.md", "LICENSE", "pytorch_model.bin", "model.fp16.safetensors", "tf_model.h5"),
        *("flax_model.msgpack", "rust_model.ot", "original/consolidated.00.pth", "original/params.json"),
        *("onnx/model.onnx", "onnx/model_fp16.onnx", "onnx/config.json", "openvino/openvino_model.bin"),
        *("openvino/openvino_model.xml", "gguf/model-q4_k_m.gguf", "modeling_custom.py", "training_args.bin"),
        *("pytorch_model.bin.index.json", *PICKLED_SHARDS),
    ],
)
SHARDED = (
    ["config.json", "generation_config.json", "model.safetensors.index.json", *SHARDS, *TOKENIZER],
    [
        *("consolidated.safetensors", "pytorch_model.bin.index.json", *PICKLED_SHARDS),
        *("model.safetensors.index.fp16.json", "model-00001-of-00002.fp16.safetensors", "README.md"),
        *("original/consolidated.00.pth", "original/tokenizer.model"),
    ],
)
PICKLED = (
    ["config.json", "pytorch_model.bin", "vocab.json", "merges.txt"],
    ["tf_model.h5", "flax_model.msgpack", "README.md", "optimizer.bin"],
)
PICKLED_IN_SHARDS = (
    ["config.json", "pytorch_model.bin.index.json", *PICKLED_SHARDS, "vocab.txt"],
    ["pytorch_model.fp16.bin"],
)
PIPELINE = (
    [
        *("model_index.json", "scheduler/scheduler_config.json"),
        *("text_encoder/config.json", "text_encoder/model.safetensors"),
        *("text_encoder_3/config.json", "text_encoder_3/model.safetensors.index.json"),
        *("text_encoder_3/model-00001-of-00002.safetensors", "text_encoder_3/model-00002-of-00002.safetensors"),
        *("tokenizer/merges.txt", "tokenizer/tokenizer_config.json", "tokenizer/vocab.json"),
        *("tokenizer_3/spiece.model", "tokenizer_3/tokenizer.json", "tokenizer_3/tokenizer_config.json"),
        *("transformer/config.json", "transformer/diffusion_pytorch_model.safetensors"),
        *("vae/config.json", "vae/diffusion_pytorch_model.safetensors"),
    ],
    [
        *("README.md", "sd3_medium.safetensors", "sd3_medium_incl_clips_t5xxlfp16.safetensors", "mmdit.png"),
        *(
            "text_encoder/model.fp16.safetensors",
            "text_encoders/clip_g.safetensors",
            "text_encoders/t5xxl_fp16.safetensors",
        ),
        *("text_encoder_3/model.safetensors.index.fp16.json", "text_encoder_3/model.fp16-00001-of-00002.safetensors"),
        *(
            "text_encoder_3/model.fp16-00002-of-00002.safetensors",
            "transformer/diffusion_pytorch_model.fp16.safetensors",
        ),
        *("vae/diffusion_pytorch_model.fp16.safetensors", "vae/diffusion_pytorch_model.bin", "vae_decoder/model.onnx"),
        *("comfy_example_workflows/basic.json", "text_encoder/onnx/config.json", "text_encoder/onnx/model.onnx"),
    ],
)
WITH_HEAD = (["config.json", "model.safetensors", "head/config.json", "head/model.safetensors"], ["head/README.md"])


@pytest.mark.parametrize(
    "listing",
    [SINGLE, SHARDED, PICKLED, PICKLED_IN_SHARDS, PIPELINE, WITH_HEAD],
    ids=["single", "sharded", "pickled", "pickled-in-shards", "pipeline", "with-head"],
)
def test_one_variant_of_the_weights_is_wanted_and_the_texts(listing: tuple[list[str], list[str]]) -> None:
    wanted, others = listing
    assert wanted_files([*others, *wanted]) == sorted(wanted)


def test_nothing_is_wanted_of_an_empty_repository() -> None:
    assert wanted_files([]) == []
    assert wanted_files([".gitattributes", "model-q4.gguf"]) == []


def random_llama() -> Any:
    torch.manual_seed(1)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=40, num_key_value_heads=1, initializer_range=0.2, **sizes)).eval()


def save_pickled(model: Any, folder: Path) -> None:
    folder.mkdir()
    model.config.architectures = ["LlamaForCausalLM"]
    model.config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")


def spec_of(folder: Path, fingerprint_: str | None = None) -> ProfileSpec:
    return ProfileSpec.model_validate(
        {
            "name": "mine",
            "family": "decoder",
            "layout": {"family": "llm"},
            "split": 1,
            "source": FolderSource(folder=folder, fingerprint=fingerprint_),
        }
    )


LARGE = 10_000  # bytes: such files are in Git LFS, which names them by their SHA-256


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of a hub as `snapshot_download` asks for: one repository, someone/tiny."""

    files: dict[str, bytes]
    sent: list[str]
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        resolved = f"/someone/tiny/resolve/{COMMIT}/"
        if path == "/api/models/someone/tiny/revision/main":
            siblings = [{"rfilename": name, "size": len(data)} for name, data in self.files.items()]
            self._json({"id": "someone/tiny", "modelId": "someone/tiny", "sha": COMMIT, "siblings": siblings})
        elif path.startswith("/api/models/someone/tiny/tree/"):
            self._json(
                [
                    {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                    for name, data in self.files.items()
                ]
            )
        elif path.startswith(resolved) and path.removeprefix(resolved) in self.files:
            name = path.removeprefix(resolved)
            if body:
                self.sent.append(name)
            self._send(self.files[name], "application/octet-stream", body=body)
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def _json(self, value: object) -> None:
        self._send(json.dumps(value).encode(), "application/json", body=True)

    def _send(self, data: bytes, kind: str, *, body: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("X-Repo-Commit", COMMIT)
        algorithm = "sha256" if len(data) > LARGE else "sha1"
        self.send_header("ETag", f'"{hashlib.new(algorithm, data).hexdigest()}"')
        self.end_headers()
        if body:
            self.wfile.write(data)


@pytest.fixture
def hub() -> Iterator[tuple[str, type[Hub]]]:
    """The address of a hub that runs here, and its handler, which holds its files."""
    handler = type("TestHub", (Hub,), {"files": {}, "sent": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", handler
    server.shutdown()
    server.server_close()
    thread.join()


FETCH = """
import sys
from dtufc.errors import InputError
from dtufc.models.profile import load_profile
from dtufc.models.zoo import weights_folder
try:
    print(weights_folder(load_profile(sys.argv[1]).spec))
except InputError as error:
    sys.exit(f"error: {error}")
"""


def fetch(
    profile: Path, home: Path, endpoint: str, *, program: str = FETCH, **env: str
) -> "subprocess.CompletedProcess[str]":
    settings = {"HF_HOME": str(home), "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0", **env}
    command = [sys.executable, "-W", "ignore", "-c", program, str(profile)]
    return subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, check=False)


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    layout = {"family": "llm"}
    source = {"hub": "someone/tiny"}
    spec = {"name": "hub", "family": "decoder", "layout": layout, "split": 1, "source": source}
    (tmp_path / "profile").mkdir()
    (tmp_path / "profile" / "profile.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")
    return tmp_path / "profile"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_only_wanted_files_are_fetched_from_a_hub_and_then_serve_without_it(
    hub: tuple[str, type[Hub]], profile: Path, tmp_path: Path
) -> None:
    endpoint, handler = hub
    random_llama().save_pretrained(tmp_path / "model")
    whole = contents(tmp_path / "model")
    others = {"pytorch_model.bin": b"x", "original/consolidated.00.pth": b"x", "model.fp16.safetensors": b"x"}
    handler.files = whole | others
    done = fetch(profile, tmp_path / "home", endpoint)
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip())
    assert contents(folder) == whole
    assert sorted(handler.sent) == sorted(whole)
    handler.sent.clear()
    unreachable = "http://127.0.0.1:1"
    for again in (
        fetch(profile, tmp_path / "home", endpoint),
        fetch(profile, tmp_path / "home", endpoint, HF_HUB_OFFLINE="1"),
        fetch(profile, tmp_path / "home", unreachable),
    ):
        assert again.returncode == 0, again.stderr
        assert Path(again.stdout.strip()) == folder
    assert handler.sent == []


def test_a_snapshot_that_lacks_its_weights_is_rejected_without_a_hub(
    hub: tuple[str, type[Hub]], profile: Path, tmp_path: Path
) -> None:
    endpoint, handler = hub
    random_llama().save_pretrained(tmp_path / "model")
    handler.files = contents(tmp_path / "model")
    folder = Path(fetch(profile, tmp_path / "home", endpoint).stdout.strip())
    (folder / "model.safetensors").unlink()
    done = fetch(profile, tmp_path / "home", endpoint, HF_HUB_OFFLINE="1")
    assert done.returncode == 1
    assert "no weights" in done.stderr
    assert "Traceback" not in done.stderr
    assert fetch(profile, tmp_path / "home", endpoint).returncode == 0  # fetched again


def test_a_file_of_a_hub_that_is_damaged_is_fetched_anew_where_it_is_read(
    hub: tuple[str, type[Hub]], profile: Path, tmp_path: Path
) -> None:
    endpoint, handler = hub
    random_llama().save_pretrained(tmp_path / "model")
    handler.files = contents(tmp_path / "model")
    folder = Path(fetch(profile, tmp_path / "home", endpoint).stdout.strip())
    weights = (folder / "model.safetensors").read_bytes()
    assert len(weights) > LARGE
    (folder / "model.safetensors").resolve().write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    handler.sent.clear()
    assert fetch(profile, tmp_path / "home", endpoint).returncode == 0  # a start of a service reads nothing
    assert handler.sent == []
    done = fetch(profile, tmp_path / "home", endpoint, program=FETCH.replace(".spec)", ".spec, is_read=True)"))
    assert f"{folder / 'model.safetensors'} is damaged. It is fetched anew." in done.stderr
    assert (folder / "model.safetensors").read_bytes() == weights
    assert handler.sent == ["model.safetensors"]


def test_a_repository_without_weights_that_are_read_is_rejected(
    hub: tuple[str, type[Hub]], profile: Path, tmp_path: Path
) -> None:
    endpoint, handler = hub
    handler.files = {"config.json": b"{}", "model-q4.gguf": b"GGUF"}
    done = fetch(profile, tmp_path / "home", endpoint)
    assert done.returncode == 1
    assert "someone/tiny@main has no weights that transformers or diffusers reads" in done.stderr
    assert handler.sent == []


def test_a_repository_that_does_not_fit_is_one_line_with_its_size(
    hub: tuple[str, type[Hub]], profile: Path, small_disk: Path, tmp_path: Path
) -> None:
    endpoint, handler = hub
    handler.files = {"config.json": b"{}", "model.safetensors": bytes(3_000_000)}
    done = fetch(profile, small_disk, endpoint)
    assert done.returncode == 1
    assert f"error: cache: the disk of {small_disk}/hub has" in done.stderr
    assert "about 3 MB are needed. Free space there, or set HF_HOME" in done.stderr


def test_a_repository_that_is_not_there_is_one_line_with_what_to_do(
    hub: tuple[str, type[Hub]], profile: Path, tmp_path: Path
) -> None:
    text = (profile / "profile.yaml").read_text(encoding="utf-8").replace("someone/tiny", "someone/absent")
    (profile / "profile.yaml").write_text(text, encoding="utf-8")
    done = fetch(profile, tmp_path / "home", hub[0])
    assert done.returncode == 1
    assert "someone/absent@main is not available" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture(params=["single", "sharded"])
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    random_llama().save_pretrained(tmp_path / "model", max_shard_size="20KB" if request.param == "sharded" else "1GB")
    assert (len(list((tmp_path / "model").glob("*.safetensors"))) > 1) == (request.param == "sharded")
    return tmp_path / "model"


@pytest.mark.parametrize("size", [0, 4, 100, -1])
def test_a_file_that_was_cut_short_is_named(saved: Path, size: int) -> None:
    assert weights_folder(spec_of(saved)) == saved
    file = sorted(saved.glob("*.safetensors"))[-1]
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(InputError, match=rf"{file.name} has \d+ bytes"):
        weights_folder(spec_of(saved))


def test_a_file_that_is_too_long_is_named(saved: Path) -> None:
    file = sorted(saved.glob("*.safetensors"))[0]
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(InputError, match=rf"{file.name} has \d+ bytes, and its header says"):
        weights_folder(spec_of(saved))


@pytest.mark.parametrize(
    "content", [(10).to_bytes(8, "little") + b"no header at all", b"version https://git-lfs.github"]
)
def test_a_file_that_is_none_of_safetensors_is_named(saved: Path, content: bytes) -> None:
    file = sorted(saved.glob("*.safetensors"))[0]
    file.write_bytes(content)
    with pytest.raises(InputError, match=rf"{file.name} (has no header of safetensors|is a pointer of Git LFS)"):
        weights_folder(spec_of(saved))


def test_a_shard_that_is_missing_is_named(tmp_path: Path) -> None:
    random_llama().save_pretrained(tmp_path / "model", max_shard_size="20KB")
    file = sorted((tmp_path / "model").glob("*.safetensors"))[1]
    file.unlink()
    with pytest.raises(InputError, match=rf"{file.name} is missing; model\.safetensors\.index\.json names it"):
        weights_folder(spec_of(tmp_path / "model"))


def test_an_index_that_is_broken_is_named(tmp_path: Path) -> None:
    random_llama().save_pretrained(tmp_path / "model", max_shard_size="20KB")
    (tmp_path / "model" / "model.safetensors.index.json").write_text("[]", encoding="utf-8")
    with pytest.raises(InputError, match=r"model\.safetensors\.index\.json is no index"):
        weights_folder(spec_of(tmp_path / "model"))


def test_a_config_without_weights_is_rejected(saved: Path) -> None:
    for file in saved.glob("*.safetensors"):
        file.unlink()
    with pytest.raises(InputError, match="no weights"):
        weights_folder(spec_of(saved))


def test_a_pickled_checkpoint_is_read(tmp_path: Path) -> None:
    model = random_llama()
    save_pickled(model, tmp_path / "model")
    before = fingerprint(tmp_path / "model")
    folder = weights_folder(spec_of(tmp_path / "model", before))
    loaded = load_whole(folder, read_config(folder), torch.float32)
    token_ids = torch.tensor([[3, 1, 4, 1, 5]])
    with torch.inference_mode():
        assert torch.equal(loaded(token_ids).logits, model(token_ids).logits)
        model.lm_head.weight[0, 0] += 1
    shutil.rmtree(tmp_path / "model")
    save_pickled(model, tmp_path / "model")
    with pytest.raises(InputError, match="other weights"):
        weights_folder(spec_of(tmp_path / "model", before))


class _Code:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def test_the_code_in_a_pickled_checkpoint_is_never_run(tmp_path: Path) -> None:
    save_pickled(random_llama(), tmp_path / "model")
    torch.save({"lm_head.weight": _Code(tmp_path / "ran")}, tmp_path / "model" / "pytorch_model.bin")
    folder = weights_folder(spec_of(tmp_path / "model"))
    with pytest.raises(InputError, match="holds more than tensors"):
        load_whole(folder, read_config(folder), torch.float32)
    assert not (tmp_path / "ran").exists()
