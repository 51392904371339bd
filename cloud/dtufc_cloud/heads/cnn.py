"""The last stages of a convolutional classifier, pooling and classifier: feature maps -> labels."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoConfig

from dtufc.models.zoo.cnn import features_shape, read_stages
from dtufc_cloud.heads import finite


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """One class and its probability."""

    index: int
    name: str
    probability: float


class CnnHead:
    """Stages split + 1 ... L, pooling and classifier.

    Attributes:
        shape: (C, h, w) of the features that it takes, and no others.
    """

    def __init__(self, folder: Path, split: int, device: torch.device, dtype: torch.dtype) -> None:
        self.shape = features_shape(folder, split)
        self._names: dict[int, str] = dict(AutoConfig.from_pretrained(folder).id2label)
        self._part = read_stages(folder, split, None, classifies=True, device=device, dtype=dtype)
        self._device, self._dtype = device, dtype

    def forward(self, features: Tensor) -> Tensor:
        """`logits`, differentiable by the features."""
        logits: Tensor = self._part(features.to(self._device, self._dtype)[None])[0]
        return logits.float().cpu()

    @torch.inference_mode()
    def logits(self, features: Tensor) -> Tensor:
        """Features [C, h, w] -> logits [classes], float32."""
        return finite(self.forward(features))

    def labels(self, features: Tensor, count: int) -> list[Label]:
        """The most probable classes, at most `count`, best first."""
        probabilities = torch.softmax(self.logits(features).double(), dim=0)
        best = torch.topk(probabilities, min(count, len(probabilities)))
        return [
            Label(index=index, name=self._names.get(index, str(index)), probability=probability)
            for index, probability in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]
