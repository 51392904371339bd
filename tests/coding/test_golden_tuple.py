"""Golden containers: every later release decodes them to the same bits.

`tests/golden/v1/tuple/` has the profiles of three positions with named axes, of which two share one, containers of
several codecs and qualities, and `containers.json`, which has the SHA-256 of what each tensor decodes to.
"""

import hashlib
import json
import struct
import zlib
from collections.abc import Mapping

import ml_dtypes
import numpy as np
import pytest

import dtufc
from dtufc.coding import bitstream, container
from dtufc.coding.arrays import Array
from dtufc.coding.features import NUMPY_DTYPES, to_dtype
from dtufc.coding.tuple_codec import TupleCodec
from dtufc.models.profile import Profile
from tests.coding import contract, reference_klt
from tests.coding.test_golden import GOLDEN

FOLDER = GOLDEN / "tuple"
CONTAINERS: Mapping[str, tuple[str, float]] = {
    "raw.dtufc": ("raw", 1.0),
    "levels.dtufc": ("levels", 1.0),
    "klt.0.2.dtufc": ("klt", 0.2),
    "klt.0.7.dtufc": ("klt", 0.7),
}
DTYPES = (np.float32, np.float16, ml_dtypes.bfloat16)


def tensors(seed: int, tokens: int) -> list[Array]:
    """A map of axes HWC, and two of rows with axes CT."""
    rng = np.random.default_rng(seed)
    image = contract.features(rng, (24, 4, 3)).transpose(1, 2, 0)
    rows = [contract.features(rng, (tokens, 24)).T for _ in range(2)]
    return [np.ascontiguousarray(one) for one in (image, *rows)]


def write() -> None:
    codec = dtufc.fit_tuple(
        [tensors(seed, 40) for seed in range(6)], axes=["HWC", "CT", "CT"], shared=True, learned=True
    )
    codec.save(FOLDER)
    sent = [tensor.astype(dtype) for tensor, dtype in zip(tensors(50, 19), DTYPES, strict=True)]
    hashes = {}
    for name, (kind, quality) in CONTAINERS.items():
        data = codec.encode(sent, codec=kind, quality=quality)
        (FOLDER / name).write_bytes(data)
        hashes[name] = [fingerprint(one) for one in codec.decode(data)]
    (FOLDER / "containers.json").write_text(json.dumps(hashes, indent=1) + "\n", encoding="utf-8")


def fingerprint(tensor: Array) -> str:
    return hashlib.sha256(tensor.tobytes()).hexdigest()


@pytest.fixture(scope="module")
def codec(request: pytest.FixtureRequest) -> TupleCodec:
    if request.config.getoption("--write-golden") and not FOLDER.exists():
        write()
    return dtufc.load_tuple(FOLDER)


def test_golden_containers_decode_to_the_same_bits(codec: TupleCodec) -> None:
    hashes = json.loads((FOLDER / "containers.json").read_text(encoding="utf-8"))
    assert set(hashes) == set(CONTAINERS) == {path.name for path in FOLDER.glob("*.dtufc")}
    for name, expected in hashes.items():
        data = (FOLDER / name).read_bytes()
        assert [fingerprint(one) for one in codec.decode(data)] == expected, name
        assert container.pack([bitstream.pack(frame) for frame in container.parse(data)]) == data, name


def test_a_reader_written_from_the_specification_finds_the_same_frames(codec: TupleCodec) -> None:
    for name in CONTAINERS:
        data = (FOLDER / name).read_bytes()
        assert data[:8] == bytes.fromhex("44 54 43 01 03 00 00 00")
        entries = [struct.unpack_from("<II", data, 8 + 8 * number) for number in range(3)]
        assert struct.unpack_from("<I", data, 32) == (zlib.crc32(data[:32]),)
        frames, start = [], 36
        for length, crc in entries:
            frames.append(data[start : start + length])
            assert frames[-1][-4:] == struct.pack("<I", crc)
            start += length
        assert start == len(data)
        assert [bitstream.parse(frame) for frame in frames] == container.parse(data)


@pytest.mark.parametrize("name", [name for name in CONTAINERS if not name.startswith("raw")])
def test_named_axes_are_put_in_order_as_the_specification_says(codec: TupleCodec, name: str) -> None:
    data = (FOLDER / name).read_bytes()
    decoded = codec.decode(data)
    reference = reference_klt.decode_klt if name.startswith("klt") else reference_klt.decode_levels
    for number, frame in enumerate(container.parse(data)):
        profile = codec.codecs[number].profile
        assert isinstance(profile, Profile)
        rows = to_dtype(reference(frame, profile), NUMPY_DTYPES[frame.dtype])  # [tokens, channels]
        expected = rows.reshape(frame.shape) if number == 0 else rows.reshape(frame.shape[::-1]).T
        assert expected.tobytes() == decoded[number].tobytes()
