"""A convolutional classifier in stages, of which each side builds its own.

No forward pass is copied: a stage is some of the model's modules in their order, and a part is a run of stages. Stages
are numbered from 1, and the last ends before the pooling: 4 of a ResNet, 8 of an EfficientNet (seven of blocks, one for
the convolution behind them). An EfficientNet without squeeze and excitation (`squeeze_expansion_ratio` 0) is a Lite.
Weights of a ResNet may have torchvision's names.
"""

import re
from collections.abc import Callable, Mapping
from itertools import accumulate, pairwise
from math import ceil
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn
from transformers import AutoModelForImageClassification

from dtufc.errors import InputError
from dtufc.models.preprocess import View
from dtufc.models.split import read_config
from dtufc.models.zoo.tensors import fill, read_tensors, tensor_names


def read_stages(
    folder: Path, first: int, end: int | None, *, classifies: bool, device: torch.device, dtype: torch.dtype
) -> nn.Sequential:
    """Stages first ... end - 1, counted from 0, and where it classifies, pooling and classifier behind them.

    Raises:
        InputError: a folder of another model, or fewer stages than `end`.
    """
    model = empty_model(folder)
    body, stages = _body_and_stages(model, end or first)
    behind = [body.pooler, nn.Flatten(), model.classifier] if classifies else []
    part = nn.Sequential(*stages[first:end], *behind)
    stored = {id(tensor): name for name, tensor in model.state_dict(keep_vars=True).items()}
    names = {name: stored[id(tensor)] for name, tensor in part.state_dict(keep_vars=True).items()}
    if model.config.model_type == "resnet" and "conv1.weight" in tensor_names(folder):
        names = {name: _as_torchvision(their) for name, their in names.items()}
    counts = {name: torch.tensor(0) for name in names if name.endswith("num_batches_tracked")}  # for training alone
    wanted = {name: their for name, their in names.items() if name not in counts}
    fill(part, counts | read_tensors(folder, wanted, dtype), device)
    return part


# Modules of a ResNet as transformers names them -> as torchvision does.
_TORCHVISION: Final = (
    (r"resnet\.embedder\.embedder\.convolution", "conv1"),
    (r"resnet\.embedder\.embedder\.normalization", "bn1"),
    (r"resnet\.encoder\.stages\.(\d+)\.layers\.(\d+)\.layer\.(\d+)\.convolution", "layer{0}.{1}.conv{2}"),
    (r"resnet\.encoder\.stages\.(\d+)\.layers\.(\d+)\.layer\.(\d+)\.normalization", "layer{0}.{1}.bn{2}"),
    (r"resnet\.encoder\.stages\.(\d+)\.layers\.(\d+)\.shortcut\.convolution", "layer{0}.{1}.downsample.0"),
    (r"resnet\.encoder\.stages\.(\d+)\.layers\.(\d+)\.shortcut\.normalization", "layer{0}.{1}.downsample.1"),
    (r"classifier\.1", "fc"),
)


def _as_torchvision(name: str) -> str:
    """The name of a ResNet's tensor in a checkpoint of torchvision, whose stages and convolutions count from 1."""
    module, _, kind = name.rpartition(".")
    for pattern, theirs in _TORCHVISION:
        match = re.fullmatch(pattern, module)
        if match:
            numbers = [int(number) for number in match.groups()]
            counted = [number + (place != 1) for place, number in enumerate(numbers)]
            return f"{theirs.format(*counted)}.{kind}"
    raise AssertionError(name)


def features_shape(folder: Path, split: int) -> tuple[int, int, int]:
    """(C, h, w) of the features behind stage `split`. Raises InputError as `read_stages` and `View.read` do."""
    _, stages = _body_and_stages(empty_model(folder), split)
    side = View.read(folder).side
    shape = nn.Sequential(*stages[:split]).eval()(torch.empty(1, 3, side, side, device="meta")).shape
    return shape[1], shape[2], shape[3]


def empty_model(folder: Path) -> Any:
    """The whole model of a folder, without weights."""
    config = read_config(folder)
    if not can_cut(config):
        known = " or ".join(_STAGES)
        raise InputError(field="model", problem=f"{folder} holds a {config.model_type}", remedy=f"Give a {known}")
    with torch.device("meta"):
        model = AutoModelForImageClassification.from_config(config)
        drop_excitation(model)
    return model


def can_cut(config: Any) -> bool:
    """Whether a configuration is of a convolutional classifier whose stages are known."""
    return getattr(config, "model_type", None) in _STAGES


def drop_excitation(model: nn.Module) -> None:
    """Makes an EfficientNet a Lite one, where its config has no squeeze and excitation."""
    config: Any = model.config
    if getattr(config, "squeeze_expansion_ratio", None) == 0:
        blocks: Any = model.get_submodule("efficientnet.encoder.blocks")
        for block in blocks:
            block.squeeze_excite = nn.Identity()


def num_stages(folder: Path) -> int:
    """How many stages the whole model has. Raises InputError for a folder of another model."""
    return len(_body_and_stages(empty_model(folder), 0)[1])


def _body_and_stages(model: Any, split: int) -> tuple[Any, list[nn.Sequential]]:
    """The model without its classifier, and the stages of it. Raises InputError where there are fewer than `split`."""
    body = getattr(model, model.config.model_type)
    stages = _STAGES[model.config.model_type](body)
    if split > len(stages):
        problem = f"{len(stages)} stages, split after {split}"
        raise InputError(field="split", problem=problem, remedy=f"Give 1 to {len(stages)}")
    return body, stages


def _efficientnet_stages(body: Any) -> list[nn.Sequential]:
    config, encoder = body.config, body.encoder
    repeats = (ceil(config.depth_coefficient * count) for count in config.num_block_repeats)
    cuts = list(pairwise(accumulate(repeats, initial=0)))
    stages = [nn.Sequential(*encoder.blocks[start:end]) for start, end in cuts]
    stages[0].insert(0, body.embeddings)
    return [*stages, nn.Sequential(encoder.top_conv, encoder.top_bn, encoder.top_activation)]


def _resnet_stages(body: Any) -> list[nn.Sequential]:
    first, *others = (nn.Sequential(stage) for stage in body.encoder.stages)
    first.insert(0, body.embedder)
    return [first, *others]


_STAGES: Final[Mapping[str, Callable[[Any], list[nn.Sequential]]]] = {
    "efficientnet": _efficientnet_stages,
    "resnet": _resnet_stages,
}
