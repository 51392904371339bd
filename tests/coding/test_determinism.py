"""A frame made with one instruction set, thread count and batch decodes bit for bit with any other.

Each variant is a process of its own, whose numerical libraries are told by the environment what they may use.
Together the processes encode some features and decode every frame of every process.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).with_name("determinism_worker.py")
VARIANTS: dict[str, dict[str, str]] = {
    "native": {},
    "one thread": {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    "three threads": {"OMP_NUM_THREADS": "3", "OPENBLAS_NUM_THREADS": "3"},
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "OPENBLAS_CORETYPE": "Haswell",
        "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL",
    },
    "baseline": {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "OPENBLAS_CORETYPE": "Prescott",
        "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX2 FMA3",
        "OMP_NUM_THREADS": "1",
    },
}


def run(mode: str, folder: Path, variant: dict[str, str]) -> dict[str, str]:
    """One process; returns what it found: file name -> SHA-256 of the decoded features."""
    command = [sys.executable, "-W", "ignore", str(WORKER), mode, str(folder)]
    done = subprocess.run(command, env={**os.environ, **variant}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.mark.slow
def test_every_variant_decodes_every_frame_to_the_same_bits(tmp_path: Path) -> None:
    for name, variant in VARIANTS.items():
        (tmp_path / name).mkdir()
        run("encode", tmp_path / name, variant)
    decoded = {name: run("decode", tmp_path, variant) for name, variant in VARIANTS.items()}
    assert len(decoded["native"]) >= 12 * len(VARIANTS)
    for name in VARIANTS:
        assert decoded[name] == decoded["native"], name
