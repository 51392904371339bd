"""Families and tasks, found through entry points: a package of somebody else's adds one without a line changed here.

| group | what an entry names |
|---|---|
| dtufc.backbones | how the edge runs a family of models (`dtufc.models.capabilities`) |
| dtufc.heads | how the cloud runs it |
| dtufc.edge_tasks | a class of `dtufc_edge.tasks`: what a client can ask |
| dtufc.cloud_tasks | a class of `dtufc_cloud.tasks`: what the cloud makes of the features |
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dtufc.errors import InputError
from dtufc.models.profile import Profile
from dtufc.models.zoo import weights_folder

if TYPE_CHECKING:
    import torch

BACKBONES = "dtufc.backbones"
HEADS = "dtufc.heads"
EDGE_TASKS = "dtufc.edge_tasks"
CLOUD_TASKS = "dtufc.cloud_tasks"


def names(group: str) -> list[str]:
    """What is installed of a group."""
    return sorted(_entries(group))


def load(group: str, name: str) -> Any:
    """The object that an entry names.

    Raises:
        InputError: no package that is installed has such an entry, or it cannot be imported.
    """
    entry = _entries(group).get(name)
    what = "family" if group in (BACKBONES, HEADS) else "task"
    if entry is None:
        remedy = f"Use one of {', '.join(names(group))}, or install the package that has it"
        raise InputError(field=what, problem=f"no {what} {name} is installed", remedy=remedy)
    try:
        return entry.load()
    except (ImportError, AttributeError) as error:
        problem = f"{entry.value} cannot be imported: {error}"
        raise InputError(field=f"{what} {name}", problem=problem, remedy="Install its package anew") from error


def completed(profile: Profile) -> Profile:
    """A profile with what it leaves to its model's configuration. Fetches its weights.

    Raises:
        InputError: the weights are not available.
    """
    family = load(BACKBONES, profile.spec.family)
    if not hasattr(family, "prefix_of"):
        return profile
    folder = weights_folder(profile.spec)
    with _all_files_of(folder):
        return profile.with_prefix(family.prefix_of(folder))


def built(group: str, profile: Profile, device: "torch.device", dtype: "torch.dtype") -> Any:
    """One side of a profile's model, by its family's entry in a group. Fetches its weights.

    Raises:
        InputError: no such family, or weights that are not available, or lack a file.
    """
    family = load(group, profile.spec.family)
    folder = weights_folder(profile.spec)
    with _all_files_of(folder):
        return family(folder, profile, device, dtype)


@contextmanager
def _all_files_of(folder: Path) -> Iterator[None]:
    """Turns a file that transformers, diffusers or safetensors does not find in a folder into an InputError."""
    try:
        yield
    except OSError as error:
        problem, remedy = f"{folder}: {' '.join(str(error).split())}", "Restore the file, or fetch the weights anew"
        raise InputError(field="weights", problem=problem, remedy=remedy) from error


def prove_cut(profile: Profile) -> bool:
    """Compares a profile's model, cut in two, with the whole, once; of any size. Fetches its weights.

    Returns:
        Whether there was something to compare: a family that runs a model's modules one after the other has nothing
        to prove. The cloud's image has no backbones; there the service itself compares when it starts.

    Raises:
        InputError: split and whole differ, or the weights are not available.
    """
    folder = weights_folder(profile.spec)
    entry = _entries(BACKBONES).get(profile.spec.family)
    if entry is not None and find_spec(entry.module.partition(".")[0]) is None:
        return False
    family = load(BACKBONES, profile.spec.family)
    if not hasattr(family, "prove"):
        return False
    with _all_files_of(folder):
        family.prove(folder, profile)
    return True


@lru_cache
def _entries(group: str) -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=group)}
