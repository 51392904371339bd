"""An image as a model takes it: what the model's folder says; the pixels."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dtufc.coding.arrays import Array
from dtufc.errors import InputError
from dtufc.models.image_colours import as_shown

IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Which part of an image a model takes: `preprocessor_config.json` of its folder, as transformers writes it.

    Attributes:
        side: of the square.
        resized: the shorter edge before the square is cut out of the middle.
        mean: of each colour, in [0, 1].
        std: of each colour.
    """

    side: int
    resized: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if not 0 < self.side <= self.resized:
            raise ValueError(f"a square of {self.side} out of {self.resized} pixels")

    @classmethod
    def read(cls, folder: Path) -> "View":
        """Raises InputError for a folder without the file, or with one that says too little."""
        try:
            config = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
            size = config["size"] if isinstance(config["size"], dict) else {"shortest_edge": config["size"]}
            shortest = size.get("shortest_edge")
            side = resized = int(shortest or size["height"])
            if config.get("do_center_crop", True) and config.get("crop_size"):
                side = int(config["crop_size"]["height"])
            elif shortest:  # the square is a share of what was resized
                resized = int(side / float(config.get("crop_pct") or 0.875))
            return cls(side=side, resized=resized, mean=tuple(config["image_mean"]), std=tuple(config["image_std"]))
        except (OSError, KeyError, TypeError, ValueError) as error:
            problem = f"{folder}: no preprocessor_config.json that says how to preprocess images: {error}"
            raise InputError(field="weights", problem=problem, remedy="Restore the file") from error


def cropped(image: Image.Image, view: View) -> Tensor:
    """The square in the middle of an image, [1, 3, side, side], float32, normalised."""
    edge = min(image.size) * view.side / view.resized
    left, top = (image.width - edge) / 2, (image.height - edge) / 2
    box = (left, top, min(left + edge, image.width), min(top + edge, image.height))
    square = as_shown(image).resize((view.side, view.side), Image.Resampling.BICUBIC, box)
    return to_tensor(np.asarray(square), view.mean, view.std)


def to_tensor(colours: Array, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8[H, W, 3] -> [1, 3, H, W], float32, normalised."""
    pixels = (np.asarray(colours, np.float32) / 255 - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None]
