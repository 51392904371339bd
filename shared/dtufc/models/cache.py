"""The cache: folders that are whole, or are made again.

Hides locks, scratch space, manifests, permissions and full disks. A folder is made in a scratch folder beside its
place, gets a manifest of its files, and is then moved there in one step. So what is found is either whole or recognised
as broken. A start of a service compares the sizes of the files, which costs nothing; `dtufc fetch` reads them.

    models/NAME                 with .manifest.json: {"files": {name: size in bytes}, "sha256": {name: of the contents}}
    models/.NAME.lock           held by the process that makes it
    models/.NAME.scratch        what that process makes; of a process that was killed, removed by the next

Whoever may read the folder may read its files: they get the mode that the umask gives, whoever wrote them.
"""

import errno
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from typing import Any, Final

from dtufc.errors import InputError

MANIFEST: Final = ".manifest.json"
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_UNWRITABLE: Final = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EFBIG, errno.EIO)
_TOO_LONG: Final = "os error 27"  # EFBIG from Rust
_SCRATCH: Final = ".scratch"
_FULL_TEXTS: Final = ("No space left on device", "Disk quota exceeded", "os error 28", "os error 122")  # from Rust too


def cache_folder() -> Path:
    """Where weights are kept: DTUFC_CACHE, or `dtufc` in the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dtufc"
    return Path(os.environ.get("DTUFC_CACHE") or default)


def is_whole(folder: Path) -> bool:
    """Whether every file that the folder's manifest names is there, with its size.

    Raises:
        InputError: this user may not read it.
    """
    with readable():
        try:
            sizes: dict[str, int] = _manifest(folder)["files"]
            if not all((folder / name).stat().st_size == size for name, size in sizes.items()):
                return False
        except PermissionError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # no manifest, or a broken one
            return False
        require_readable(folder / name for name in sizes)
    return True


def discard_damaged(folder: Path) -> None:
    """Reads a folder that is whole: one whose contents are others than when it was made is not whole any more.

    A line on stderr names the files. The manifest of an older release, which has no SHA-256, gets it here: what is
    found counts as right.
    """
    manifest = _manifest(folder)
    known: dict[str, str] | None = manifest.get("sha256")
    found = {name: sha256_of(folder / name) for name in manifest["files"]}
    if known is None:
        if os.access(folder, os.W_OK):
            _write_json(folder / MANIFEST, {**manifest, "sha256": found})
    elif damaged := [name for name in found if found[name] != known.get(name)]:
        print(f"{folder}: damaged: {', '.join(damaged)}. It is made anew.", file=sys.stderr, flush=True)
        (folder / MANIFEST).unlink()


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's contents, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def readable() -> Iterator[None]:
    """Turns a file that this user may not read into an InputError that names it."""
    try:
        yield
    except PermissionError as error:
        if error.filename is None:
            raise
        raise _unreadable(Path(error.filename)) from error


def require_readable(paths: Iterable[Path]) -> None:
    """Raises InputError for the first file that this user may not read."""
    for path in paths:
        if not os.access(path, os.R_OK) and path.exists():
            raise _unreadable(path)


def _unreadable(path: Path) -> InputError:
    remedy = f"Let this user read it: chmod -R a+rX {path.parent}"
    return InputError(field="weights", problem=f"{path} cannot be read: permission denied", remedy=remedy)


def build(folder: Path, make: Callable[[Path], None], *, needed_bytes: int = 0) -> None:
    """Makes a folder of the cache, unless it is whole already; one process at a time.

    Args:
        folder: its place. What is there and not whole is replaced.
        make: fills the empty folder that it is given. It may put other scratch files beside that folder.
        needed_bytes: free space that `make` needs, as far as is known.

    Raises:
        InputError: the disk has less space than is needed, or the cache cannot be written. What `make` raises.
    """
    with writable(folder.parent, needed_bytes):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            if is_whole(folder):  # another process was quicker
                return
            scratch = folder.parent / f".{folder.name}{_SCRATCH}"
            _remove(scratch)  # of a process that was killed
            require_space(folder.parent, needed_bytes)
            try:
                partial = scratch / "whole"
                partial.mkdir(parents=True)
                make(partial)
                _write_manifest(partial)
                _share(partial)
                _remove(folder)
                partial.replace(folder)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process makes a folder at a time; whoever waits says so."""
    with (folder.parent / f".{folder.name}.lock").open("w") as lock:
        try:
            flock(lock, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process, which makes {folder}", file=sys.stderr, flush=True)
            flock(lock, LOCK_EX)
        yield


def remove_scratch() -> None:
    """Removes what killed processes left in the cache; what a process is making, and a read-only cache, stay."""
    for scratch in cache_folder().glob(f"*/.*{_SCRATCH}"):
        with suppress(OSError), scratch.with_suffix(".lock").open("w") as lock:
            flock(lock, LOCK_EX | LOCK_NB)
            shutil.rmtree(scratch)


def require_space(folder: Path, needed_bytes: int) -> None:
    """Raises InputError where the disk of `folder` has less free space than is needed."""
    if shutil.disk_usage(folder).free < needed_bytes:
        raise disk_full(folder, needed_bytes)


@contextmanager
def writable(folder: Path, needed_bytes: int) -> Iterator[None]:
    """Turns a disk that became full, and a cache that cannot be written, into an InputError."""
    try:
        yield
    except Exception as error:
        if is_disk_full(error):
            raise disk_full(folder, needed_bytes) from error
        if (isinstance(error, OSError) and error.errno in _UNWRITABLE) or _TOO_LONG in str(error):
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


def _manifest(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    return loaded


def _write_manifest(folder: Path) -> None:
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    sizes = {name: path.stat().st_size for name, path in files.items()}
    hashes = {name: sha256_of(path) for name, path in files.items()}
    _write_json(folder / MANIFEST, {"files": sizes, "sha256": hashes})


def _write_json(path: Path, content: dict[str, Any]) -> None:
    scratch = path.with_suffix(f".{os.getpid()}")
    scratch.write_text(json.dumps(content, indent=1), encoding="utf-8")
    scratch.replace(path)


def _share(folder: Path) -> None:
    """Gives files and folders the modes of the umask, as the manifest has it: safetensors writes for its user alone."""
    mode, folder_mode = (folder / MANIFEST).stat().st_mode, folder.stat().st_mode
    for path in folder.rglob("*"):
        if not path.is_symlink():
            path.chmod(folder_mode if path.is_dir() else mode)


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
