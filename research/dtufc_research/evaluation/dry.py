"""`python -m dtufc_research.evaluation.dry MODEL`: a model of full size, cut in the middle, with random weights.

Shapes, type and files are those of the named model, and the numbers in them are noise. So it shows what a model of
this size takes: seconds, bytes read, memory. Of rates and accuracy it says nothing. Each side runs in a process of its
own, one after the other. Written to docs/results/full-size.md, a section for each model.
"""

import argparse
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final, TypeVar
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from rich.progress import track
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import Dinov2Config, LlamaConfig, PreTrainedConfig, PreTrainedTokenizerFast

import dtufc
from dtufc.coding import bitstream
from dtufc.coding.arrays import Array
from dtufc.coding.features import as_array
from dtufc.coding.layout import Family
from dtufc.errors import DtufcError
from dtufc.models import decoder, plugins
from dtufc.models.cache import build, cache_folder
from dtufc.models.profile import FolderSource, LayoutSpec, Profile, ProfileSpec, load_profile
from dtufc.models.proof import MAX_BYTES_AT_START
from dtufc.models.split import model_class, read_config
from dtufc.serving.telemetry import Record
from dtufc_cloud.pipeline import CloudPipeline
from dtufc_edge.pipeline import EdgePipeline
from dtufc_research.evaluation.machine import machine

RESULTS: Final = Path(__file__).parents[3] / "docs" / "results" / "full-size.md"
NUM_FIT, FIT_TOKENS = 10, 256
_SHARD_BYTES: Final = 1 << 29
_LABELS: Final = 150  # of the dense head of a model for images
_CPU, _DTYPE = torch.device("cpu"), torch.bfloat16
_TITLE: Final = """\
# Models of full size

Random weights of a model's exact shapes, cut in the middle. Each side runs in a process of its own, one after the
other, and none of the weights is in the page cache when it begins. Weights are mapped from their files and read where
they are first used: in the first features, and in the answer. Memory is the process's resident memory: its peak within
the stage, and at the stage's end its anonymous part and the part that is mapped from files, which the kernel can take
back. Rates are those of random weights, and say nothing of the model's own.
"""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Stage:
    """What one step took: seconds, and bytes."""

    name: str
    seconds: float
    read: int
    peak: int
    anonymous: int
    mapped: int

    def row(self) -> str:
        sizes = " | ".join(f"{size / 1e9:.2f}" for size in (self.read, self.peak, self.anonymous, self.mapped))
        return f"| {self.name} | {self.seconds:.2f} | {sizes} |"


class Stages(list[Stage]):
    """The steps of one process."""

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Adds what happens inside as a stage."""
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
        read, start = _own("io")["read_bytes"], time.perf_counter()
        yield
        seconds, memory = time.perf_counter() - start, _own("status")
        sizes = (memory[key] for key in ("VmHWM", "RssAnon", "RssFile"))
        self.append(Stage(name, seconds, _own("io")["read_bytes"] - read, *sizes))


def _own(file: str) -> dict[str, int]:
    """The numbers in a file of /proc about this process; sizes in bytes."""
    lines = (line.partition(":") for line in Path("/proc/self", file).read_text(encoding="ascii").splitlines())
    fields = {name: value.split() for name, _, value in lines}
    return {
        name: int(value[0]) * (1024 if value[1:] == ["kB"] else 1)
        for name, value in fields.items()
        if value and value[0].isdecimal()
    }


def configurations() -> dict[str, PreTrainedConfig]:
    """The models, by name."""
    llama = LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=8192,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
        tie_word_embeddings=False,
        bos_token_id=128000,
        eos_token_id=128001,
        dtype="bfloat16",
    )
    dinov2 = Dinov2Config(
        architectures=["Dinov2Model"],
        hidden_size=1536,
        num_hidden_layers=40,
        num_attention_heads=24,
        use_swiglu_ffn=True,
        image_size=518,
        patch_size=14,
        dtype="bfloat16",
    )
    return {"llama-3-8b": llama, "dinov2-giant": dinov2}


def in_own_process(function: Callable[..., T], *arguments: Any) -> T:
    """Calls a function in a new process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def run(
    name: str,
    config: PreTrainedConfig,
    home: Path,
    num_tokens: int,
    *,
    proof_limit: int = MAX_BYTES_AT_START,
    call: Callable[..., "Stages"] = in_own_process,
) -> str:
    """Makes the weights and runs both sides; returns the section of the page.

    Args:
        name: of the model, and of its profile.
        config: of the model.
        home: folder for weights and profile; weights that are there are taken.
        num_tokens: of the features that the language model makes; of an image there are as many as there are.
        proof_limit: bytes of weights up to which a service proves the cut when it starts.
        call: calls the function of a side.
    """
    with torch.device("meta"):
        shapes = {key: tensor.shape for key, tensor in model_class(config)(config).state_dict().items()}
    num_bytes = sum(map(math.prod, shapes.values())) * _DTYPE.itemsize
    build(home / "weights", lambda folder: make_weights(config, shapes, folder), needed_bytes=num_bytes + (1 << 28))
    spec = ProfileSpec(
        name=name,
        family="vit" if _is_vision(config) else "decoder",
        layout=LayoutSpec(family=Family.vit if _is_vision(config) else Family.llm),
        split=int(config.num_hidden_layers) // 2,
        source=FolderSource(folder=(home / "weights").resolve()),
    )
    Profile(spec=spec, split=spec.split, calibration={}).save(home)
    shutil.rmtree(home / "cache", ignore_errors=True)
    is_proven = num_bytes <= proof_limit
    stages = [
        *call(start, home, is_proven),
        *call(edge, home, num_tokens, is_proven),
        *call(cloud, home, is_proven),
    ]
    return _section(config, num_bytes, home, stages, proof_limit)


def _section(config: PreTrainedConfig, num_bytes: int, home: Path, stages: Sequence[Stage], proof_limit: int) -> str:
    frame = bitstream.parse((home / "frame").read_bytes())
    (calibration,) = home.glob("split*.safetensors")
    proof = "The proof at the start compared the halves with the whole: equal, bit for bit."
    if num_bytes > proof_limit:
        proof = (
            f"Above {proof_limit >> 30} GiB of weights nothing is proven at the start, because the proof holds the "
            "whole model: here it is left out, and a service would ask for `dtufc prove` on a larger machine."
        )
    return f"""\
{model_class(config).__name__} with {num_bytes / _DTYPE.itemsize / 1e9:.2f} billion weights in bfloat16, \
{num_bytes / 1e9:.2f} GB, cut after layer {config.num_hidden_layers // 2} of {config.num_hidden_layers}. {proof}

Measured on {machine()}, {torch.get_num_threads()} thread(s).

| stage | seconds | read from disk, GB | peak memory, GB | anonymous, GB | mapped, GB |
|---|---:|---:|---:|---:|---:|
{chr(10).join(stage.row() for stage in stages)}

- Read from disk: {_read(stages, "edge")} GB by the edge, {_read(stages, "cloud")} GB by the cloud. Before that, at \
its first start, each side reads all files once, for the digest of the profile.
- Profile: {calibration.stat().st_size:,} bytes of calibration, for any number of tokens.
- Frame: {" x ".join(map(str, frame.shape))} values, {len(frame.payload):,} bytes of payload, \
{8 * len(frame.payload) / frame.num_values:.2f} bits a value.
- Answer: {(home / "answer").read_text(encoding="utf-8")}.
- The synthetic features are fitted for the time alone, because a large language model takes long for so many tokens \
on a small machine: they are normal, with the mean and the spread that each channel has in the model's own.
"""


def _read(stages: Sequence[Stage], side: str) -> str:
    return f"{sum(stage.read for stage in stages if stage.name.startswith(side)) / 1e9:.2f}"


def make_weights(config: PreTrainedConfig, shapes: Mapping[str, torch.Size], folder: Path) -> None:
    """Random weights as `save_pretrained` writes them, shard by shard, and what else the model's folder needs.

    Args:
        config: of the model.
        shapes: of its tensors, by name.
        folder: empty.
    """
    torch.manual_seed(0)
    files: dict[str, str] = {}
    for number, names in track(list(enumerate(_shards(shapes), start=1)), description="random weights"):
        file = f"model-{number:05}.safetensors"
        save_file({name: _noise(name, shapes[name]) for name in names}, folder / file, {"format": "pt"})
        files |= dict.fromkeys(names, file)
    index = {"metadata": {}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    config.save_pretrained(folder)
    if _is_vision(config):
        _save_head(int(config.hidden_size), folder / "head")
    else:
        words = Tokenizer(models.WordLevel({f"w{index}": index for index in range(config.vocab_size)}))
        words.pre_tokenizer = pre_tokenizers.Whitespace()
        PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(folder)


def _is_vision(config: PreTrainedConfig) -> bool:
    return hasattr(config, "image_size")


def _shards(shapes: Mapping[str, torch.Size]) -> Iterator[list[str]]:
    names: list[str] = []
    num_bytes = 0
    for name, shape in shapes.items():
        names.append(name)
        num_bytes += math.prod(shape) * _DTYPE.itemsize
        if num_bytes >= _SHARD_BYTES:
            yield names
            names, num_bytes = [], 0
    if names:
        yield names


def _noise(name: str, shape: torch.Size) -> Tensor:
    """Matrices that keep the size of what they multiply; scales of one, no offsets."""
    if len(shape) == 1:
        return torch.full(shape, 0.0 if name.endswith("bias") else 1.0, dtype=_DTYPE)
    return torch.empty(shape, dtype=_DTYPE).normal_(std=math.prod(shape[1:]) ** -0.5)


def _save_head(channels: int, folder: Path) -> None:
    """A linear head, as DINOv2's authors publish for semantic segmentation."""
    folder.mkdir()
    ones, zeros = torch.ones(channels), torch.zeros(channels)
    norm = {"weight": ones, "bias": zeros, "running_mean": zeros.clone(), "running_var": ones.clone()}
    classifier = {"weight": torch.randn(_LABELS, channels, 1, 1), "bias": torch.zeros(_LABELS)}
    tensors = {f"{part}.{key}": x for part, xs in (("bn", norm), ("conv_seg", classifier)) for key, x in xs.items()}
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"kind": "linear", "labels": _LABELS}), encoding="utf-8")


def start(home: Path, is_proven: bool) -> Stages:
    """What a side does at its first start, and keeps in the cache."""
    stages = _begin("start", home)
    with stages.measure("start: SHA-256 of all weights"):
        profile = load_profile(home)
    if is_proven:
        with stages.measure("start: proof, the whole and then either half"):
            plugins.prove_cut(profile)
    return stages


def edge(home: Path, num_tokens: int, is_proven: bool) -> Stages:
    """The first half: inputs -> features, and a codec that is fitted to ten of them; one more, encoded."""
    stages, rng = _begin("edge", home), np.random.default_rng(0)
    with stages.measure("edge: load the first half"), _start_proof(is_proven):
        pipeline = EdgePipeline(load_profile(home), _CPU, _DTYPE)
    with stages.measure("edge: features of one input"):
        features = _features(pipeline.backbone, num_tokens, rng)
    with stages.measure(f"edge: features of {NUM_FIT} inputs"):
        samples = [_features(pipeline.backbone, num_tokens, rng) for _ in range(NUM_FIT)]
    shape = " x ".join(map(str, features.shape))
    with stages.measure(f"edge: fit to the {NUM_FIT}, {shape}"):
        codec = dtufc.fit(samples, profile=pipeline.profile)
    synthetic = _synthetic(samples, FIT_TOKENS + pipeline.profile.layout.prefix, rng)
    with stages.measure(f"edge: fit to {NUM_FIT} synthetic ones, {' x '.join(map(str, synthetic[0].shape))}"):
        dtufc.fit(synthetic, profile=pipeline.profile)
    with stages.measure("edge: encode the one"):
        frame = codec.encode(features)
    codec.save(home)
    (home / "frame").write_bytes(frame)
    return stages


def cloud(home: Path, is_proven: bool) -> Stages:
    """A frame -> features, and the second half."""
    stages, data, record = _begin("cloud", home), (home / "frame").read_bytes(), Record("dry")
    with stages.measure("cloud: load the second half"), _start_proof(is_proven):
        pipeline = CloudPipeline(load_profile(home), _CPU, _DTYPE)
    with stages.measure("cloud: decode"):
        features = pipeline.decode(pipeline.parse(data, record), len(data), record)
    with stages.measure("cloud: answer"):
        answer = _answer(pipeline, features, read_config(home / "weights"))
    (home / "answer").write_text(answer, encoding="utf-8")
    return stages


def _begin(side: str, home: Path) -> Stages:
    """The stages of a process, with the first: none of the model is in memory, nor in the kernel's page cache."""
    os.environ["DTUFC_CACHE"] = str(home / "cache")  # nothing is proven there yet
    for path in (home / "weights").glob("*.safetensors"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    stages = Stages()
    with stages.measure(f"{side}: Python and its libraries"):
        pass
    return stages


def _start_proof(is_proven: bool) -> Any:
    """Leaves the start proof out of a model that is too large for it; there a service would not start."""
    return nullcontext() if is_proven else patch.object(decoder, "require")


def _features(backbone: Any, num_tokens: int, rng: np.random.Generator) -> Tensor:
    """Of random words, or of an image of noise."""
    if hasattr(backbone, "fit"):
        image = Image.fromarray(rng.integers(256, size=(64, 64, 3), dtype=np.uint8))
        return backbone.features(backbone.fit(image)[0])
    text = " ".join(f"w{index}" for index in rng.integers(len(backbone.tokenizer), size=num_tokens))
    return backbone.features(backbone.start(), backbone.plain_ids(text))


def _synthetic(samples: Sequence[Tensor], num_tokens: int, rng: np.random.Generator) -> list[Array]:
    """Ten features of so many tokens, normal, with the mean and spread of each channel."""
    rows = np.concatenate([as_array(sample).astype(np.float32) for sample in samples])
    size = (NUM_FIT, num_tokens, rows.shape[1])
    return list(rng.normal(rows.mean(axis=0), rows.std(axis=0), size).astype(np.float32))


def _answer(pipeline: CloudPipeline, features: Tensor, config: Any) -> str:
    if not _is_vision(config):
        return f"the next token is {int(pipeline.head.logits(features, last=1).argmax())} of {config.vocab_size}"
    side = int(config.image_size)
    labels = pipeline.head.label_map(features, (0, 0, side, side), (side, side))
    return f"labels of {side} x {side} pixels, {len(np.unique(labels))} of {_LABELS} different ones"


def write(path: Path, name: str, section: str) -> None:
    """Puts a model's section in its place on the page, and leaves the others."""
    page = path.read_text(encoding="utf-8") if path.is_file() else ""
    titles = (part.partition("\n\n") for part in page.split("\n## ")[1:])
    sections = {title: text.strip() for title, _, text in titles} | {name: section.strip()}
    parts = [_TITLE, *(f"## {title}\n\n{text}\n" for title, text in sorted(sections.items()))]
    path.write_text("\n".join(parts), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=configurations())
    parser.add_argument("--folder", type=Path, default=cache_folder(), help="for the weights, up to 16 GB")
    parser.add_argument("--tokens", type=int, default=64, help="of the features that a language model makes")
    parser.add_argument("--keep", action="store_true", help="leave the weights there, for another run")
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    home = given.folder / f"dry-{given.model}"
    try:
        section = run(given.model, configurations()[given.model], home, given.tokens)
    except (DtufcError, BrokenProcessPool) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        if not given.keep:
            shutil.rmtree(home, ignore_errors=True)
    print(section)
    write(given.output, given.model, section)
    return 0


if __name__ == "__main__":
    sys.exit(main())
