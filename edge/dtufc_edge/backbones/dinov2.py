"""The first blocks of a DINOv2: a picture -> features of its patches.

No forward pass is copied: the edge's part is a `Dinov2Model` of `split` blocks whose final norm is the identity.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AutoConfig, Dinov2Model

from dtufc.models.zoo.tensors import dinov2_stored_name, fill, read_tensors

_MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)  # of ImageNet, which the model was trained with
_STD = np.array([0.229, 0.224, 0.225], dtype=np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """Where in the model's picture the image lies, in pixels."""

    left: int
    top: int
    right: int
    bottom: int


class Dinov2Backbone:
    """Blocks 0 ... split - 1, and the picture's preparation."""

    def __init__(self, folder: Path, split: int, device: torch.device, dtype: torch.dtype) -> None:
        config = AutoConfig.from_pretrained(folder, num_hidden_layers=split)
        self._side = int(config.image_size)
        with torch.device("meta"):
            self._model = Dinov2Model(config)
            self._model.layernorm = nn.Identity()  # the norm belongs to the head
        names = {name: dinov2_stored_name(name, 0) for name in self._model.state_dict()}
        fill(self._model, read_tensors(folder, names, dtype), device)
        self._device = device
        self._dtype = dtype

    def prepare(self, image: Image.Image) -> tuple[Tensor, Box]:
        """Fits the image into the model's square, centred on black.

        Returns:
            Pixels [1, 3, side, side], float32, normalised; and where the image lies in them.
        """
        scale = self._side / max(image.size)
        width, height = (max(1, round(size * scale)) for size in image.size)
        left, top = (self._side - width) // 2, (self._side - height) // 2
        resample = Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR
        canvas = Image.new("RGB", (self._side, self._side))
        canvas.paste(image.convert("RGB").resize((width, height), resample), (left, top))
        pixels = np.asarray(canvas, np.float32) / 255
        pixels = (pixels - _MEAN) / _STD
        tensor = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None]
        return tensor, Box(left=left, top=top, right=left + width, bottom=top + height)

    @torch.inference_mode()
    def features(self, pixels: Tensor) -> Tensor:
        """Pixels [1, 3, side, side] -> features [1 + patches, d] on the CPU."""
        output = self._model(pixel_values=pixels.to(self._device, self._dtype))
        features: Tensor = output.last_hidden_state[0]  # [1 + patches, d]
        return features.cpu()
