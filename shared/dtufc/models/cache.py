"""The cache: folders that are whole, or are made again.

Hides locks, scratch space, manifests and full disks. A folder is made in a scratch folder beside its place, gets a
manifest of its files, and is then moved there in one step. So what is found is either whole or recognised as broken.

    models/NAME                 with .manifest.json: {"files": {name: size in bytes}}
    models/.NAME.lock           held by the process that makes it
    models/.NAME.scratch        what that process makes; of a process that was killed, removed by the next
"""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fcntl import LOCK_EX, flock
from pathlib import Path
from typing import Final

from dtufc.errors import InputError

MANIFEST: Final = ".manifest.json"
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_FULL_TEXTS: Final = ("No space left on device", "Disk quota exceeded", "os error 28", "os error 122")  # from Rust too


def cache_folder() -> Path:
    """Where weights are kept: DTUFC_CACHE, or `dtufc` in the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dtufc"
    return Path(os.environ.get("DTUFC_CACHE") or default)


def is_whole(folder: Path) -> bool:
    """Whether every file that the folder's manifest names is there, with its size."""
    try:
        sizes: dict[str, int] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # no manifest, or a broken one
        return False


def build(folder: Path, make: Callable[[Path], None], *, needed_bytes: int = 0) -> None:
    """Makes a folder of the cache, unless it is whole already; one process at a time.

    Args:
        folder: its place. What is there and not whole is replaced.
        make: fills the empty folder that it is given. It may put other scratch files beside that folder.
        needed_bytes: free space that `make` needs, as far as is known.

    Raises:
        InputError: the disk has less space than is needed, or the cache cannot be written. What `make` raises.
    """
    with _writable(folder.parent, needed_bytes):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with (folder.parent / f".{folder.name}.lock").open("w") as lock:
            flock(lock, LOCK_EX)
            if is_whole(folder):  # another process was quicker
                return
            scratch = folder.parent / f".{folder.name}.scratch"
            _remove(scratch)  # of a process that was killed
            require_space(folder.parent, needed_bytes)
            try:
                partial = scratch / "whole"
                partial.mkdir(parents=True)
                make(partial)
                _write_manifest(partial)
                _remove(folder)
                partial.replace(folder)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)


def require_space(folder: Path, needed_bytes: int) -> None:
    """Raises InputError where the disk of `folder` has less free space than is needed."""
    if shutil.disk_usage(folder).free < needed_bytes:
        raise disk_full(folder, needed_bytes)


@contextmanager
def _writable(folder: Path, needed_bytes: int) -> Iterator[None]:
    """Turns a disk that became full, and a cache that cannot be written, into an InputError."""
    try:
        yield
    except Exception as error:
        if is_disk_full(error):
            raise disk_full(folder, needed_bytes) from error
        if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
            remedy = "Give a folder that can be written, with DTUFC_CACHE"
            raise InputError(field="cache", problem=f"{folder}: {error}", remedy=remedy) from error
        raise


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or one that caused it, says that a disk is full: libraries wrap it in errors of their own."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        if not isinstance(error, InputError) and any(text in str(error) for text in _FULL_TEXTS):
            return True
        error = error.__cause__ or error.__context__
    return False


def disk_full(folder: Path, needed_bytes: int, *, setting: str = "DTUFC_CACHE") -> InputError:
    """The error of a disk that is too full, which says how much is needed, where, and what setting moves it."""
    free = shutil.disk_usage(folder).free
    need = f"about {needed_bytes / 1e6:.0f} MB are needed" if needed_bytes else "more is needed"
    return InputError(
        field="cache",
        problem=f"the disk of {folder} has {free / 1e6:.0f} MB free, and {need}",
        remedy=f"Free space there, or set {setting} to a folder on a larger disk",
    )


def _write_manifest(folder: Path) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
    (folder / MANIFEST).write_text(json.dumps({"files": sizes}, indent=1), encoding="utf-8")


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
