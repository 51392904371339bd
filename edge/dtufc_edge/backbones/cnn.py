"""The first stages of a convolutional classifier: a picture -> feature maps."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dtufc.errors import InputError
from dtufc.zoo.cnn import read_stages


@dataclass(frozen=True, slots=True, kw_only=True)
class _View:
    """What of a picture a model sees: `preprocessor_config.json` of its folder, as transformers writes it.

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

    @classmethod
    def read(cls, folder: Path) -> "_View":
        """Raises InputError for a folder without the file, or with one that says too little."""
        try:
            config = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
            size, crop = config["size"], config.get("crop_size", {})
            resized = int((size.get("shortest_edge") or size["height"]) if isinstance(size, dict) else size)
            side = int(crop["height"]) if crop else resized
            if not crop:  # the square is a share of what was resized
                resized = int(side / float(config.get("crop_pct") or 0.875))
            return cls(side=side, resized=resized, mean=tuple(config["image_mean"]), std=tuple(config["image_std"]))
        except (OSError, KeyError, TypeError, ValueError) as error:
            problem = f"{folder}: no preprocessor_config.json that says how to prepare pictures: {error}"
            raise InputError(field="weights", problem=problem, remedy="Restore the file") from error


class CnnBackbone:
    """Stages 1 ... split, and the picture's preparation."""

    def __init__(self, folder: Path, split: int, device: torch.device, dtype: torch.dtype) -> None:
        self._view = _View.read(folder)
        self._stages = read_stages(folder, 0, split, classifies=False, device=device, dtype=dtype)
        self._device, self._dtype = device, dtype

    def prepare(self, image: Image.Image) -> Tensor:
        """The square in the middle of an image, [1, 3, side, side], float32, normalised."""
        view = self._view
        scale = view.resized / min(image.size)
        width, height = (max(view.side, round(size * scale)) for size in image.size)
        left, top = (width - view.side) // 2, (height - view.side) // 2
        box = (left / scale, top / scale, (left + view.side) / scale, (top + view.side) / scale)
        box = (box[0], box[1], min(box[2], image.width), min(box[3], image.height))
        seen = image.convert("RGB").resize((view.side, view.side), Image.Resampling.BICUBIC, box)
        mean, std = np.asarray(view.mean, np.float32), np.asarray(view.std, np.float32)
        pixels = (np.asarray(seen, np.float32) / 255 - mean) / std
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None]

    @torch.inference_mode()
    def features(self, pixels: Tensor) -> Tensor:
        """Pixels [1, 3, side, side] -> features [C, h, w] on the CPU."""
        features: Tensor = self._stages(pixels.to(self._device, self._dtype))[0]
        return features.cpu()
