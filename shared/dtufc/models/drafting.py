"""A profile written from a model's own configuration: `dtufc init`."""

import re
from pathlib import Path
from typing import Final

from dtufc.coding.layout import Family
from dtufc.errors import InputError
from dtufc.models import plugins
from dtufc.models.capabilities import Draft
from dtufc.models.profile import FolderSource, HubSource, LayoutSpec, Profile, ProfileSpec, Source
from dtufc.models.zoo import weights_folder

_HUB_ID: Final = re.compile(r"(?P<hub>[\w.\-]+/[\w.\-]+)(@(?P<revision>[\w.\-/]+))?")


def draft_profile(source: str, split: int | None = None, *, name: str) -> Profile:
    """The profile of a model, from its configuration: family, layout, tasks, split. Fetches its weights.

    Args:
        source: a folder, a .gguf file, or an id of the hub (`org/name` or `org/name@revision`).
        split: layers that run on the edge; half of them by default.
        name: of the profile; what a name cannot hold becomes a dash.

    Raises:
        InputError: there is no such model, no family that is installed knows it, or it has no such split.
    """
    where = _source(source)
    name = re.sub(r"[^a-z0-9.\-]+", "-", name.lower()).strip("-.")[:63] or "custom"
    unknown = ProfileSpec(name=name, family="unknown", layout=LayoutSpec(family=Family.llm), split=1, source=where)
    family, draft = _family_of(weights_folder(unknown))
    chosen = max(1, draft.last_split // 2) if split is None else split
    if not 1 <= chosen <= draft.last_split:
        problem = f"{chosen} of {draft.last_split} places to cut"
        raise InputError(field="split", problem=problem, remedy=f"Give 1 to {draft.last_split}")
    spec = ProfileSpec(name=name, family=family, layout=draft.layout, split=chosen, source=where, tasks=draft.tasks)
    return Profile(spec=spec, split=chosen, calibration={})


def _source(source: str) -> Source:
    path = Path(source).expanduser()
    if path.exists():
        return FolderSource(folder=path.resolve())
    match = _HUB_ID.fullmatch(source)
    if match is None:
        problem = f"there is no file or folder {source}, and a model of the hub is named org/name"
        raise InputError(field="source", problem=problem, remedy="Name a folder, a .gguf file or a model of the hub")
    return HubSource(hub=match["hub"], revision=match["revision"] or "main")


def _family_of(folder: Path) -> tuple[str, Draft]:
    names = plugins.names(plugins.BACKBONES)
    for name in names:
        family = plugins.load(plugins.BACKBONES, name)
        draft = family.draft(folder) if hasattr(family, "draft") else None
        if draft is not None:
            return name, draft
    problem = f"{folder} holds a model of no family that is installed ({', '.join(names)})"
    remedy = "Write a family for it (docs/architecture.md), or fit a codec to its features: `dtufc fit NAME *.npy`"
    raise InputError(field="model", problem=problem, remedy=remedy)
