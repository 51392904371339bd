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

from dtufc.coding.feature_codec import FeatureCodec
from tests.coding import contract

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


def run(mode: str, folder: Path, wide: Path, variant: dict[str, str]) -> dict[str, str]:
    """One process; returns what it found: file name -> SHA-256 of the decoded features."""
    command = [sys.executable, "-W", "ignore", str(WORKER), mode, str(folder), str(wide)]
    done = subprocess.run(command, env={**os.environ, **variant}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.mark.slow
def test_every_variant_decodes_every_frame_to_the_same_bits(tmp_path: Path) -> None:
    wide = tmp_path / "wide"
    codec = FeatureCodec(contract.wide_profile("directions", num_rows=256, channels=1536))
    assert 0 < len(codec.profile.calibration["klt.reflections"]) < 1536 / 2
    codec.save(wide)
    for name, variant in VARIANTS.items():
        (tmp_path / name).mkdir()
        run("encode", tmp_path / name, wide, variant)
    decoded = {name: run("decode", tmp_path, wide, variant) for name, variant in VARIANTS.items()}
    assert len(decoded["native"]) >= 18 * len(VARIANTS)
    for name in VARIANTS:
        assert decoded[name] == decoded["native"], name
