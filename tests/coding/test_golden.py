"""Golden frames: every later release decodes them to the same bits.

Below `tests/golden/v1/` each layout has a small profile of its own, frames of every codec and type, and
`frames.json`, which has the SHA-256 of what each decodes to.
"""

import hashlib
import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import dtufc
from dtufc.coding import bitstream
from dtufc.coding.arrays import Array
from dtufc.coding.feature_codec import FeatureCodec
from dtufc.coding.features import to_dtype
from dtufc.models.profile import load_profile
from tests.coding import contract, reference_klt

GOLDEN = Path(__file__).parents[1] / "golden" / "v1"
FRAMES = {
    f"{codec}.{quality}.{np.dtype(dtype).name}.dtufc": (codec, quality, dtype)
    for codec, quality in (("raw", 1.0), ("levels", 1.0), ("klt", 0.2), ("klt", 0.7))
    for dtype in contract.DTYPES
}
SHAPES = {"llm": (7, 24), "vit": (2, 17, 24), "latent": (16, 5, 6), "cnn": (24, 4, 3)}


def fingerprint(features: Array) -> str:
    return hashlib.sha256(features.tobytes()).hexdigest()


@pytest.fixture(scope="module", params=sorted(SHAPES))
def folder(request: pytest.FixtureRequest) -> Path:
    path = GOLDEN / request.param
    if request.config.getoption("--write-golden"):
        write(path, request.param)
    return path


def write(path: Path, layout: str) -> None:
    codec = contract.fitted(layout)
    codec.save(path)
    features = contract.features(np.random.default_rng(12), SHAPES[layout])
    features.reshape(-1)[3] = 900.0
    hashes = {}
    for name, (kind, quality, dtype) in FRAMES.items():
        data = codec.encode(features.astype(dtype), codec=kind, quality=quality)
        (path / name).write_bytes(data)
        hashes[name] = fingerprint(codec.decode(data))
    (path / "frames.json").write_text(json.dumps(hashes, indent=1) + "\n", encoding="utf-8")


def test_golden_frames_decode_to_the_same_bits(folder: Path) -> None:
    codec = dtufc.load(folder)
    hashes = json.loads((folder / "frames.json").read_text(encoding="utf-8"))
    assert set(hashes) == set(FRAMES) == {path.name for path in folder.glob("*.dtufc")}
    for name, expected in hashes.items():
        data = (folder / name).read_bytes()
        assert fingerprint(codec.decode(data)) == expected, name
        assert bitstream.pack(bitstream.parse(data)) == data, name


def test_a_decoder_written_from_the_specification_gives_the_same_bits(folder: Path) -> None:
    profile = load_profile(folder)
    codec, layout = FeatureCodec(profile), profile.layout
    for name, (kind, _, dtype) in FRAMES.items():
        frame = bitstream.parse((folder / name).read_bytes())
        if kind == "raw":
            continue
        reference = reference_klt.decode_klt if kind == "klt" else reference_klt.decode_levels
        rows = to_dtype(reference(frame, profile), np.dtype(dtype))
        expected = layout.from_rows(rows.reshape(layout.rows_shape(frame.shape)), frame.shape)
        assert expected.tobytes() == codec.decode_frame(frame).tobytes(), name


def test_bfloat16_is_rounded_by_way_of_float32() -> None:
    value = np.array([1 + 2.0**-8 + 2.0**-40])
    assert to_dtype(value, np.dtype(ml_dtypes.bfloat16))[0] == 1.0
