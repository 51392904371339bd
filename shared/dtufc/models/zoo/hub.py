"""A repository of the Hugging Face hub: of all variants of its weights, the one that is read.

A repository often holds the same weights several times: as safetensors and as a pickle, in float16, for other
frameworks, as one file and in shards. `wanted_files` knows which of them `from_pretrained` reads.
"""

import glob
import re
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Final

from dtufc.errors import InputError
from dtufc.models.cache import disk_full, is_disk_full, sha256_of
from dtufc.models.zoo.folders import check_folder

_TEXTS: Final = (".json", ".model", ".txt", ".jinja")  # configs, tokenizers, templates
_BASE: Final = r"(model|diffusion_pytorch_model|pytorch_model)"
_SHARD: Final = r"-\d{5}-of-\d{5}"
_FORMATS: Final = ("safetensors", "bin")  # the better first
_HEAD: Final = "head"  # where a profile's own head lies, beside its backbone
_TEMPLATES: Final = "additional_chat_templates"
_SHA256: Final = re.compile("[0-9a-f]{64}")
_CONFIGS: Final = ("config.json", "model_index.json")


def wanted_files(names: Sequence[str]) -> list[str]:
    """The files of a repository that are needed to load its model in full precision.

    A model needs what lies at the top. A pipeline (one with a model_index.json) needs the folders of its components,
    which have configs of their own, and no weights at the top. In each folder one set of weights is taken: safetensors
    before a pickle, one file before shards, never a variant such as fp16.

    Args:
        names: of all files, with `/` between folders.
    """
    folders: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        path = PurePosixPath(name)
        folders["" if path.parent == PurePosixPath() else str(path.parent)].append(path.name)
    is_pipeline = "model_index.json" in folders[""]
    wanted: list[str] = []
    for folder, files in folders.items():
        if folder and not _is_needed(folder, files, is_pipeline=is_pipeline):
            continue
        taken = [name for name in files if name.endswith(_TEXTS) and ".index." not in name]
        if folder or not is_pipeline:
            taken += _weights(files)
        wanted += [f"{folder}/{name}" if folder else name for name in taken]
    return sorted(wanted)


def _is_needed(folder: str, files: Sequence[str], *, is_pipeline: bool) -> bool:
    if folder in (_HEAD, _TEMPLATES):
        return True
    return is_pipeline and "/" not in folder and any(name.endswith("config.json") for name in files)


def _weights(files: Sequence[str]) -> list[str]:
    """One set of weights out of a folder's files, with its index where it is in shards."""
    for suffix in _FORMATS:
        single = [name for name in files if re.fullmatch(rf"{_BASE}\.{suffix}", name)]
        if single:
            return single[:1]
        shards = [name for name in files if re.fullmatch(rf"{_BASE}{_SHARD}\.{suffix}", name)]
        if shards:
            return [*shards, *(name for name in files if re.fullmatch(rf"{_BASE}\.{suffix}\.index\.json", name))]
    return []


def fetch_snapshot(hub: str, revision: str, *, is_read: bool = False) -> Path:
    """The folder of a repository's snapshot, fetched as far as it is not in the hub's own cache.

    Without a network, or with HF_HUB_OFFLINE=1, what is in that cache is taken.

    Args:
        hub: the repository.
        revision: of it.
        is_read: compare what is in that cache with its SHA-256, and fetch anew what is damaged.

    Raises:
        InputError: it cannot be fetched, has no weights that can be read, or is in the cache in part only.
    """
    try:
        from huggingface_hub import HfApi, snapshot_download
        from huggingface_hub.constants import HF_HUB_CACHE
    except ModuleNotFoundError as error:
        problem, remedy = f"{error.name} is not installed", "Install it: pip install 'dtufc[edge]'"
        raise InputError(field="weights", problem=problem, remedy=remedy) from error
    try:
        # `list_repo_files` would ask five times more where there is no network, for half a minute.
        info = HfApi().model_info(hub, revision=revision, files_metadata=True)
        sizes: dict[str, int] = {file.rfilename: file.size or 0 for file in info.siblings}
    except Exception as error:  # of the HTTP library: which one depends on the release of huggingface_hub
        return _from_cache(hub, revision, error)
    wanted = wanted_files(list(sizes))
    if not any(PurePosixPath(name).suffix.removeprefix(".") in _FORMATS for name in wanted):
        problem = f"{hub}@{revision} has no weights that transformers or diffusers reads, among {len(sizes)} files"
        remedy = "Give a repository with model.safetensors or pytorch_model.bin"
        raise InputError(field="weights", problem=problem, remedy=remedy)
    patterns = [glob.escape(name) for name in wanted]
    try:
        folder = Path(snapshot_download(hub, revision=revision, allow_patterns=patterns))
        if is_read and _discard_damaged(folder):
            folder = Path(snapshot_download(hub, revision=revision, allow_patterns=patterns))
    except Exception as error:
        if is_disk_full(error):
            raise disk_full(Path(HF_HUB_CACHE), sum(sizes[name] for name in wanted), setting="HF_HOME") from error
        raise _not_available(hub, revision, error) from error
    check_folder(folder)
    return folder


def _discard_damaged(folder: Path) -> bool:
    """Removes files whose contents are others than the hub's, and names them; whether there were any.

    In the hub's cache a large file's name is the SHA-256 of its contents, and the snapshot links to it.
    """
    damaged = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and _SHA256.fullmatch(path.resolve().name) and sha256_of(path) != path.resolve().name
    ]
    for path in damaged:
        print(f"{path} is damaged. It is fetched anew.", file=sys.stderr, flush=True)
        path.resolve().unlink()
        path.unlink()
    return bool(damaged)


def _from_cache(hub: str, revision: str, cause: Exception) -> Path:
    """A snapshot in the hub's cache. Its files are chosen already: only that it has a config is asked."""
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(hub, revision=revision, local_files_only=True, allow_patterns=list(_CONFIGS))
    except (OSError, ValueError) as error:
        raise _not_available(hub, revision, cause) from error
    check_folder(Path(folder))
    return Path(folder)


def _not_available(hub: str, revision: str, error: Exception) -> InputError:
    problem = " ".join(str(error).split()) or type(error).__name__
    return InputError(
        field="weights",
        problem=f"{hub}@{revision} is not available from the hub: {problem}",
        remedy="Check the id and the network, log in with `hf auth login`, or give a folder",
    )
