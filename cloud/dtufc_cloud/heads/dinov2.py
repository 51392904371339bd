"""The last blocks of a DINOv2 and a dense head: features of patches -> label map.

No forward pass is copied: the blocks that are left run as a `Dinov2Model` whose embeddings are the identity.
Two heads: `saliency`, as the shipped profile has it, and `linear`, batch norm and a 1 x 1 convolution, as DINOv2's
authors publish for semantic segmentation.
"""

import json
from math import isqrt
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, Dinov2Model

from dtufc.coding.arrays import Array
from dtufc.errors import InputError
from dtufc.models.zoo.tensors import dinov2_stored_name, fill, read_tensors, tensor_names
from dtufc_cloud.heads import finite


class SaliencyHead(nn.Module):
    """Three times (transposed convolution, batch norm, ReLU), then one channel of logits."""

    def __init__(self, channels: int, widths: list[int]) -> None:
        super().__init__()
        sizes = [channels, *widths]
        for i, (num_in, num_out) in enumerate(zip(sizes, widths, strict=False), start=1):
            self.add_module(f"upconv{i}", nn.ConvTranspose2d(num_in, num_out, kernel_size=4, stride=2, padding=1))
            self.add_module(f"bn{i}", nn.BatchNorm2d(num_out))
        self.final_conv = nn.Conv2d(widths[-1], 1, kernel_size=1)
        self._num = len(widths)

    def forward(self, x: Tensor) -> Tensor:
        for i in range(1, self._num + 1):
            x = F.relu(self.get_submodule(f"bn{i}")(self.get_submodule(f"upconv{i}")(x)))  # [1, widths, 2^i h, 2^i w]
        logits: Tensor = self.final_conv(x)
        return logits


class LinearHead(nn.Module):
    """Batch norm and a 1 x 1 convolution to the labels."""

    def __init__(self, channels: int, labels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)
        self.conv_seg = nn.Conv2d(channels, labels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.conv_seg(self.bn(x))
        return logits


class Dinov2Head:
    """Blocks split ... L - 1, final norm and dense head."""

    def __init__(self, folder: Path, split: int, device: torch.device, dtype: torch.dtype) -> None:
        config = AutoConfig.from_pretrained(folder)
        self.side = int(config.image_size)
        config = AutoConfig.from_pretrained(folder, num_hidden_layers=config.num_hidden_layers - split)
        with torch.device("meta"):
            self._model = Dinov2Model(config)
            self._model.embeddings = _Given()  # pictures never come here
            self._dense = _dense_head(folder / "head", config.hidden_size)
        names = {name: dinov2_stored_name(name, split) for name in self._model.state_dict()}
        fill(self._model, read_tensors(folder, names, dtype), device)
        names = {name: name for name in self._dense.state_dict() if name in tensor_names(folder / "head")}
        weights = read_tensors(folder / "head", names, dtype)
        counts = {name: torch.tensor(0) for name in self._dense.state_dict() if name.endswith("num_batches_tracked")}
        fill(self._dense, counts | weights, device)
        self._device = device
        self._dtype = dtype

    @torch.inference_mode()
    def logits(self, features: Tensor) -> Tensor:
        """Features [1 + h w, d] -> logits [labels, side, side], float32; one label: foreground."""
        return finite(self.forward(features))

    def forward(self, features: Tensor) -> Tensor:
        """`logits`, differentiable by the features."""
        tokens = features.to(self._device, self._dtype)[None]  # [1, 1 + h w, d]
        normed = self._model(pixel_values=tokens).last_hidden_state[:, 1:]
        side = isqrt(normed.shape[1])
        if side * side != normed.shape[1]:
            raise InputError(field="features", problem=f"{normed.shape[1]} patches", remedy="Send a square grid")
        grid = normed.transpose(1, 2).unflatten(2, (side, side))  # [1, d, h, w]
        logits = self._dense(grid)
        size = (self.side, self.side)
        return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)[0].float().cpu()

    def label_map(self, features: Tensor, box: tuple[int, int, int, int], size: tuple[int, int]) -> Array:
        """Labels of the image that lies at `box` (left, top, right, bottom), brought to `size` (height, width).

        Returns:
            [height, width] uint8: 255 for foreground, where the head tells that alone; else the label.
        """
        left, top, right, bottom = box
        if not (0 <= left < right <= self.side and 0 <= top < bottom <= self.side):
            raise InputError(field="box", problem=f"{box}", remedy=f"Give a box within {self.side} x {self.side}")
        logits = self.logits(features)[None, :, top:bottom, left:right]
        if logits.shape[1] > 1:  # labels first, then the size: memory does not grow with their number
            labels = logits.argmax(dim=1, keepdim=True).float()
            return F.interpolate(labels, size=size, mode="nearest-exact")[0, 0].to(torch.uint8).numpy()
        logits = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)[0, 0]
        return (logits > 0).to(torch.uint8).numpy() * np.uint8(255)


class _Given(nn.Module):
    """Stands for the embeddings: what the edge sent has been embedded already."""

    def forward(self, features: Tensor, bool_masked_pos: Tensor | None = None) -> Tensor:
        return features


def _dense_head(folder: Path, channels: int) -> nn.Module:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if config["kind"] == "saliency":
            return SaliencyHead(channels, list(config["widths"]))
        if config["kind"] == "linear" and 2 <= int(config["labels"]) <= 256:
            return LinearHead(channels, int(config["labels"]))
    except (OSError, KeyError, ValueError) as error:
        raise InputError(field="head", problem=f"{folder}: {error}", remedy="Give a head folder") from error
    raise InputError(field="head", problem=f"{config}", remedy="Use saliency, or linear with 2 to 256 labels")
