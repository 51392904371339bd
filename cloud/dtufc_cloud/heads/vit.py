"""The last layers of a transformer for images (DINOv2, DINOv3, ViT, SigLIP's tower) and a head: features -> labels.

Dense heads are of two kinds: `saliency`, as the shipped profile has it, and `linear`, batch norm and a 1 x 1
convolution, as DINOv2's authors publish for semantic segmentation.
"""

import json
from math import isqrt
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dtufc.coding.arrays import Array
from dtufc.errors import InputError
from dtufc.models.capabilities import Label
from dtufc.models.profile import Profile
from dtufc.models.split import Back
from dtufc.models.vit import classifies, read_vit, read_vit_config
from dtufc.models.zoo.tensors import fill, read_tensors, tensor_names
from dtufc_cloud.heads import check_finite, signed_gradient, top_labels

_SHARPNESS: Final = 4.0  # of the weight near the mask's border


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


def vit_head(folder: Path, profile: Profile, device: torch.device, dtype: torch.dtype) -> "DenseHead | ClassifierHead":
    """The head of a folder: a dense one where it has the folder `head`, else the checkpoint's own classifier.

    Raises:
        InputError: it has neither, or the model cannot be cut.
    """
    config = read_vit_config(folder)
    if (folder / "head").is_dir():
        return DenseHead(folder, profile, device, dtype)
    if classifies(config):
        return ClassifierHead(folder, profile, device, dtype)
    problem = f"{folder} has neither a classifier of its own type nor a folder `head`"
    raise InputError(field="model", problem=problem, remedy="Give a ...ForImageClassification, or add a dense head")


class _VitHead:
    """Layers split + 1 ... L."""

    def __init__(
        self, folder: Path, profile: Profile, device: torch.device, dtype: torch.dtype, *, dense: bool
    ) -> None:
        self._config, cls, self.prefix = read_vit(folder, profile, dense=dense)
        self._back = Back(folder, self._config, profile.split, device, dtype, cls=cls)
        self.num_layers = self._back.num_layers
        self._patch = int(self._config.patch_size)
        self._channels = int(self._config.hidden_size)
        self.example_shape = (self.prefix + (int(self._config.image_size) // self._patch) ** 2, self._channels)

    def check(self, shape: tuple[int, ...]) -> None:
        """[prefix + h h, d]."""
        patches = shape[0] - self.prefix
        if len(shape) != 2 or shape[1] != self._channels or patches < 1 or isqrt(patches) ** 2 != patches:
            remedy = f"Send [{self.prefix} + a square grid, {self._channels}]"
            raise InputError(field="frame", problem=f"features of shape {shape}", remedy=remedy)

    def _output(self, features: Tensor) -> Any:
        """Features [prefix + h h, d] -> the model's own output."""
        side = self._grid_side(features) * self._patch
        return self._back.output(features, pixel_values=torch.zeros(1).expand(1, 3, side, side))

    def _grid_side(self, features: Tensor) -> int:
        return isqrt(len(features) - self.prefix)


class ClassifierHead(_VitHead):
    """The rest of a ...ForImageClassification."""

    def __init__(self, folder: Path, profile: Profile, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(folder, profile, device, dtype, dense=False)
        self._names: dict[int, str] = dict(self._config.id2label or {})

    def forward(self, features: Tensor) -> Tensor:
        """`logits`, differentiable by the features."""
        logits: Tensor = self._output(features).logits[0]
        return logits.float().cpu()

    def gradient(self, features: Tensor, generator: torch.Generator) -> Tensor:
        """Of all logits, under random signs."""
        return signed_gradient(self.forward, features, generator)

    @torch.inference_mode()
    def logits(self, features: Tensor) -> Tensor:
        """Features [prefix + h h, d] -> logits [classes], float32."""
        return check_finite(self.forward(features))

    def labels(self, features: Tensor, count: int) -> list[Label]:
        """The most probable classes, at most `count`, best first."""
        return top_labels(self.logits(features), self._names, count)


class DenseHead(_VitHead):
    """The rest of the model, its final norm, and a dense head on the patches."""

    def __init__(self, folder: Path, profile: Profile, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(folder, profile, device, dtype, dense=True)
        self.side = int(self._config.image_size)
        self._dense = _read_dense_head(folder / "head", self._channels, device, dtype)
        self.num_labels = self._dense.conv_seg.out_channels if isinstance(self._dense, LinearHead) else 1

    @torch.inference_mode()
    def logits(self, features: Tensor) -> Tensor:
        """Features [prefix + h h, d] -> logits [labels, side, side], float32; one label: foreground."""
        return check_finite(self.forward(features))

    def forward(self, features: Tensor) -> Tensor:
        """`logits`, differentiable by the features."""
        patches = self._output(features).last_hidden_state[:, self.prefix :]  # [1, h h, d]
        grid_side = self._grid_side(features)
        logits = self._dense(patches.transpose(1, 2).unflatten(2, (grid_side, grid_side)))  # from [1, d, h, h]
        size = (self.side, self.side)
        return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)[0].float().cpu()

    def gradient(self, features: Tensor, generator: torch.Generator) -> Tensor:
        """Of all logits, under random signs; of a mask's mostly near its border, where it can change."""
        return signed_gradient(self.forward, features, generator, _near_border)

    def label_map(self, features: Tensor, box: tuple[int, int, int, int], size: tuple[int, int]) -> Array:
        """Labels of the image that lies at `box` (left, top, right, bottom), brought to `size` (height, width).

        Returns:
            [height, width] uint8: 255 for foreground, where the head tells that alone; else the label.

        Raises:
            InputError: a box beyond the model's input.
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


def _near_border(logits: Tensor) -> Tensor:
    return torch.exp(-_SHARPNESS * logits**2) if len(logits) == 1 else torch.ones_like(logits)


def _read_dense_head(folder: Path, channels: int, device: torch.device, dtype: torch.dtype) -> nn.Module:
    with torch.device("meta"):
        dense = _dense_head(folder, channels)
    stored = tensor_names(folder)
    weights = read_tensors(folder, {name: name for name in dense.state_dict() if name in stored}, dtype)
    counts = {name: torch.tensor(0) for name in dense.state_dict() if name.endswith("num_batches_tracked")}
    fill(dense, counts | weights, device)
    return dense


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
