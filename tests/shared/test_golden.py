"""Golden frames: what this release encoded once, every later one decodes to the same bits.

Beside each frame `NAME.dtufc` lies `NAME.json`: what it is, and the SHA-256 of the features it decodes to.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

import dtufc
from dtufc import bitstream
from dtufc.arrays import Array

GOLDEN = Path(__file__).parents[1] / "golden" / "v1"
PROFILES = ("dinov2-small", "smollm2-135m")
CODECS = ("raw", "levels", "klt")
TOKENS = {"dinov2-small": 1 + 5 * 5, "smollm2-135m": 7}


def sent(profile: str) -> Array:
    """Small features near those of the model: drawn in float64 from the profile's own means, with an outlier row."""
    codec = dtufc.load(profile)
    mean = codec.profile.calibration["klt.mean"]
    rng = np.random.default_rng(4)
    noise = rng.standard_normal((TOKENS[profile], len(mean))) * float(codec.profile.calibration["klt.typical"][0])
    features: Array = (mean + 0.5 * noise).astype(np.float32)
    features[1] *= 40
    return features


def fingerprint(features: Array) -> str:
    return hashlib.sha256(features.astype("<f4").tobytes()).hexdigest()


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("name", CODECS)
def test_a_golden_frame_decodes_to_the_same_bits(profile: str, name: str, request: pytest.FixtureRequest) -> None:
    codec = dtufc.load(profile)
    path = GOLDEN / f"{profile}.{name}.dtufc"
    if request.config.getoption("--write-golden"):
        GOLDEN.mkdir(parents=True, exist_ok=True)
        data = codec.encode(sent(profile), codec=name, quality=0.4)
        path.write_bytes(data)
        facts = {"profile": profile, "digest": codec.profile.digest.hex(), "codec": name, "quality": 0.4}
        facts["decoded_sha256"] = fingerprint(codec.decode(data))
        path.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    facts = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert codec.profile.digest.hex() == facts["digest"], "the profile was fitted anew: `make golden` if that is meant"
    data = path.read_bytes()
    decoded = codec.decode(data)
    assert fingerprint(decoded) == facts["decoded_sha256"]
    assert bitstream.pack(bitstream.parse(data)) == data


def test_every_golden_file_is_tested() -> None:
    expected = {f"{profile}.{name}.{kind}" for profile in PROFILES for name in CODECS for kind in ("dtufc", "json")}
    assert {path.name for path in GOLDEN.iterdir()} == expected
