"""`python -m dtufc_research.training.features`: writes the training features of the fitting sources to disk.

Each task and source has one safetensors file, [features, ...] float16, with its origin in the metadata. If the model
has changed, the file is written again. A source is for training or for validation, never both; test sources are not
read.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch
from rich.progress import track
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from dtufc.coding.arrays import Array
from dtufc.models.profile import Profile, load_profile
from dtufc.models.zoo import cache_folder
from dtufc_research.data.extract import ROW_TOKENS, Decoder, Sd3, Vit
from dtufc_research.data.sources import photos, prompts, texts, views

Part = Literal["train", "validate"]
Task = Literal["llm", "vit", "tti"]


@dataclass(frozen=True, slots=True)
class Origin:
    """The origin of a task's features: a profile and a split."""

    profile: str
    split: int


TASKS: Final[dict[Task, Origin]] = {
    "llm": Origin("smollm2-135m", 30),
    "vit": Origin("dinov2-small", 12),
    "tti": Origin("sd3-emoji", 1),
}
VALIDATION: Final = frozenset({"asyoulik", "travel-1", "7193656", "names-kept"})  # validation sources
_NAMES: Final = (400, 40)  # of generated latents for training and for validation
_ROWS: Final = 160  # excerpts of a text


def folder() -> Path:
    """Folder of the training features; `DTUFC_CACHE` sets the cache folder."""
    return cache_folder() / "features"


def stored(task: Task, part: Part) -> list[Array]:
    """All features of a task's training or validation files, float16.

    Raises FileNotFoundError if they were not extracted.
    """
    paths = sorted((folder() / task).glob("*.safetensors"))
    if not paths:
        raise FileNotFoundError(
            f"no features in {folder() / task}: run `python -m dtufc_research.training.features` first"
        )
    found: list[Array] = []
    for path in paths:
        if _metadata(path)["part"] == part:
            found += list(load_file(path)["features"])
    return found


def extract(task: Task) -> None:
    """Writes the features of one task; files of the same model are kept."""
    origin = TASKS[task]
    profile = load_profile(origin.profile, origin.split)
    (folder() / task).mkdir(parents=True, exist_ok=True)
    model = replace(profile, calibration={}).digest.hex()
    for name, features in _SOURCES[task](profile):
        path = folder() / task / f"{name}.safetensors"
        if not path.exists() or _metadata(path).get("model") != model:
            stack = np.stack(list(track(features, description=f"{task}: {name}"))).astype(np.float16)
            part = "validate" if name in VALIDATION else "train"
            origin_of = {"source": name, "part": part, "profile": origin.profile, "split": str(origin.split)}
            save_file({"features": stack}, path, origin_of | {"model": model})


def _metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "np") as file:
        return dict(file.metadata())


def _text_features(profile: Profile) -> Iterator[tuple[str, Iterator[Array]]]:
    model = Decoder.load(profile)
    for name, text in texts("fit"):
        ids = model.backbone.plain_ids(text)
        starts = range(0, len(ids) - ROW_TOKENS, ROW_TOKENS)
        chosen = islice(starts, 0, None, max(1, len(starts) // _ROWS))
        yield name, (model.features(ids[start : start + ROW_TOKENS]).numpy() for start in chosen)


def _photo_features(profile: Profile) -> Iterator[tuple[str, Iterator[Array]]]:
    model = Vit.load(profile)
    for name, photo in photos("fit"):
        yield name, (model.features(view).numpy() for view in views(photo, np.random.default_rng(len(name))))


def _latent_features(profile: Profile) -> Iterator[tuple[str, Iterator[Array]]]:
    model = Sd3.load(profile)
    names = iter(prompts("fit"))
    for name, count in zip(("names", "names-kept"), _NAMES, strict=True):
        yield name, (model.features(prompt).numpy() for prompt in islice(names, count))


_SOURCES: Final = {"llm": _text_features, "vit": _photo_features, "tti": _latent_features}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tasks", nargs="*", choices=[*TASKS, []], help="all of them by default")
    torch.set_grad_enabled(False)
    for task in parser.parse_args().tasks or TASKS:
        extract(task)


if __name__ == "__main__":
    main()
