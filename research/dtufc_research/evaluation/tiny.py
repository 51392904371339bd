"""Models that are small enough to be made by a test or a measurement: random weights, and profiles that serve them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dtufc.coding.feature_codec import fit_calibration
from dtufc.models.profile import Profile, load_profile
from dtufc_research.evaluation.cuts import NUM_LAYERS, save_decoder, save_vision

CHARACTERS: Final = [*map(chr, range(33, 127)), *"ĠĊĉ"]  # as byte-level tokenizers write them; the last: blanks
CHANNELS: Final = 32
_NUM_FIT: Final = 12


def tiny_decoder(name: str, folder: Path, split: int = NUM_LAYERS // 2) -> Profile:
    """A random language model of this class, whose tokens are single characters, and its profile."""
    save_decoder(name, folder / "model")
    tokenizer = Tokenizer(models.BPE({character: index for index, character in enumerate(CHARACTERS)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder / "model")
    return _profile(
        folder, "tiny", family="decoder", layout={"family": "llm"}, split=split, tasks=["answer", "complete"]
    )


def tiny_classifier(folder: Path) -> Profile:
    """A random transformer that classifies images of 56 x 56 pixels, and its profile."""
    save_vision("ViTForImageClassification", folder / "model")
    view = {"size": {"height": 56, "width": 56}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "model" / "preprocessor_config.json").write_text(json.dumps(view), encoding="utf-8")
    return _profile(
        folder,
        "tiny-vit",
        family="vit",
        layout={"family": "vit", "prefix": 1},
        split=NUM_LAYERS // 2,
        tasks=["classify"],
    )


def fitted(profile: Profile, folder: Path) -> Profile:
    """The profile with codecs that are fitted to noise, kept in its folder."""
    generator = np.random.default_rng(0)
    shape = (17, CHANNELS) if profile.spec.family == "vit" else (24, CHANNELS)
    samples = [generator.standard_normal(shape, np.float32) for _ in range(_NUM_FIT)]
    calibration, _ = fit_calibration(samples, profile.layout, learned=False)
    replace(profile, calibration=calibration).save(folder / "profile")
    return load_profile(folder / "profile")


def _profile(folder: Path, name: str, family: str, layout: dict[str, Any], split: int, tasks: list[str]) -> Profile:
    spec = {
        "name": name,
        "family": family,
        "layout": layout,
        "split": split,
        "tasks": tasks,
        "source": {"folder": str(folder / "model")},
    }
    (folder / "profile").mkdir()
    (folder / "profile" / "profile.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")
    return load_profile(folder / "profile")
