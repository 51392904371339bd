"""Run by test_determinism.py: `encode FOLDER WIDE` writes frames, `decode FOLDER WIDE` prints hashes of decoded ones.

WIDE is the folder of a profile of klt alone; the others are shipped.
"""

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

import dtufc
from dtufc.coding.arrays import Array

NUM_ROWS = {"dinov2-small": 1370, "smollm2-135m": 200, "wide": 187}
Codecs = Mapping[str, dtufc.FeatureCodec]


def features(codec: dtufc.FeatureCodec, num_rows: int, seed: int) -> Array:
    """As a model makes them: the result of a float32 product in torch, which differs between instruction sets."""
    mean = torch.from_numpy(codec.profile.calibration["klt.mean"].astype(np.float32))
    reference_rms = float(codec.profile.calibration["klt.reference_rms"][0])
    generator = torch.Generator().manual_seed(seed)
    latent = torch.randn(num_rows, 64, generator=generator)
    mixing = torch.randn(64, len(mean), generator=generator) / 8
    rows = mean + reference_rms * 0.5 * torch.tanh(latent @ mixing)
    rows[3] *= 60
    return rows.numpy()


def encode(folder: Path, codecs: Codecs) -> dict[str, str]:
    for profile, codec in codecs.items():
        rows = [features(codec, NUM_ROWS[profile], seed) for seed in range(2)]
        for name, quality in (("klt", 0.2), ("klt", 0.6), ("levels", 0.5)):
            if name in codec.codecs:
                for seed in range(2):
                    given = rows[seed].copy()
                    given[3] /= 60 if name == "levels" else 1  # which takes no outlier rows
                    data = codec.encode(given, codec=name, quality=quality)
                    (folder / f"{profile}.{seed}.{name}{quality}.dtufc").write_bytes(data)
        if profile == "dinov2-small":  # a batch, where the layout has one
            (folder / f"{profile}.batch.dtufc").write_bytes(codec.encode(np.stack(rows), quality=0.4))
        if profile == "wide":
            (folder / f"{profile}.focus.dtufc").write_bytes(codec.encode(rows[0], quality=0.4, focus=[-1]))
    return {}


def decode(folder: Path, codecs: Codecs) -> dict[str, str]:
    found = {}
    for path in sorted(folder.glob("*/*.dtufc")):
        profile = next(name for name in codecs if path.name.startswith(name))
        found[f"{path.parent.name}/{path.name}"] = hashlib.sha256(
            codecs[profile].decode(path.read_bytes()).tobytes()
        ).hexdigest()
    return found


if __name__ == "__main__":
    mode = {"encode": encode, "decode": decode}[sys.argv[1]]
    places = {profile: sys.argv[3] if profile == "wide" else profile for profile in NUM_ROWS}
    print(json.dumps(mode(Path(sys.argv[2]), {profile: dtufc.load(place) for profile, place in places.items()})))
