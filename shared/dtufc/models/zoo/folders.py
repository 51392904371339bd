"""A folder of weights of the user's, or of a hub: what it holds, and whether its files are whole.

Only names, sizes and headers are read. A file that was cut short would otherwise be found by the kernel, as a bus
error, or not at all.
"""

import json
from pathlib import Path
from typing import Final
from zipfile import is_zipfile

from dtufc.errors import InputError
from dtufc.models.cache import require_readable

_INDEX: Final = ".safetensors.index.json"
_POINTER: Final = b"version https://git-lfs"  # what `git clone` leaves where Git LFS is not installed
_ZIP: Final = b"PK"
_PIPELINE: Final = "model_index.json"
_VOCABULARIES: Final = ("tokenizer.json", "vocab.json", "vocab.txt", "*.model")
_CONFIGS: Final = ("*config.json",)
_LARGEST_HEADER: Final = 100_000_000  # bytes, as safetensors has it


def holds_model(folder: Path) -> bool:
    """A model's config, or the index of a pipeline's parts."""
    return any((folder / name).is_file() for name in ("config.json", _PIPELINE))


def find_gguf(path: Path) -> Path | None:
    """The GGUF that a source names: a file itself, or the only one in a folder without a config.

    Raises:
        InputError: a file of another format, or a folder of several GGUFs.
    """
    if path.is_file():
        if path.suffix == ".gguf":
            return path
        raise InputError(field="source", problem=f"{path} is no GGUF", remedy="Give a .gguf file or a folder")
    if not path.is_dir() or holds_model(path):
        return None
    found = sorted(path.glob("*.gguf"))
    if len(found) > 1:
        problem = f"{path} holds {len(found)} GGUF files: {', '.join(file.name for file in found[:4])}"
        remedy = "Give the path of one; join a split model first, with `llama-gguf-split --merge`"
        raise InputError(field="source", problem=problem, remedy=remedy)
    return found[0] if found else None


def check_folder(folder: Path) -> None:
    """Raises InputError for a folder without a model, and for one with a file that is missing or cut short."""
    if not holds_model(folder):
        remedy = "Give a save_pretrained folder, or a GGUF"
        raise InputError(field="source", problem=f"no model in {folder}", remedy=remedy)
    if not any(any(folder.glob(f"**/*.{suffix}")) for suffix in ("safetensors", "bin")):
        raise _broken(folder, "holds a config and no weights (*.safetensors or *.bin)", "Copy the weights there too")
    require_readable(path for path in folder.rglob("*") if path.is_file())
    if (folder / _PIPELINE).is_file():
        _check_parts(folder / _PIPELINE)
    for index in sorted(folder.glob(f"**/*{_INDEX}")):
        _check_shards(index)
    for path in sorted(folder.glob("**/*.bin")):
        _check_pickle(path)
    for path in sorted(folder.glob("**/*.safetensors")):
        _check_safetensors(path)


def _check_parts(index: Path) -> None:
    """The parts of a pipeline: for one without a vocabulary or configuration, transformers makes an empty one up."""
    try:
        parts = json.loads(index.read_text(encoding="utf-8")).items()
    except (ValueError, AttributeError) as error:
        raise _broken(index, f"is no index of a pipeline's parts ({error})") from error
    for name, kind in parts:
        if not isinstance(kind, list) or not kind[0]:  # a setting of the pipeline's own, or a part that it does without
            continue
        wanted = _VOCABULARIES if name.startswith("tokenizer") else _CONFIGS
        if not any(any((index.parent / name).glob(pattern)) for pattern in wanted):
            raise _broken(index.parent / name, f"has no {' or '.join(wanted)}")


def _check_shards(index: Path) -> None:
    if index.with_name(index.name.removesuffix(".index.json")).is_file():  # one file of all: the index is not used
        return
    try:
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise _broken(index, f"is no index of shards ({error})") from error
    for name in shards:
        if not (index.parent / name).is_file():
            raise _broken(index.parent / name, f"is missing; {index.name} names it")


def _check_pickle(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(len(_ZIP))
    if not start or (start == _ZIP and not is_zipfile(path)):  # the index of a zip is its end; older pickles are none
        raise _broken(path, f"has {path.stat().st_size} bytes and is cut short")


def _check_safetensors(path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if start and _POINTER.startswith(start):
            raise _broken(path, "is a pointer of Git LFS", "Get the files: git lfs pull")
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > min(size - 8, _LARGEST_HEADER):
            raise _broken(path, f"has {size} bytes and is cut short")
        try:
            header = json.loads(file.read(length))
            end = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise _broken(path, "has no header of safetensors") from error
    if size != 8 + length + end:
        raise _broken(path, f"has {size} bytes, and its header says {8 + length + end}")


def _broken(path: Path, problem: str, remedy: str = "Copy or download the file again") -> InputError:
    return InputError(field="weights", problem=f"{path} {problem}", remedy=remedy)
