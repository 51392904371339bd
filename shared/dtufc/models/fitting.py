"""The library's front: the feature codec of a shipped profile, or of any model from about ten of its features."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from dtufc.coding.arrays import Array
from dtufc.coding.codecs.klt_fit import Progress
from dtufc.coding.feature_codec import FeatureCodec, fit_calibration
from dtufc.coding.features import as_array, as_arrays
from dtufc.coding.layout import Family, Layout
from dtufc.coding.tuple_codec import INDEX_NAME
from dtufc.coding.wrong_layout import check_samples
from dtufc.errors import InputError
from dtufc.models.profile import LATENT_PATCH, LayoutSpec, Profile, ProfileSpec, load_profile

NUM_SAMPLES: Final = 16  # that a profile is fitted to, where its model's inputs are given
NUM_HELD_OUT: Final = 4

if TYPE_CHECKING:
    import torch

    from dtufc.models.hooks import Split


def load(profile: str | Path, *, split: int | None = None) -> FeatureCodec:
    """The feature codec of a shipped profile, or of a profile in a folder.

    Args:
        profile: a name that `dtufc models` lists, or a folder with a `profile.yaml`.
        split: layers that run on the edge; the profile's own by default.

    Raises:
        InputError: there is no such profile, or the model has no such split; or the folder is one of tuples.
    """
    with suppress(OSError):  # no name that a folder can have, which load_profile says
        if (Path(profile) / INDEX_NAME).is_file():
            problem = f"{profile} holds the profiles of a tuple's positions"
            raise InputError(field="profile", problem=problem, remedy="Load it with dtufc.load_tuple")
    return FeatureCodec(load_profile(profile, split))


def fit(
    samples: "Sequence[Array | torch.Tensor]",
    *,
    layout: str | None = None,
    axes: str | None = None,
    name: str = "custom",
    prefix: int = 0,
    gradients: "Sequence[Array | torch.Tensor] | None" = None,
    profile: Profile | None = None,
    learned: bool = True,
    progress: Progress = lambda share: None,
) -> FeatureCodec:
    """A feature codec for any model, from about ten of its features, in seconds.

    Args:
        samples: features, each of a shape that the layout knows; finite.
        layout: llm, vit, latent or cnn (`dtufc.coding.layout`); llm where there are no axes either.
        axes: instead of layout: the order of the axes by name, as "NHWC" or "CT" (`dtufc.coding.axes`).
        name: of the profile.
        prefix: tokens before the grid; for vit.
        gradients: of what the rest of the model makes of each sample, of the same shape, or several in one array
            [k, ...]: bits then go where the result depends on them. Without them, errors count alike everywhere.
            `gradients_of` takes them from a profile's own head.
        profile: fit this model at this split; instead of layout, axes, name and prefix.
        learned: whether the learned codecs are fitted too: measuring what a quality means for them takes seconds.
        progress: is told the share of the work that is done.

    Raises:
        InputError: no sample, or one that does not fit the layout or the others, or looks as if it were of another
            layout (`dtufc.coding.wrong_layout`).
    """
    arrays = as_arrays(samples)
    if axes is not None and (layout is not None or prefix or profile is not None):
        problem = "axes together with a layout, a prefix or a profile"
        raise InputError(field="axes", problem=problem, remedy="Give axes alone, or none")
    if profile is None:
        wanted = _layout_for(layout or Family.llm, prefix) if axes is None else Layout.of_axes(axes)
        profile = _profile_for([array.shape for array in arrays], wanted, name)
    calibration, report = fit_calibration(arrays, profile.layout, gradients, progress, learned=learned)
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
        dtype: of the head: float32, bfloat16, float16, or auto (`dtufc.models.measuring.Pair`).
        seed: of the random tokens or signs that the head takes.

    Raises:
        InputError: the family's head tells no gradients, or the weights are not available.
    """
    import torch

    from dtufc.models.measuring import Pair

    pair = Pair(profile, dtype)
    generator = torch.Generator().manual_seed(seed)
    yield from (pair.gradient(as_array(sample), generator) for sample in samples)


def _layout_for(family: str, prefix: int) -> Layout:
    if family not in Family.__members__:
        raise InputError(field="layout", problem=family, remedy=f"Use one of {', '.join(Family)}")
    return Layout(family=Family(family), prefix=prefix)


def _profile_for(shapes: Sequence[tuple[int, ...]], layout: Layout, name: str) -> Profile:
    """A profile without a model, of samples of these shapes; the layout names no channels and no patch."""
    check_samples(layout, shapes)
    is_even = not any(side % LATENT_PATCH for side in shapes[0][-2:])
    try:
        sizes = LayoutSpec(
            family=layout.family,
            channels=layout.rows_shape(shapes[0])[-1],
            prefix=None if layout.axes else layout.prefix,
            patch=LATENT_PATCH if layout.family == Family.latent and is_even else 1,
            axes=layout.axes,
        )
        spec = ProfileSpec(name=name, layout=sizes)
    except ValidationError as error:
        remedy = "Name it in lower-case letters, digits, dots and dashes"
        raise InputError(field="name", problem=repr(name), remedy=remedy) from error
    return Profile(spec=spec, split=0, calibration={})
