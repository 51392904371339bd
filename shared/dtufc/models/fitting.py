"""The library's front: the feature codec of a shipped profile, or of any model from about ten of its features."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import ValidationError

from dtufc.coding.arrays import Array
from dtufc.coding.codecs.klt_fit import Progress
from dtufc.coding.feature_codec import FeatureCodec, fit_calibration
from dtufc.coding.features import as_array, as_tensor
from dtufc.coding.layout import Family, Layout
from dtufc.errors import InputError
from dtufc.models import plugins
from dtufc.models.profile import LATENT_PATCH, LayoutSpec, Profile, ProfileSpec, load_profile
from dtufc.models.zoo import weights_folder

if TYPE_CHECKING:
    import torch

    from dtufc.models.hooks import Split


def load(profile: str | Path, *, split: int | None = None) -> FeatureCodec:
    """The feature codec of a shipped profile, or of a profile in a folder.

    Args:
        profile: a name that `dtufc models` lists, or a folder with a `profile.yaml`.
        split: layers that run on the edge; the profile's own by default.

    Raises:
        InputError: there is no such profile, or the model has no such split.
    """
    return FeatureCodec(load_profile(profile, split))


def fit(
    samples: "Sequence[Array | torch.Tensor]",
    *,
    layout: str = "llm",
    name: str = "custom",
    prefix: int = 0,
    gradients: "Sequence[Array | torch.Tensor] | None" = None,
    profile: Profile | None = None,
    progress: Progress = lambda share: None,
) -> FeatureCodec:
    """A feature codec for any model, from about ten of its features, in seconds.

    Args:
        samples: features, each of a shape that the layout knows; finite.
        layout: llm, vit, latent or cnn (`dtufc.coding.layout`).
        name: of the profile.
        prefix: tokens before the grid; for vit.
        gradients: of what the rest of the model makes of each sample, of the same shape, or several in one array
            [k, ...]: bits then go where the result depends on them. Without them, errors count alike everywhere.
            `gradients_of` takes them from a profile's own head.
        profile: fit this model at this split; instead of layout, name and prefix.
        progress: is told the share of the work that is done.

    Raises:
        InputError: no sample, or one that does not fit the layout or the others.
    """
    if not samples:
        raise InputError(field="samples", problem="none were given", remedy="Give about ten features")
    if profile is None:
        profile = _profile_for(tuple(samples[0].shape), layout, name, prefix)
    calibration, report = fit_calibration(samples, profile.layout, gradients, progress)
    return FeatureCodec(replace(profile, calibration=calibration), report)


def split(module: "torch.nn.Module", *, after: str) -> "Split":
    """A model that is no file, cut by hooks: features of its inputs, gradients, and outputs of decoded features.

    Args:
        module: of any kind.
        after: name of a submodule, as `named_modules` has it, whose output are the features.

    Raises:
        InputError: it has no such submodule.
    """
    from dtufc.models.hooks import Split

    return Split(module, after)


def gradients_of(
    profile: Profile, samples: "Sequence[Array | torch.Tensor]", dtype: str = "float32", seed: int = 0
) -> "Iterator[Array]":
    """For each sample in turn the gradient of what the profile's head makes of it, for `fit`.

    Memory is that of the head's weights and of one sample's way through it.

    Args:
        profile: of the model, at its split; its weights are fetched where they are missing.
        samples: features at the split.
        dtype: float32 or bfloat16, of the head.
        seed: of the random tokens or signs that the head takes.

    Raises:
        InputError: the family's head tells no gradients, or the weights are not available.
    """
    import torch

    family = plugins.load(plugins.HEADS, profile.spec.family)
    head = family(weights_folder(profile.spec), profile, torch.device("cpu"), getattr(torch, dtype))
    if not hasattr(head, "gradient"):
        problem = f"the head of family {profile.spec.family} tells none"
        raise InputError(field="gradients", problem=problem, remedy="Fit without gradients")
    generator = torch.Generator().manual_seed(seed)
    for sample in samples:
        array = as_array(sample).astype(np.float32)
        profile.layout.check(array.shape)
        single = profile.layout.single(array.shape)
        of_each = []
        for one in array.reshape(-1, *single):  # crops of an image
            head.check(single)
            of_each.append(head.gradient(as_tensor(one), generator).numpy())
        yield np.stack(of_each).reshape(array.shape)


def _profile_for(shape: tuple[int, ...], layout: str, name: str, prefix: int) -> Profile:
    if layout not in Family.__members__:
        raise InputError(field="layout", problem=layout, remedy=f"Use one of {', '.join(Family)}")
    family = Family(layout)
    any_width = Layout(family=family, prefix=prefix)
    channels = any_width.rows_shape(shape)[-1]
    try:
        patch = LATENT_PATCH if family == Family.latent and not any(side % LATENT_PATCH for side in shape[-2:]) else 1
        sizes = LayoutSpec(family=family, channels=channels, prefix=prefix, patch=patch)
        spec = ProfileSpec(name=name, layout=sizes)
    except ValidationError as error:
        remedy = "Name it in lower-case letters, digits, dots and dashes"
        raise InputError(field="name", problem=repr(name), remedy=remedy) from error
    return Profile(spec=spec, split=0, calibration={})
