"""What both sides of a transformer for images read from its configuration, and the input that its cut is proven on."""

from pathlib import Path
from typing import Any

import torch
from transformers import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING, MODEL_MAPPING

from dtufc.errors import InputError
from dtufc.models.proof import Steps
from dtufc.models.split import model_class, read_config


def read_vit_config(folder: Path) -> Any:
    """The configuration of a folder's model; of a model for images and text, that of its image tower.

    Raises:
        InputError: no configuration, or none of a transformer for square images in square patches.
    """
    config = read_config(folder)
    config = getattr(config, "vision_config", config)
    if not isinstance(getattr(config, "image_size", None), int) or not isinstance(
        getattr(config, "patch_size", None), int
    ):
        problem = f"{type(config).__name__} names no image_size and patch_size of squares"
        raise InputError(field="model", problem=problem, remedy="Use a model of square images and patches")
    return config


def dense_class(config: Any) -> Any:
    """The class without a classifier, of which a dense head reads the tokens."""
    return MODEL_MAPPING[type(config)]


def classifies(config: Any) -> bool:
    """Whether the checkpoint was saved with a classifier."""
    found = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING.get(type(config), ())
    return model_class(config) in (found if isinstance(found, tuple) else (found,))


def prefix_tokens(config: Any) -> int:
    """Tokens in front of the patches (the class token, registers), as the model's own embeddings make them."""
    with torch.device("meta"):
        model = dense_class(config)(config)
        embeddings = next(module for name, module in model.named_modules() if name.rpartition(".")[2] == "embeddings")
        tokens = int(embeddings(torch.empty(1, 3, config.image_size, config.image_size)).shape[1])
    return tokens - int(config.image_size // config.patch_size) ** 2


def proof_steps(config: Any) -> Steps:
    """One image of noise; the same for the same size."""
    side = int(config.image_size)
    return [{"pixel_values": torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))}]
