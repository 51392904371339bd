"""Run by test_determinism.py: `encode FOLDER` writes frames, `decode FOLDER` prints hashes of what they decode to."""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import torch

import dtufc
from dtufc.coding.arrays import Array

NUM_ROWS = {"dinov2-small": 1370, "smollm2-135m": 200}


def features(profile: str, seed: int) -> Array:
    """As a model makes them: the result of a float32 product in torch, which differs between instruction sets."""
    codec = dtufc.load(profile)
    mean = torch.from_numpy(codec.profile.calibration["klt.mean"].astype(np.float32))
    reference_rms = float(codec.profile.calibration["klt.reference_rms"][0])
    generator = torch.Generator().manual_seed(seed)
    latent = torch.randn(NUM_ROWS[profile], 64, generator=generator)
    mixing = torch.randn(64, len(mean), generator=generator) / 8
    rows = mean + reference_rms * 0.5 * torch.tanh(latent @ mixing)
    rows[3] *= 60
    return rows.numpy()


def encode(folder: Path) -> dict[str, str]:
    for profile in NUM_ROWS:
        codec = dtufc.load(profile)
        for seed in range(2):
            for name, quality in (("klt", 0.2), ("klt", 0.6), ("levels", 0.5)):
                data = codec.encode(features(profile, seed), codec=name, quality=quality)
                (folder / f"{profile}.{seed}.{name}{quality}.dtufc").write_bytes(data)
        stacked = np.stack([features(profile, seed) for seed in range(2)])  # a batch, where the layout has one
        if profile == "dinov2-small":
            (folder / f"{profile}.batch.dtufc").write_bytes(codec.encode(stacked, quality=0.4))
    return {}


def decode(folder: Path) -> dict[str, str]:
    codecs = {profile: dtufc.load(profile) for profile in NUM_ROWS}
    found = {}
    for path in sorted(folder.glob("*/*.dtufc")):
        profile = next(name for name in NUM_ROWS if path.name.startswith(name))
        found[f"{path.parent.name}/{path.name}"] = hashlib.sha256(
            codecs[profile].decode(path.read_bytes()).tobytes()
        ).hexdigest()
    return found


if __name__ == "__main__":
    mode = {"encode": encode, "decode": decode}[sys.argv[1]]
    print(json.dumps(mode(Path(sys.argv[2]))))
