"""What the edge serves: all that depends on profiles and the way to the cloud. A reload replaces it as a whole."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dtufc.errors import InputError
from dtufc.models import plugins
from dtufc.models.capabilities import ImageFeatures, PatchFeatures, TokenFeatures
from dtufc.models.profile import Profile
from dtufc.serving.describe import profile_info
from dtufc.serving.passes import Passes
from dtufc.serving.telemetry import Telemetry
from dtufc.serving.worker import Worker
from dtufc.v1 import head_pb2
from dtufc_edge.cloud import Cloud
from dtufc_edge.detokenizer import TokenTexts
from dtufc_edge.pipeline import EdgePipeline


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedProfile:
    """One profile, loaded.

    Attributes:
        pipeline: of the profile.
        passes: through its backbone.
        token_texts: of its tokens, if it completes.
        info: what ListModels says of it.
    """

    pipeline: EdgePipeline
    passes: Passes[Sequence[int], Tensor]
    token_texts: TokenTexts | None
    info: head_pb2.ProfileInfo

    @classmethod
    def of(cls, pipeline: EdgePipeline, worker: Worker, telemetry: Telemetry) -> "ServedProfile":
        """Raises InputError for a task that no package has, or one that the profile's family cannot do."""
        profile, backbone = pipeline.profile, pipeline.backbone
        _check_tasks(pipeline)
        telemetry.expect(profile.name, pipeline.codec.codecs)
        completes = "complete" in profile.spec.tasks
        return cls(
            pipeline=pipeline,
            passes=Passes(worker, _together(backbone), telemetry.watch_passes(profile.name)),
            token_texts=TokenTexts(backbone.decode, backbone.plain_ids("a")) if completes else None,
            info=profile_info(profile, pipeline.codec, backbone.num_layers),
        )

    @classmethod
    def load(
        cls, device: torch.device, dtype: torch.dtype, worker: Worker, telemetry: Telemetry, profile: Profile
    ) -> "ServedProfile":
        """`of` a pipeline that is loaded now."""
        return cls.of(EdgePipeline(profile, device, dtype), worker, telemetry)


@dataclass(frozen=True, slots=True, kw_only=True, weakref_slot=True)
class Served:
    """What a call takes once, at its beginning, and finishes on.

    Attributes:
        profiles: by name; a request that names none gets the first that can do its task.
        cloud: that has their heads.
    """

    profiles: Mapping[str, ServedProfile]
    cloud: Cloud

    @property
    def takes_images(self) -> bool:
        """Whether a profile has a task of images."""
        return any(isinstance(p.pipeline.backbone, ImageFeatures | PatchFeatures) for p in self.profiles.values())

    def able(self, task: str, name: str) -> ServedProfile:
        """The profile for a request. Raises InputError where none of this name, or of any, can do the task."""
        able = {n: p for n, p in self.profiles.items() if task in p.pipeline.profile.spec.tasks}
        if name and name not in self.profiles:
            known = ", ".join(self.profiles)
            raise InputError(field="profile", problem=f"no profile {name} here", remedy=f"Use one of {known}")
        if not able or (name and name not in able):
            known = ", ".join(able) or "none is served here"
            raise InputError(field="profile", problem=f"{name or 'none'} can {task}", remedy=f"These can: {known}")
        return able[name] if name else next(iter(able.values()))


def _check_tasks(pipeline: EdgePipeline) -> None:
    for name in pipeline.profile.spec.tasks:
        needs = plugins.load(plugins.EDGE_TASKS, name)().needs
        if not isinstance(pipeline.backbone, needs):
            family = pipeline.profile.spec.family
            problem = f"{pipeline.profile.name} lists {name}, and family {family} has no {needs.__name__}"
            raise InputError(field="tasks", problem=problem, remedy="List tasks that the family can do")


def _together(backbone: Any) -> Callable[[Sequence[Any], Sequence[Sequence[int]]], Sequence[Tensor]] | None:
    """One pass for a token of each of several sequences; None where the family has no sequences, or cannot."""
    if not isinstance(backbone, TokenFeatures):
        return None
    backbone.cache_bytes(1)  # is measured now, and not in the first request
    if not backbone.shares_passes:
        return None
    return lambda states, parts: backbone.features_together(states, [part[0] for part in parts])
