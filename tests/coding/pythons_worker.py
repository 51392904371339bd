"""Run by pythons.py with one interpreter after another, which needs the run time alone.

`about` prints what the interpreter is. `encode FOLDER NAME` writes frames of every profile and codec into
FOLDER/frames/NAME. `decode FOLDER NAME` decodes those of every interpreter into FOLDER/decoded/NAME.npz.
"""

import hashlib
import json
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import numpy as np

import dtufc
from dtufc.coding.arrays import Array
from dtufc.errors import BitstreamError

SETTINGS: Final = (0.2, 0.6, 0.9)  # of each codec's own


def about() -> dict[str, str]:
    releases = {name: _release(name) for name in ("numpy", "torch", "compressai", "constriction")}
    return {"python": platform.python_version(), "machine": platform.machine(), **releases}


def _release(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def encode(folder: Path, name: str) -> None:
    frames = folder / "frames" / name
    frames.mkdir(parents=True)
    for path in sorted((folder / "features").glob("*.npy")):
        codec, features = dtufc.load(profile_of(folder, path.stem)), np.load(path)
        for kind in codec.codecs:
            encoder = codec.encoder(features, codec=kind)
            for setting in SETTINGS[: 1 if kind == "raw" else None]:
                (frames / f"{path.stem}.{kind}.{setting}.dtufc").write_bytes(encoder(setting))


def decode(folder: Path, name: str) -> None:
    """SHA-256 of a frame -> its features as bytes, float32; nothing where it was rejected. Equal frames once."""
    codecs = {path.stem: dtufc.load(profile_of(folder, path.stem)) for path in (folder / "features").glob("*.npy")}
    found: dict[str, Array] = {}
    for path in sorted((folder / "frames").glob("*/*.dtufc")):
        data = path.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        if digest not in found:
            found[digest] = _decoded(codecs[path.name.split(".")[0]], data)
    np.savez(folder / "decoded" / f"{name}.npz", **found)


def _decoded(codec: dtufc.FeatureCodec, data: bytes) -> Array:
    """A frame has a sum of its symbols: one that decodes to others is rejected."""
    try:
        return codec.decode(data)
    except BitstreamError:
        return np.empty(0, np.float32)


def profile_of(folder: Path, name: str) -> str:
    """The profile that the driver fitted, or a shipped one."""
    fitted = folder / "profiles" / name
    return str(fitted) if fitted.exists() else name


def main() -> None:
    mode, *arguments = sys.argv[1:]
    if mode == "about":
        print(json.dumps(about()))
        return
    {"encode": encode, "decode": decode}[mode](Path(arguments[0]), arguments[1])


if __name__ == "__main__":
    main()
