"""Golden frames: every later release decodes them to the same bits.

Below `tests/golden/v1/` each layout has a small profile of its own, frames of every codec and type, and
`frames.json`, which has the SHA-256 of what each decodes to. So has a profile of few directions and blocks, with frames
of several numbers of tokens and of focus rows.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import dtufc
from dtufc.coding import bitstream
from dtufc.coding.arrays import Array
from dtufc.coding.feature_codec import FeatureCodec
from dtufc.coding.features import NUMPY_DTYPES, to_dtype
from dtufc.models.profile import load_profile
from tests.coding import contract, reference_klt

GOLDEN = Path(__file__).parents[1] / "golden" / "v1"
FRAMES = {
    f"{codec}.{quality}.{np.dtype(dtype).name}.dtufc": (codec, quality, dtype)
    for codec, quality in (("raw", 1.0), ("levels", 1.0), ("klt", 0.2), ("klt", 0.7))
    for dtype in contract.DTYPES
}
DIRECTIONS = {
    f"klt.{tokens}.{len(focus)}.{quality}.{np.dtype(dtype).name}.dtufc": (tokens, focus, quality, dtype)
    for tokens, focus in ((1, []), (1, [0]), (15, []), (37, []), (37, [36, 5]), (48, [0, 47]))
    for quality, dtype in zip((1.0, 0.7, 0.2), contract.DTYPES, strict=True)
}
SHAPES = {"llm": (7, 24), "vit": (2, 17, 24), "latent": (16, 5, 6), "cnn": (24, 4, 3)}


def fingerprint(features: Array) -> str:
    return hashlib.sha256(features.tobytes()).hexdigest()


@pytest.fixture(scope="module", params=sorted([*SHAPES, "directions"]))
def folder(request: pytest.FixtureRequest) -> Path:
    path = GOLDEN / request.param
    if request.config.getoption("--write-golden") and not path.exists():
        write(path, *(frames_of_directions() if request.param == "directions" else frames_of(request.param)))
    return path


def frames_of(layout: str) -> tuple[FeatureCodec, Mapping[str, bytes]]:
    codec = contract.fitted(layout)
    features = contract.features(np.random.default_rng(12), SHAPES[layout])
    features.reshape(-1)[3] = 900.0
    return codec, {
        name: codec.encode(features.astype(dtype), codec=kind, quality=quality)
        for name, (kind, quality, dtype) in FRAMES.items()
    }


def frames_of_directions() -> tuple[FeatureCodec, Mapping[str, bytes]]:
    codec = FeatureCodec(contract.wide_profile("directions"))
    frames = {}
    for name, (tokens, focus, quality, dtype) in DIRECTIONS.items():
        features = contract.wide(12, tokens + 1)[tokens == 1 :][:tokens]  # one alone is an ordinary row
        features[tokens // 2, 7] += 15
        frames[name] = codec.encode(features.astype(dtype), codec="klt", quality=quality, focus=focus)
    return codec, frames


def write(path: Path, codec: FeatureCodec, frames: Mapping[str, bytes]) -> None:
    codec.save(path)
    for name, data in frames.items():
        (path / name).write_bytes(data)
    hashes = {name: fingerprint(codec.decode(data)) for name, data in frames.items()}
    (path / "frames.json").write_text(json.dumps(hashes, indent=1) + "\n", encoding="utf-8")


def test_golden_frames_decode_to_the_same_bits(folder: Path) -> None:
    codec = dtufc.load(folder)
    hashes = json.loads((folder / "frames.json").read_text(encoding="utf-8"))
    names = DIRECTIONS if folder.name == "directions" else FRAMES
    assert set(hashes) == set(names) == {path.name for path in folder.glob("*.dtufc")}
    for name, expected in hashes.items():
        data = (folder / name).read_bytes()
        assert fingerprint(codec.decode(data)) == expected, name
        assert bitstream.pack(bitstream.parse(data)) == data, name


def test_a_decoder_written_from_the_specification_gives_the_same_bits(folder: Path) -> None:
    profile = load_profile(folder)
    codec, layout = FeatureCodec(profile), profile.layout
    for path in folder.glob("*.dtufc"):
        frame = bitstream.parse(path.read_bytes())
        if frame.codec.name == "raw":
            continue
        reference = reference_klt.decode_klt if frame.codec.name == "klt" else reference_klt.decode_levels
        rows = to_dtype(reference(frame, profile), NUMPY_DTYPES[frame.dtype])
        expected = layout.from_rows(rows.reshape(layout.rows_shape(frame.shape)), frame.shape)
        assert expected.tobytes() == codec.decode_frame(frame).tobytes(), path.name


def test_bfloat16_is_rounded_by_way_of_float32() -> None:
    value = np.array([1 + 2.0**-8 + 2.0**-40])
    assert to_dtype(value, np.dtype(ml_dtypes.bfloat16))[0] == 1.0
