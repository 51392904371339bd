"""A learned codec's frame decodes to the same symbols under any instruction set, thread count, batch and kernels.

Each variant is a process of its own. Together they encode some features and decode every frame of every variant.
CompressAI's coder goes the same way with the same weights, one set of tables for all, and how often it decodes
something else is counted. `python -m tests.coding.test_learned_determinism FOLDER 100` prints the table for so many.
"""

import hashlib
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
import pytest
import torch

import dtufc
from dtufc.coding.arrays import Array
from tests.coding.learned_worker import NETWORKS, WEIGHTS, features, reference_of

WORKER: Final = Path(__file__).with_name("learned_worker.py")
AVX512: Final = "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL"
NUM_FEATURES: Final = 8  # of each variant
DIVERGED: Final = 0.05 * 64 / 255  # CompressAI's output, in levels / 255; float noise is a thousandth of it
CLOSE: Final = 1e-2  # of the features' spread


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """How one process computes.

    Attributes:
        environment: what the numerical libraries are told when they load.
        without_mkldnn: torch's own convolutions instead of oneDNN's.
        matmul_precision: "medium" lets torch multiply in bfloat16.
        batch: features in one frame, planes in one call of CompressAI's `compress`.
    """

    environment: dict[str, str] = field(default_factory=dict)
    without_mkldnn: bool = False
    matmul_precision: str = "highest"
    batch: int = 1


VARIANTS: Final = {
    "native": Variant(),
    "three threads": Variant(environment={"OMP_NUM_THREADS": "3", "OPENBLAS_NUM_THREADS": "3"}),
    "batch of four": Variant(batch=4),
    "no oneDNN": Variant(without_mkldnn=True, matmul_precision="medium"),
    "avx2": Variant(
        environment={
            "ATEN_CPU_CAPABILITY": "avx2",
            "ONEDNN_MAX_CPU_ISA": "AVX2",
            "OPENBLAS_CORETYPE": "Haswell",
            "NPY_DISABLE_CPU_FEATURES": AVX512,
        }
    ),
    "baseline": Variant(
        environment={
            "ATEN_CPU_CAPABILITY": "default",
            "ONEDNN_MAX_CPU_ISA": "SSE41",
            "OPENBLAS_CORETYPE": "Prescott",
            "NPY_DISABLE_CPU_FEATURES": f"{AVX512} AVX2 FMA3",
            "OMP_NUM_THREADS": "1",
        }
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """Decodings of one network's streams by other variants than wrote them.

    Attributes:
        decodings: how many pairs of a stream and a variant that did not write it.
        distinct: how many different streams of CompressAI's there were.
        ours: how many of our frames were rejected or decoded to other features.
        compressai: how many of CompressAI's came out otherwise than for the variant that wrote them, or not at all.
        crashed: variants that CompressAI's decoder ended.
        worst: compressai by "writer -> reader".
    """

    decodings: int
    distinct: int
    ours: int
    compressai: int
    crashed: list[str]
    worst: dict[str, int]


def run_variants(folder: Path, num_features: int = NUM_FEATURES) -> None:
    """Fits a profile, and has every variant encode, then decode, into `folder`."""
    dtufc.fit([features(1000 + seed) for seed in range(10)], layout="vit").save(folder / "profile")
    for network in NETWORKS:
        torch.save(reference_of(folder, network).state_dict(), folder / WEIGHTS.format(network))
    for name, variant in VARIANTS.items():
        (folder / name).mkdir()
        (folder / name / "settings.json").write_text(json.dumps({**asdict(variant), "count": num_features}))
    encoding = _run_all("encode", folder)
    assert not any(encoding.values()), encoding
    decoding = _run_all("decode", folder)
    assert all((folder / name / "ours.npz").exists() for name in VARIANTS), decoding
    (folder / "divergences.json").write_text(json.dumps({name: asdict(divergence(folder, name)) for name in NETWORKS}))


def _run_all(mode: str, folder: Path) -> dict[str, str]:
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(VARIANTS, pool.map(lambda name: _run(mode, folder, name), VARIANTS), strict=True))


def _run(mode: str, folder: Path, name: str) -> str:
    """One process; what it wrote to stderr where it failed."""
    command = [sys.executable, "-W", "ignore", str(WORKER), mode, str(folder), name]
    environment = {**os.environ, **VARIANTS[name].environment}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return f"{name}: {done.returncode} {done.stderr}" if done.returncode else ""


def divergence(folder: Path, network: str) -> Divergence:
    """Compares what all variants made of one network's streams."""
    ours = {name: _arrays(folder / name / "ours.npz") for name in VARIANTS}
    theirs = {name: _arrays(folder / name / f"theirs-{network}.npz") for name in VARIANTS}
    counts: dict[str, int] = {}
    decodings = our_count = 0
    distinct = {_digest(path) for path in folder.glob(f"*/{network}.*.strings")}
    for writer in VARIANTS:
        frames = [_digest(path) for path in sorted((folder / writer).glob(f"{network}.*.frame"))]
        strings = [_digest(path) for path in sorted((folder / writer).glob(f"{network}.*.strings"))]
        for reader in VARIANTS:
            if reader == writer:
                our_count += sum(not ours[reader][digest].size for digest in frames)
                continue
            decodings += len(strings)
            our_count += sum(not _are_close(ours[writer][digest], ours[reader][digest]) for digest in frames)
            pairs = [(theirs[writer].get(digest), theirs[reader].get(digest)) for digest in strings]
            counts[f"{writer} -> {reader}"] = sum(_has_diverged(*pair) for pair in pairs)
    return Divergence(
        decodings=decodings,
        distinct=len(distinct),
        ours=our_count,
        compressai=sum(counts.values()),
        crashed=[name for name in VARIANTS if not theirs[name]],
        worst=dict(sorted(counts.items(), key=lambda item: -item[1])[:5]),
    )


def divergence_report(folder: Path) -> str:
    """The counts of a folder that `run_variants` filled, as Markdown."""
    stored = json.loads((folder / "divergences.json").read_text())
    found = {name: Divergence(**values) for name, values in stored.items()}
    lines = [
        "| network | decoded by another variant | distinct streams | ours: wrong | CompressAI: wrong | worst pair |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for name, counts in found.items():
        share = f"{counts.compressai} ({100 * counts.compressai / counts.decodings:.1f} %)"
        worst = next((f"{pair}: {count}" for pair, count in counts.worst.items() if count), "")
        lines.append(f"| {name} | {counts.decodings} | {counts.distinct} | {counts.ours} | {share} | {worst} |")
    return "\n".join(lines) + "\n"


@pytest.mark.slow
@pytest.mark.timeout(1800)  # twelve processes, which take seconds each to import what they need
def test_every_variant_decodes_every_learned_frame_to_the_same_symbols(tmp_path: Path) -> None:
    run_variants(tmp_path)
    print(divergence_report(tmp_path))
    for name in NETWORKS:
        found = divergence(tmp_path, name)
        assert found.decodings >= NUM_FEATURES * len(VARIANTS) * (len(VARIANTS) - 1)
        assert found.ours == 0, name


def _has_diverged(a: Array | None, b: Array | None) -> bool:
    return a is None or b is None or float(np.abs(a - b).max()) > DIVERGED


def _are_close(a: Array, b: Array) -> bool:
    return a.size > 0 and a.shape == b.shape and float(np.abs(a - b).max()) <= CLOSE * float(a.std())


def _arrays(path: Path) -> dict[str, Array]:
    if not path.exists():
        return {}
    with np.load(path) as arrays:
        return dict(arrays)


@cache
def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
    run_variants(Path(sys.argv[1]), int(sys.argv[2]))
    print("# Decoded under other instruction sets, thread counts, batches and kernels\n")
    print(f"{sys.argv[2]} features of each of: {', '.join(VARIANTS)}. CompressAI's coder has the same weights.\n")
    print(divergence_report(Path(sys.argv[1])))
