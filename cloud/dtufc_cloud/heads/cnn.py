"""The last stages of a convolutional classifier, pooling and classifier: feature maps -> labels."""

from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoConfig

from dtufc.errors import InputError
from dtufc.models.capabilities import Label
from dtufc.models.cnn import features_shape, num_stages, read_stages
from dtufc.models.profile import Profile
from dtufc_cloud.heads import check_finite, signed_gradient, top_labels


class CnnHead:
    """Stages split + 1 ... L, pooling and classifier.

    Attributes:
        shape: (C, h, w) of the features that it takes, and no others.
        example_shape: the same.
    """

    def __init__(self, folder: Path, profile: Profile, device: torch.device, dtype: torch.dtype) -> None:
        self.num_layers = num_stages(folder)
        self.shape = self.example_shape = features_shape(folder, profile.split)
        self._names: dict[int, str] = dict(AutoConfig.from_pretrained(folder).id2label)
        self._part = read_stages(folder, profile.split, None, classifies=True, device=device, dtype=dtype)
        self._device, self._dtype = device, dtype

    def check(self, shape: tuple[int, ...]) -> None:
        """`shape`, and no other."""
        if shape != self.shape:
            remedy = f"Send one of shape {self.shape}"
            raise InputError(field="frame", problem=f"features of shape {shape}", remedy=remedy)

    def forward(self, features: Tensor) -> Tensor:
        """`logits`, differentiable by the features."""
        logits: Tensor = self._part(features.to(self._device, self._dtype)[None])[0]
        return logits.float().cpu()

    def gradient(self, features: Tensor, generator: torch.Generator) -> Tensor:
        """Of all logits, under random signs."""
        return signed_gradient(self.forward, features, generator)

    @torch.inference_mode()
    def logits(self, features: Tensor) -> Tensor:
        """Features [C, h, w] -> logits [classes], float32."""
        return check_finite(self.forward(features))

    def labels(self, features: Tensor, count: int) -> list[Label]:
        """The most probable classes, at most `count`, best first."""
        return top_labels(self.logits(features), self._names, count)
