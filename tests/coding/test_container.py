"""Containers: what is packed is parsed, and every other input is rejected as BitstreamError and nothing else."""

import tracemalloc
import zlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dtufc.coding import bitstream, container
from dtufc.coding.bitstream import CodecId, Dtype, Frame
from dtufc.errors import BadMagic, BitstreamError, Corrupt, InputError, Truncated, UnsupportedVersion
from tests.coding.test_bitstream import FRAMES

TUPLES = st.lists(FRAMES, min_size=1, max_size=5)


def packed(frames: list[Frame]) -> bytes:
    return container.pack([bitstream.pack(frame) for frame in frames])


def resealed(head: bytes, frames: bytes) -> bytes:
    """A forged container: `head` up to the CRC of the index, and a CRC that fits it."""
    return head + zlib.crc32(head).to_bytes(4, "little") + frames


def of_values(num_values: int) -> bytes:
    """A frame of raw that claims so many values."""
    return bitstream.pack(
        Frame(
            codec=CodecId.raw,
            dtype=Dtype.float32,
            shape=(num_values,),
            profile_digest=bytes(8),
            symbol_crc=0,
            payload=b"",
        )
    )


@given(TUPLES)
def test_parse_inverts_pack(frames: list[Frame]) -> None:
    whole = packed(frames)
    assert container.parse(whole) == frames
    assert [bitstream.parse(whole[place]) for place in container.index(whole)] == frames


@given(TUPLES, st.data())
def test_a_truncated_container_is_rejected(frames: list[Frame], data: st.DataObject) -> None:
    whole = packed(frames)
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    for read in (container.parse, container.index):
        with pytest.raises(BitstreamError):
            read(cut)


@given(TUPLES, st.data())
def test_a_flipped_bit_is_rejected(frames: list[Frame], data: st.DataObject) -> None:
    broken = bytearray(packed(frames))
    bit = data.draw(st.integers(0, 8 * len(broken) - 1))
    broken[bit // 8] ^= 1 << bit % 8
    with pytest.raises(BitstreamError):
        container.parse(bytes(broken))


@given(TUPLES, st.binary(min_size=1, max_size=20))
def test_trailing_bytes_are_rejected(frames: list[Frame], more: bytes) -> None:
    with pytest.raises(Corrupt, match="after its end"):
        container.parse(packed(frames) + more)


@given(st.lists(FRAMES, min_size=2, max_size=5), st.data())
def test_frames_in_another_order_than_the_index_are_rejected(frames: list[Frame], data: st.DataObject) -> None:
    encoded = [bitstream.pack(frame) for frame in frames]
    order = data.draw(st.permutations(encoded))
    whole = packed(frames)
    moved = whole[: container.index(whole)[0].start] + b"".join(order)
    if moved == whole:
        assert container.parse(moved) == frames
        return
    with pytest.raises(BitstreamError):
        container.parse(moved)


def test_frames_of_equal_length_that_changed_places_are_named() -> None:
    whole = container.pack([of_values(1), of_values(2)])
    one, other = container.index(whole)
    with pytest.raises(Corrupt, match="frame 0 is not the one that the index names"):
        container.parse(whole[: one.start] + whole[other] + whole[one])


@given(st.binary(max_size=400))
@example(b"")
@example(b"DTC\x01")
def test_random_bytes_are_rejected(data: bytes) -> None:
    with pytest.raises(BitstreamError):
        container.parse(data)


@given(st.integers(0, 2**16 - 1), st.binary(max_size=80), st.binary(max_size=80))
def test_a_forged_checksum_does_not_get_further(count: int, entries: bytes, frames: bytes) -> None:
    head = b"DTC\x01" + count.to_bytes(2, "little") + bytes(2) + entries
    with pytest.raises(BitstreamError):
        container.parse(resealed(head, frames))


def test_each_kind_of_damage_has_its_own_error() -> None:
    whole = container.pack([of_values(1)])
    start = container.index(whole)[0].start
    for broken, error, text in [
        (b"PNG" + whole[3:], BadMagic, "no DT-UFC frame"),
        (of_values(1), BadMagic, "no DT-UFC frame"),
        (whole[:3] + b"\x02" + whole[4:], UnsupportedVersion, "version 2"),
        (whole[:5], Truncated, "8 are needed"),
        (whole[:12], Truncated, "20 are needed"),
        (whole[:-5], Truncated, f"{len(whole)} are needed"),
        (whole[:4] + b"\x00\x00" + whole[6:], Corrupt, "0 frames"),
        (whole[:4] + b"\x01\x10" + whole[6:], Corrupt, "4097 frames"),
        (whole[:6] + b"\x01\x00" + whole[8:], Corrupt, "flags 1"),
        (whole[:9] + b"\x01" + whole[10:], Corrupt, "checksum of the index"),
        (whole[:-1] + bytes([whole[-1] ^ 1]), Corrupt, "frame 0 is not"),
        (whole[: start + 20] + bytes([whole[start + 20] ^ 1]) + whole[start + 21 :], Corrupt, "checksum differs"),
        (resealed(b"DTC\x01\x01\x00\x00\x00" + bytes(8), b""), Corrupt, "a frame of 0 bytes"),
    ]:
        with pytest.raises(error, match=text):
            container.parse(broken)


def test_sizes_are_checked_before_anything_is_allocated() -> None:
    largest = (2**32 - 1).to_bytes(4, "little") * 2
    huge = resealed(b"DTC\x01\x00\x10\x00\x00" + largest * 4096, b"")
    tracemalloc.start()
    with pytest.raises(Truncated):
        container.parse(huge)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_all_frames_together_have_a_limit_of_values() -> None:
    most = bitstream.MAX_VALUES
    fits = [of_values(most)] * (container.MAX_VALUES // most)
    whole = container.pack(fits)
    assert len(container.parse(whole)) == 16
    with pytest.raises(InputError, match="268435457 values in all"):
        container.pack([*fits, of_values(1)])
    entry = len(of_values(1)).to_bytes(4, "little") + of_values(1)[-4:]
    start = container.index(whole)[0].start
    head = b"DTC\x01\x11\x00\x00\x00" + whole[8 : start - 4] + entry
    with pytest.raises(Corrupt, match="more than 268435456 values"):
        container.parse(resealed(head, whole[start:] + of_values(1)))


def test_how_many_frames_there_may_be() -> None:
    whole = container.pack([of_values(1)] * container.MAX_FRAMES)
    assert len(container.parse(whole)) == 4096
    for number in (0, 4097):
        with pytest.raises(InputError, match=rf"{number} of them\. Give 1 to 4096"):
            container.pack([of_values(1)] * number)
