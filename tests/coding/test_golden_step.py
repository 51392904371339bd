"""Golden step frames: every later release decodes them to the same bits.

`tests/golden/v1/steps/` has step frames of the golden profile `llm`, each named by codec, quality, type, position and
rows, and `frames.json`, which has the SHA-256 of what each decodes to.
"""

import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pytest

import dtufc
from dtufc.coding.bitstream import CodecId, Dtype, Frame, StepContext, pack_step, parse_step
from dtufc.coding.feature_codec import FeatureCodec
from tests.coding import contract
from tests.coding.test_golden import GOLDEN, fingerprint

FOLDER = GOLDEN / "steps"


class Case(NamedTuple):
    codec: str
    quality: float
    dtype: type
    position: int
    rows: int


STEPS: Mapping[str, Case] = {
    f"{codec}.{quality}.{np.dtype(dtype).name}.{position}.{rows}.dtufs": Case(codec, quality, dtype, position, rows)
    for codec, quality in (("raw", 1.0), ("klt", 0.2), ("klt", 0.7))
    for dtype in contract.DTYPES
    for position, rows in ((0, 7), (300, 1), (70000, 3))
}


def write(codec: FeatureCodec) -> None:
    FOLDER.mkdir()
    hashes = {}
    for name, (kind, quality, dtype, position, rows) in STEPS.items():
        sent = contract.features(np.random.default_rng(12), (rows, 24))
        sent[-1, 3] = 900.0
        encoded = codec.encode(sent.astype(dtype), codec=kind, quality=quality)
        (FOLDER / name).write_bytes(pack_step(encoded.frame, position))
        hashes[name] = fingerprint(codec.decode(encoded))
    (FOLDER / "frames.json").write_text(json.dumps(hashes, indent=1) + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def codec(request: pytest.FixtureRequest) -> FeatureCodec:
    opened = dtufc.load(GOLDEN / "llm")
    if request.config.getoption("--write-golden") and not FOLDER.exists():
        write(opened)
    return opened


def parsed(codec: FeatureCodec) -> Iterator[tuple[str, bytes, int, Frame]]:
    """(name, bytes, position, frame) of each."""
    for name, case in STEPS.items():
        context = StepContext(
            profile_digest=codec.profile.short_digest,
            codec=CodecId[case.codec],
            dtype=Dtype[np.dtype(case.dtype).name],
            channels=24,
        )
        data = (FOLDER / name).read_bytes()
        yield name, data, *parse_step(data, context)


def test_golden_step_frames_decode_to_the_same_bits(codec: FeatureCodec) -> None:
    hashes = json.loads((FOLDER / "frames.json").read_text(encoding="utf-8"))
    assert set(hashes) == set(STEPS) == {path.name for path in FOLDER.glob("*.dtufs")}
    for name, data, position, frame in parsed(codec):
        assert (position, frame.shape) == (STEPS[name].position, (STEPS[name].rows, 24)), name
        assert fingerprint(codec.decode_frame(frame)) == hashes[name], name
        assert pack_step(frame, position) == data, name


def test_a_reader_written_from_the_specification_finds_the_same_frames(codec: FeatureCodec) -> None:
    heads = {(0, 7): "00 07", (300, 1): "ac 02 01", (70000, 3): "f0 a2 04 03"}
    for name, data, _, frame in parsed(codec):
        case = STEPS[name]
        head = bytes.fromhex(heads[case.position, case.rows])
        assert data == head + frame.payload + data[-4:], name
        opening = codec.profile.digest[:8] + bytes([{"raw": 0, "klt": 2}[case.codec], frame.dtype, 24])
        step_crc = struct.pack("<I", zlib.crc32(opening + data[:-4]))
        symbol_crc = bytes(ours ^ theirs for ours, theirs in zip(step_crc, data[-4:], strict=True))
        assert int.from_bytes(symbol_crc, "big") == frame.symbol_crc, name
