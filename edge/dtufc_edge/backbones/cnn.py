"""The first stages of a convolutional classifier: an image -> feature maps."""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from dtufc.coding.layout import Family
from dtufc.models.capabilities import Draft
from dtufc.models.cnn import can_cut, num_stages, read_stages
from dtufc.models.preprocess import View, cropped
from dtufc.models.profile import LayoutSpec, Profile
from dtufc.models.split import read_config


class CnnBackbone:
    """Stages 1 ... split, and the image's preprocessing."""

    def __init__(self, folder: Path, profile: Profile, device: torch.device, dtype: torch.dtype) -> None:
        self._view = View.read(folder)
        self.num_layers = num_stages(folder)
        self._stages = read_stages(folder, 0, profile.split, classifies=False, device=device, dtype=dtype)
        self._device, self._dtype = device, dtype

    @staticmethod
    def draft(folder: Path) -> Draft | None:
        """What a folder's configuration says of a profile, if it is that of a convolutional classifier."""
        if not (folder / "config.json").is_file() or not can_cut(read_config(folder)):
            return None
        layout = LayoutSpec(family=Family.cnn)  # each stage has channels of its own
        return Draft(layout=layout, tasks=("classify",), last_split=num_stages(folder))

    def crop(self, image: Image.Image) -> Tensor:
        """The square in the middle of an image, [1, 3, side, side], float32, normalised."""
        return cropped(image, self._view)

    @torch.inference_mode()
    def features(self, pixels: Tensor) -> Tensor:
        """Pixels [1, 3, side, side] -> features [C, h, w] on the CPU."""
        features: Tensor = self._stages(pixels.to(self._device, self._dtype))[0]
        return features.cpu()
