"""Some tensors out of a `save_pretrained` folder: each side reads only the layers that it runs."""

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from dtufc.errors import InputError


def read_tensors(folder: Path, wanted: Mapping[str, str], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Reads `{our name: name in the folder}` from one or several safetensors files, as `dtype`.

    Raises:
        InputError: a tensor is missing or a file cannot be read.
    """
    try:
        where = _files(folder)
        by_file: defaultdict[Path, list[tuple[str, str]]] = defaultdict(list)
        for ours, theirs in wanted.items():
            by_file[where[theirs]].append((ours, theirs))
        tensors: dict[str, torch.Tensor] = {}
        for path, names in by_file.items():
            with safe_open(path, "pt") as file:
                for ours, theirs in names:
                    tensors[ours] = file.get_tensor(theirs).to(dtype)
    except (KeyError, OSError, SafetensorError) as error:
        raise InputError(field="weights", problem=f"{folder}: {error}", remedy="Fetch the weights anew") from error
    return tensors


def fill(module: nn.Module, tensors: Mapping[str, torch.Tensor], device: torch.device) -> None:
    """Puts tensors into a module that was built on the meta device, and readies it for inference."""
    module.load_state_dict(dict(tensors), strict=True, assign=True)
    module.to(device).eval().requires_grad_(False)


def tensor_names(folder: Path) -> set[str]:
    """The names of all tensors in the folder."""
    return set(_files(folder))


def _files(folder: Path) -> dict[str, Path]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return {name: folder / file for name, file in names.items()}
    path = folder / "model.safetensors"
    with safe_open(path, "pt") as file:
        return dict.fromkeys(file.keys(), path)
