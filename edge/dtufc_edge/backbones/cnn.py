"""The first stages of a convolutional classifier: a picture -> feature maps."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dtufc.models.zoo.cnn import View, read_stages


class CnnBackbone:
    """Stages 1 ... split, and the picture's preparation."""

    def __init__(self, folder: Path, split: int, device: torch.device, dtype: torch.dtype) -> None:
        self._view = View.read(folder)
        self._stages = read_stages(folder, 0, split, classifies=False, device=device, dtype=dtype)
        self._device, self._dtype = device, dtype

    def prepare(self, image: Image.Image) -> Tensor:
        """The square in the middle of an image, [1, 3, side, side], float32, normalised."""
        view = self._view
        edge = min(image.size) * view.side / view.resized
        left, top = (image.width - edge) / 2, (image.height - edge) / 2
        box = (left, top, min(left + edge, image.width), min(top + edge, image.height))
        seen = image.convert("RGB").resize((view.side, view.side), Image.Resampling.BICUBIC, box)
        mean, std = np.asarray(view.mean, np.float32), np.asarray(view.std, np.float32)
        pixels = (np.asarray(seen, np.float32) / 255 - mean) / std
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None]

    @torch.inference_mode()
    def features(self, pixels: Tensor) -> Tensor:
        """Pixels [1, 3, side, side] -> features [C, h, w] on the CPU."""
        features: Tensor = self._stages(pixels.to(self._device, self._dtype))[0]
        return features.cpu()
