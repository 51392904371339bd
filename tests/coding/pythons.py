"""Frames of every codec, made with each of several interpreters and decoded with each of them.

    python -m tests.coding.pythons FOLDER NAME=PYTHON...

FOLDER is made, and keeps features and frames; what it has of an earlier call is not encoded again. Each PYTHON is a
command that runs an interpreter which has dtufc, whether another release, with other packages, in a container or
emulated; NAME is what the table calls it. All encode the same features with the same profiles: small ones of each
layout, and two that are shipped. Prints Markdown; exit status 1 if any frame decoded to something else.
"""

import hashlib
import json
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from dtufc.coding.arrays import Array
from dtufc.coding.codecs.learned import VARIANTS
from tests.coding.contract import SAMPLES, features, fitted

WORKER: Final = Path(__file__).with_name("pythons_worker.py")
SHIPPED: Final = {"dinov2-small": (145, 384), "smollm2-135m": (60, 576)}
CLOSE: Final = 1e-2  # of the features' spread: a learned codec's symbols are exact, its last layers are float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one interpreter made of every interpreter's frames.

    Attributes:
        frames: how many it decoded; equal frames of several interpreters count for each.
        rejected: how many decoded to other symbols than were encoded.
        other_bits: how many of raw, levels and klt came out otherwise than for the first interpreter.
        far: how many of a learned codec came out further than CLOSE from the first interpreter's features.
        largest: the largest difference among a learned codec's features, relative to their spread.
    """

    frames: int
    rejected: int
    other_bits: int
    far: int
    largest: float

    @property
    def is_exact(self) -> bool:
        return not (self.rejected or self.other_bits or self.far)


def write_inputs(folder: Path) -> None:
    """Features, and the profiles that are not shipped, once for all interpreters."""
    (folder / "decoded").mkdir(parents=True)
    (folder / "features").mkdir()
    for layout, shape in SAMPLES.items():
        fitted(layout).save(folder / "profiles" / layout)
        np.save(folder / "features" / f"{layout}.npy", features(np.random.default_rng(11), shape))
    for name, shape in SHIPPED.items():
        rows = np.random.default_rng(12).standard_t(4, size=shape) * np.geomspace(0.1, 2, shape[1])
        np.save(folder / "features" / f"{name}.npy", rows.astype(np.float32))


def run(python: str, *arguments: str | Path) -> str:
    print(f"{python} {' '.join(map(str, arguments))}", file=sys.stderr, flush=True)
    done = subprocess.run([python, str(WORKER), *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{python} {' '.join(map(str, arguments))}: {done.returncode}\n{done.stderr}")
    return done.stdout


def reading(folder: Path, name: str, first: str) -> Reading:
    ours, theirs = _arrays(folder, name), _arrays(folder, first)
    rejected = other_bits = far = frames = 0
    largest = 0.0
    for path in sorted((folder / "frames").glob("*/*.dtufc")):
        frames += 1
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        mine, expected = ours[digest], theirs[digest]
        if not mine.size or not expected.size:
            rejected += 1
        elif path.name.split(".")[1] in VARIANTS:
            difference = float(np.abs(mine - expected).max() / expected.std())
            largest = max(largest, difference)
            far += difference > CLOSE
        else:
            other_bits += mine.tobytes() != expected.tobytes()
    return Reading(frames=frames, rejected=rejected, other_bits=other_bits, far=far, largest=largest)


def page(folder: Path, abouts: Mapping[str, Mapping[str, str]], readings: Mapping[str, Reading]) -> str:
    """The verdict, then the table."""
    decodings = sum(read.frames for read in readings.values())
    wrong = sum(read.rejected + read.other_bits + read.far for read in readings.values())
    codecs = {path.name.split(".")[1] for path in (folder / "frames").glob("*/*.dtufc")}
    return f"""# Frames of several Pythons, decoded with each

{decodings} decodings; wrong: {wrong}. Each interpreter encoded the same features by {", ".join(sorted(codecs))}, and
decoded the frames of all: to the symbols that were sent (each frame has a sum of them), `raw`, `levels` and `klt` to
the same bits, the learned codecs within {CLOSE:g} of the features' spread. Made by `tests/coding/pythons.py` on
{platform.platform()}.

{table(folder, abouts, readings)}"""


def table(folder: Path, abouts: Mapping[str, Mapping[str, str]], readings: Mapping[str, Reading]) -> str:
    """One row an interpreter; its own frames, then what it made of all."""
    first = next(iter(abouts))
    lines = [
        "| interpreter | Python | machine | numpy | torch | CompressAI | constriction "
        "| frames, of them the first's bytes | decoded "
        "| other symbols | `raw`, `levels`, `klt`: other bits | learned: largest difference |",
        "|---|---|---|---|---|---|---|---:|---:|---:|---:|---:|",
    ]
    for name, about in abouts.items():
        read = readings[name]
        made = [_contents(folder, writer) for writer in (name, first)]
        same = sum(made[0][key] == made[1][key] for key in made[0])
        cells = [name, *(about[key] for key in ("python", "machine", "numpy", "torch", "compressai", "constriction"))]
        cells.append(f"{len(made[0])}, {same}")
        cells += [*map(str, (read.frames, read.rejected, read.other_bits)), f"{read.largest:.0e}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _contents(folder: Path, name: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "frames" / name).glob("*.dtufc")}


def _arrays(folder: Path, name: str) -> dict[str, Array]:
    with np.load(folder / "decoded" / f"{name}.npz") as arrays:
        return dict(arrays)


def main() -> int:
    folder = Path(sys.argv[1])
    pythons = dict(argument.split("=", 1) for argument in sys.argv[2:])
    if not folder.exists():
        write_inputs(folder)
    abouts = {name: json.loads(run(python, "about")) for name, python in pythons.items()}
    for name, python in pythons.items():
        if not (folder / "frames" / name).exists():
            run(python, "encode", folder, name)
    for name, python in pythons.items():
        run(python, "decode", folder, name)
    readings = {name: reading(folder, name, next(iter(pythons))) for name in pythons}
    print(page(folder, abouts, readings))
    return int(not all(read.is_exact for read in readings.values()))


if __name__ == "__main__":
    sys.exit(main())
