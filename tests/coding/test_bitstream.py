"""Frames: what is packed is parsed, and every other input is rejected as BitstreamError and nothing else."""

import tracemalloc
import zlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dtufc.coding.bitstream import MAX_VALUES, CodecId, Dtype, Frame, pack, parse, read_varint, write_varint
from dtufc.errors import BadMagic, BitstreamError, Corrupt, InputError, Truncated, UnsupportedVersion

FRAMES = st.builds(
    Frame,
    codec=st.sampled_from(CodecId),
    dtype=st.sampled_from(Dtype),
    shape=st.lists(st.integers(1, 60), min_size=1, max_size=4).map(tuple),
    profile_digest=st.binary(min_size=8, max_size=8),
    symbol_crc=st.integers(0, 2**32 - 1),
    payload=st.binary(max_size=300),
)


def resealed(body: bytes) -> bytes:
    """A forged frame: `body` up to the symbol CRC, and a frame checksum that fits it."""
    return body + zlib.crc32(body).to_bytes(4, "little")


@given(FRAMES)
def test_parse_inverts_pack(frame: Frame) -> None:
    assert parse(pack(frame)) == frame


@given(FRAMES, st.data())
def test_a_truncated_frame_is_rejected(frame: Frame, data: st.DataObject) -> None:
    whole = pack(frame)
    with pytest.raises(BitstreamError):
        parse(whole[: data.draw(st.integers(0, len(whole) - 1))])


@given(FRAMES, st.data())
def test_a_flipped_bit_is_rejected(frame: Frame, data: st.DataObject) -> None:
    broken = bytearray(pack(frame))
    bit = data.draw(st.integers(0, 8 * len(broken) - 1))
    broken[bit // 8] ^= 1 << bit % 8
    with pytest.raises(BitstreamError):
        parse(bytes(broken))


@given(FRAMES, st.binary(min_size=1, max_size=20))
def test_trailing_bytes_are_rejected(frame: Frame, more: bytes) -> None:
    with pytest.raises(BitstreamError):
        parse(pack(frame) + more)


@given(st.binary(max_size=400))
@example(b"")
@example(b"DTU\x01")
def test_random_bytes_are_rejected(data: bytes) -> None:
    with pytest.raises(BitstreamError):
        parse(data)


@given(st.binary(max_size=60))
def test_a_forged_checksum_does_not_get_further(tail: bytes) -> None:
    try:
        frame = parse(resealed(b"DTU\x01\x00\x00\x02\x00" + bytes(8) + tail))
    except BitstreamError:
        return
    assert parse(pack(frame)) == frame


def test_sizes_are_checked_before_anything_is_allocated() -> None:
    huge = b"DTU\x01\x00\x00\x01\x00" + bytes(8) + write_varint(MAX_VALUES) + write_varint(1 << 27) + bytes(40)
    tracemalloc.start()
    with pytest.raises(Truncated):
        parse(huge)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 16


def test_each_kind_of_damage_has_its_own_error() -> None:
    frame = Frame(
        codec=CodecId.raw, dtype=Dtype.float32, shape=(1,), profile_digest=bytes(8), symbol_crc=0, payload=bytes(4)
    )
    whole = pack(frame)
    for broken, error in [
        (b"PNG" + whole[3:], BadMagic),
        (whole[:3] + b"\x02" + whole[4:], UnsupportedVersion),
        (whole[:-5], Truncated),
        (whole[:-1] + bytes([whole[-1] ^ 1]), Corrupt),
        (resealed(b"DTU\x01\x63" + whole[5:-4]), Corrupt),
    ]:
        with pytest.raises(error):
            parse(broken)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1, 1, 1, 1, 1), (MAX_VALUES + 1,)])
def test_a_shape_that_no_frame_carries_is_an_input_error(shape: tuple[int, ...]) -> None:
    frame = Frame(
        codec=CodecId.raw, dtype=Dtype.float32, shape=shape, profile_digest=bytes(8), symbol_crc=0, payload=b""
    )
    with pytest.raises(InputError, match="features"):
        pack(frame)


@given(st.integers(0, 2**35 - 1))
def test_varints_round_trip(value: int) -> None:
    assert read_varint(write_varint(value), 0) == (value, len(write_varint(value)))


@pytest.mark.parametrize("data", [b"\x80\x00", b"\xff\xff\xff\xff\xff\x01"])
def test_overlong_varints_are_rejected(data: bytes) -> None:
    with pytest.raises(Corrupt):
        read_varint(data, 0)
