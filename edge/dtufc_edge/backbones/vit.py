"""The first layers of a transformer for images (DINOv2, DINOv3, ViT, SigLIP's tower): pixels -> features of patches."""

import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dtufc.coding.layout import Family
from dtufc.errors import InputError
from dtufc.models.capabilities import Box, Draft
from dtufc.models.image_colours import as_shown
from dtufc.models.preprocess import IMAGENET_MEAN, IMAGENET_STD, View, cropped, to_tensor
from dtufc.models.profile import LayoutSpec, Profile
from dtufc.models.split import Front, check_split, read_config
from dtufc.models.vit import classifies, image_config, is_vit, prefix_tokens, read_vit, read_vit_config


class VitBackbone:
    """Embeddings and layers 1 ... split, and the image's preprocessing."""

    def __init__(self, folder: Path, profile: Profile, device: torch.device, dtype: torch.dtype) -> None:
        config, cls, self.prefix = read_vit(folder, profile, dense=False)
        self._front = Front(folder, config, profile.split, device, dtype, cls=cls)
        self.num_layers = self._front.num_layers
        self._side = int(config.image_size)
        has_view = (folder / "preprocessor_config.json").is_file()
        self._view = View.read(folder) if has_view else None
        if classifies(config) and "classify" in profile.spec.tasks:
            self._check_view()

    @staticmethod
    def draft(folder: Path) -> Draft | None:
        """What a folder's configuration says of a profile, if it is that of a transformer for images."""
        if not (folder / "config.json").is_file() or not is_vit(image_config(read_config(folder))):
            return None
        config = read_vit_config(folder)
        layout = LayoutSpec(family=Family.vit, channels=config.hidden_size, prefix=prefix_tokens(config))
        if not (folder / "head").is_dir() and not classifies(config):
            problem = f"{folder} has neither a classifier of its own type nor a folder `head`"
            raise InputError(field="model", problem=problem, remedy="Give a ...ForImageClassification, or a dense head")
        return Draft(
            layout=layout,
            tasks=("segment",) if (folder / "head").is_dir() else ("classify",),
            last_split=check_split(config, 1).last_split,
        )

    @staticmethod
    def prefix_of(folder: Path) -> int:
        """Tokens in front of the patches, as the model's configuration has them."""
        return prefix_tokens(read_vit_config(folder))

    @staticmethod
    def prove(folder: Path, profile: Profile) -> None:
        """Compares the cut model with the whole, once, whatever its size. Raises InputError where they differ."""
        read_vit(folder, profile, dense=False, max_bytes=math.inf)

    def fit(self, image: Image.Image) -> tuple[Tensor, Box]:
        """Fits the image into the model's square, centred on black.

        Returns:
            Pixels [1, 3, side, side], float32, normalised; and where the image lies in them.
        """
        scale = self._side / max(image.size)
        width, height = (max(1, round(size * scale)) for size in image.size)
        left, top = (self._side - width) // 2, (self._side - height) // 2
        resample = Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR
        canvas = Image.new("RGB", (self._side, self._side))
        canvas.paste(as_shown(image).resize((width, height), resample), (left, top))
        mean, std = (self._view.mean, self._view.std) if self._view else (IMAGENET_MEAN, IMAGENET_STD)
        pixels = to_tensor(np.asarray(canvas), mean, std)
        return pixels, Box(left=left, top=top, right=left + width, bottom=top + height)

    def crop(self, image: Image.Image) -> Tensor:
        """The square in the middle of an image, [1, 3, side, side], float32, normalised.

        Raises:
            InputError: the model's folder does not say how it wants images, or wants another size than it has.
        """
        return cropped(image, self._check_view())

    def _check_view(self) -> View:
        if self._view is None or self._view.side != self._side:
            found = f"for {self._view.side}" if self._view else "missing"
            problem = f"its preprocessor_config.json is {found}, and the model takes {self._side} pixels a side"
            raise InputError(field="model", problem=problem, remedy="Set crop_size or size in that file to the model's")
        return self._view

    def features(self, pixels: Tensor) -> Tensor:
        """Pixels [1, 3, side, side] -> features [prefix + patches, d] on the CPU."""
        return self._front.features(pixel_values=pixels.to(self._front.dtype)).cpu()
