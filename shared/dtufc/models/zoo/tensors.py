"""Some tensors out of a `save_pretrained` folder: each side reads only the layers that it runs.

Of a pytorch_model.bin, which is a pickle, tensors are read and nothing else; it is mapped, not loaded as a whole.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from pickle import UnpicklingError
from typing import Final
from zipfile import is_zipfile

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from dtufc.errors import InputError

_PICKLE: Final = "pytorch_model.bin"


def read_tensors(folder: Path, wanted: Mapping[str, str], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Reads `{our name: name in the folder}` from one or several files, as `dtype`.

    Raises:
        InputError: a tensor is missing or a file cannot be read.
    """
    where = _files(folder)
    by_file: defaultdict[Path, list[tuple[str, str]]] = defaultdict(list)
    for ours, theirs in wanted.items():
        if theirs not in where:
            raise InputError(field="weights", problem=f"{folder} lacks {theirs}", remedy="Restore the weights")
        by_file[where[theirs]].append((ours, theirs))
    tensors: dict[str, torch.Tensor] = {}
    for path, names in by_file.items():
        found = _read(path, [theirs for _, theirs in names])
        tensors |= {ours: found[theirs].to(dtype) for ours, theirs in names}
    return tensors


def fill(module: nn.Module, tensors: Mapping[str, torch.Tensor], device: torch.device) -> None:
    """Puts tensors into a module that was built on the meta device, and readies it for inference."""
    module.load_state_dict(dict(tensors), strict=True, assign=True)
    module.to(device).eval().requires_grad_(False)


def tensor_names(folder: Path) -> set[str]:
    """The names of all tensors in the folder. Raises InputError where its files cannot be read."""
    return set(_files(folder))


def _files(folder: Path) -> dict[str, Path]:
    path = folder / "model.safetensors"
    index = folder / f"{path.name}.index.json"
    try:
        if index.is_file():
            names: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            return {name: folder / file for name, file in names.items()}
        if not path.is_file() and (folder / _PICKLE).is_file():
            return dict.fromkeys(_unpickled(folder / _PICKLE, (folder / _PICKLE).stat().st_mtime_ns), folder / _PICKLE)
        with safe_open(path, "pt") as file:
            return dict.fromkeys(file.keys(), path)
    except (OSError, ValueError, KeyError, AttributeError, SafetensorError) as error:
        raise _unreadable(folder, error) from error


def _read(path: Path, names: Iterable[str]) -> dict[str, torch.Tensor]:
    try:
        if path.name == _PICKLE:
            state = _unpickled(path, path.stat().st_mtime_ns)
            return {name: state[name] for name in names}
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in names}
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from error


@lru_cache(maxsize=1)
def _unpickled(path: Path, _: int) -> dict[str, torch.Tensor]:
    try:
        is_zip = is_zipfile(path)  # the format of before torch 1.6 is none, and cannot be mapped
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except (UnpicklingError, RuntimeError, EOFError) as error:
        raise _unreadable(path, error) from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        problem = f"{path} is no state dict: names and tensors"
        raise InputError(field="weights", problem=problem, remedy="Save it with torch.save(model.state_dict(), ...)")
    return state


def _unreadable(path: Path, error: Exception) -> InputError:
    problem = f"{path}: {' '.join(str(error).split())}"
    return InputError(field="weights", problem=problem, remedy="Restore the weights")
