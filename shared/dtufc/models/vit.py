"""What both sides of a transformer for images read from its configuration, and the input that its cut is proven on."""

import copy
from pathlib import Path
from typing import Any

import torch
from transformers import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING, MODEL_MAPPING

from dtufc.coding.layout import Family
from dtufc.errors import InputError
from dtufc.models.profile import Profile
from dtufc.models.proof import MAX_BYTES_AT_START, Steps, require
from dtufc.models.split import model_class, read_config


def image_config(config: Any) -> Any:
    """The configuration of what reads images: of a model for images and text, that of its image tower."""
    return getattr(config, "vision_config", config)


def is_vit(config: Any) -> bool:
    """Whether a configuration names square images and square patches."""
    return all(isinstance(getattr(config, name, None), int) for name in ("image_size", "patch_size"))


def read_vit_config(folder: Path) -> Any:
    """The configuration of a folder's model; of a model for images and text, that of its image tower.

    Raises:
        InputError: no configuration, or none of a transformer for square images in square patches.
    """
    config = image_config(read_config(folder))
    if not is_vit(config):
        problem = f"{type(config).__name__} names no image_size and patch_size of squares"
        raise InputError(field="model", problem=problem, remedy="Use a model of square images and patches")
    return config


def dense_class(config: Any) -> Any:
    """The class without a classifier, of which a dense head reads the tokens. Raises InputError where there is none."""
    return model_class(_without_architectures(config), (MODEL_MAPPING,))


def _without_architectures(config: Any) -> Any:
    plain = copy.copy(config)
    plain.architectures = None
    return plain


def classifies(config: Any) -> bool:
    """Whether the checkpoint was saved with a classifier."""
    found = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING.get(type(config), ())
    return model_class(config) in (found if isinstance(found, tuple) else (found,))


def prefix_tokens(config: Any) -> int:
    """Tokens in front of the patches (the class token, registers), as the model's own embeddings make them.

    Raises:
        InputError: they make no row of tokens with at least one for each patch.
    """
    name, patches = dense_class(config).__name__, int(config.image_size // config.patch_size) ** 2
    try:
        with torch.device("meta"):
            model = dense_class(config)(config)
            embed = next(module for path, module in model.named_modules() if path.rpartition(".")[2] == "embeddings")
            tokens = embed(torch.empty(1, 3, config.image_size, config.image_size))
        count = tokens.shape[1] - patches if tokens.ndim == 3 else -1
    except (AttributeError, StopIteration, RuntimeError, TypeError, ValueError):
        count = -1
    if count < 0:
        problem = f"{name} is no transformer for images with a token for each patch"
        raise InputError(field="model", problem=problem, remedy="Use a DINOv2, DINOv3, ViT or SigLIP image tower")
    return count


def proof_steps(config: Any) -> Steps:
    """One image of noise; the same for the same size."""
    side = int(config.image_size)
    return [{"pixel_values": torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))}]


def read_vit(
    folder: Path, profile: Profile, *, dense: bool, max_bytes: float = MAX_BYTES_AT_START
) -> tuple[Any, Any, int]:
    """Configuration, class and prefix tokens of a folder's transformer for images, whose cut is proven.

    Args:
        folder: of the checkpoint.
        profile: with the split and the layout.
        dense: without the classifier that the checkpoint may have.
        max_bytes: of weights that may be compared now.

    Raises:
        InputError: another kind of model, another layout, or a cut that differs from the whole.
    """
    config = read_vit_config(folder)
    prefix = prefix_tokens(config)
    layout = profile.with_prefix(prefix).layout
    fits = layout.family == Family.vit and layout.prefix == prefix and layout.channels in (None, config.hidden_size)
    if not fits:
        problem = f"{layout.describe()} ({layout.family}), and the model has {prefix} prefix tokens of its own"
        raise InputError(field="layout", problem=problem, remedy="Write {family: vit}")
    cls = dense_class(config) if dense or not classifies(config) else model_class(config)
    require(folder, config, profile.split, lambda: proof_steps(config), cls=cls, max_bytes=max_bytes)
    return config, cls, prefix
