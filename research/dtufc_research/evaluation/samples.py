"""Features of test inputs, each with a measure of agreement for decoded features."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from PIL import Image
from skimage.metrics import structural_similarity

from dtufc.coding.arrays import Array
from dtufc_research.data.extract import Cnn, Decoder, Sd3, Vit
from dtufc_research.evaluation.agreement import mean_iou


@dataclass(frozen=True, slots=True)
class Sample:
    """Features of a test input, and the agreement of decoded features with them, in [0, 1]."""

    features: Array
    agreement: Callable[[Array], float]


def vit_samples(model: Vit, images: Sequence[Image.Image]) -> list[Sample]:
    """Agreement is the mean IoU of the saliency mask with the uncompressed model's."""

    def agreement(mask: Array, decoded: Array) -> float:
        return mean_iou(mask, _mask(model, torch.from_numpy(decoded)))

    originals = [model.features(image) for image in images]
    return [Sample(features.numpy(), partial(agreement, _mask(model, features))) for features in originals]


def llm_samples(model: Decoder, rows_of_ids: Sequence[list[int]]) -> list[Sample]:
    """Agreement is the share of the next tokens, after every token, that equal the uncompressed model's."""

    def agreement(expected: Array, decoded: Array) -> float:
        return float(np.mean(_top(model, torch.from_numpy(decoded)) == expected))

    originals = [model.features(ids) for ids in rows_of_ids]
    return [Sample(features.numpy(), partial(agreement, _top(model, features))) for features in originals]


def cnn_samples(model: Cnn, images: Sequence[Image.Image]) -> list[Sample]:
    """Agreement is 1 if the most probable label is the uncompressed model's, else 0."""

    def agreement(label: int, decoded: Array) -> float:
        return float(_label(model, torch.from_numpy(decoded)) == label)

    originals = [model.features(image) for image in images]
    return [Sample(features.numpy(), partial(agreement, _label(model, features))) for features in originals]


def tti_samples(model: Sd3, prompts: Sequence[str]) -> list[Sample]:
    """Agreement is the structural similarity of the images that are decoded from both latents."""

    def agreement(original: Array, decoded: Array) -> float:
        return ssim(original, model.head.image(torch.from_numpy(decoded)))

    originals = [model.features(prompt) for prompt in prompts]
    return [Sample(latent.numpy(), partial(agreement, model.head.image(latent))) for latent in originals]


def ssim(a: Array, b: Array) -> float:
    """Structural similarity of two images uint8[H, W, 3]."""
    return float(structural_similarity(a, b, channel_axis=2))


def _label(model: Cnn, features: torch.Tensor) -> int:
    return int(model.head.logits(features).argmax())


def _mask(model: Vit, features: torch.Tensor) -> Array:
    return model.head.logits(features)[0].numpy() > 0


def _top(model: Decoder, features: torch.Tensor) -> Array:
    return model.head.logits(features).argmax(dim=-1).numpy()
