"""Step frames: what is packed is parsed and decodes as the whole frame; every damage ends in an error of the tree."""

import contextlib
import tracemalloc
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import dtufc
from dtufc.coding.arrays import Array
from dtufc.coding.bitstream import (
    MAX_PAYLOAD_BYTES,
    MAX_SESSION_ROWS,
    MAX_VALUES,
    CodecId,
    Dtype,
    Frame,
    StepContext,
    pack_step,
    parse_step,
    write_varint,
)
from dtufc.coding.codecs.learned import VARIANTS
from dtufc.coding.entropy import TOTAL, Decoder, Encoder, Tables
from dtufc.coding.feature_codec import FeatureCodec
from dtufc.errors import BitstreamError, Corrupt, Desync, DisagreementError, InputError, Truncated
from tests.coding.contract import DTYPES, features, fitted

CODECS = ("raw", "levels", "klt", *VARIANTS)
CONTEXTS = st.builds(
    StepContext,
    profile_digest=st.binary(min_size=8, max_size=8),
    codec=st.sampled_from(CodecId),
    dtype=st.sampled_from(Dtype),
    channels=st.integers(1, 5000),
)
EXAMPLE = Frame(
    codec=CodecId.raw,
    dtype=Dtype.float32,
    shape=(1, 2),
    profile_digest=bytes(range(8)),
    symbol_crc=0,
    payload=np.array([1.0, -2.5], "<f4").tobytes(),
)


@st.composite
def sent_frames(draw: st.DrawFn) -> Frame:
    context = draw(CONTEXTS)
    return Frame(
        codec=context.codec,
        dtype=context.dtype,
        shape=(draw(st.integers(1, 3000)), context.channels),
        profile_digest=context.profile_digest,
        symbol_crc=0 if context.codec == CodecId.raw else draw(st.integers(0, 2**32 - 1)),
        payload=draw(st.binary(max_size=300)),
    )


def damaged(data: bytes, bits: Iterable[int]) -> Iterator[bytes]:
    """Each byte with some of its bits flipped one at a time, removed, doubled, and with all behind it cut off."""
    for at in range(len(data)):
        yield from (data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :] for bit in bits)
        yield from (data[:at] + data[at + 1 :], data[: at + 1] + data[at:], data[:at])


@pytest.fixture(scope="module")
def codec() -> FeatureCodec:
    return fitted("llm")


@pytest.fixture(scope="module")
def shipped() -> FeatureCodec:
    return dtufc.load("smollm2-135m")


@given(sent_frames(), st.data())
def test_parse_inverts_pack(frame: Frame, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, MAX_SESSION_ROWS - frame.shape[0]))
    packed = pack_step(frame, position)
    assert parse_step(packed, StepContext.of(frame)) == (position, frame)
    assert pack_step(replace(frame, shape=(1, *frame.shape)), position) == packed


@given(sent_frames(), st.integers(0, 2**21 - 1), st.integers(1, 127))
def test_at_most_eight_bytes_surround_a_payload(frame: Frame, position: int, rows: int) -> None:
    packed = pack_step(replace(frame, shape=(rows, frame.shape[1])), position)
    assert 5 <= len(packed) - len(frame.payload) <= 8


def test_the_specification_s_example_is_what_is_packed() -> None:
    before_check = bytes.fromhex("ac 02 01 00 00 80 3f 00 00 20 c0")
    assert pack_step(EXAMPLE, 300) == before_check + bytes.fromhex("dc 30 0e 5e")
    coded = replace(EXAMPLE, codec=CodecId.levels, symbol_crc=0x01020304)
    assert zlib.crc32(EXAMPLE.profile_digest + b"\x01\x00\x02" + before_check) == 0xC301D1AA
    assert pack_step(coded, 300) == before_check + bytes.fromhex("ab d3 02 c7")


@given(st.binary(max_size=300), CONTEXTS)
@example(b"", StepContext.of(EXAMPLE))
def test_random_bytes_are_rejected_or_parsed(data: bytes, context: StepContext) -> None:
    try:
        position, frame = parse_step(data, context)
    except BitstreamError:
        return
    assert pack_step(frame, position) == data


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_come_back_as_through_a_whole_frame(
    shipped: FeatureCodec, name: str, rows: int, dtype: type, rng: np.random.Generator
) -> None:
    sent: Array = (rng.standard_t(4, size=(rows, 576)) * np.geomspace(0.1, 2, 576)).astype(dtype)
    encoded = shipped.encode(sent, codec=name, quality=shipped.quality_ranges.get(name, (0, 0.6))[1])
    position, frame = parse_step(pack_step(encoded.frame, 40), StepContext.of(encoded.frame))
    assert (position, frame) == (40, encoded.frame)
    assert shipped.decode_frame(frame).tobytes() == shipped.decode(encoded).tobytes()


@pytest.mark.parametrize("name", CODECS)
def test_every_damage_is_an_error(codec: FeatureCodec, name: str, rng: np.random.Generator) -> None:
    encoded = codec.encode(features(rng, (1, 24)), codec=name, quality=0.0)
    context, bits = StepContext.of(encoded.frame), (3,) if name in VARIANTS else range(8)
    for broken in damaged(pack_step(encoded.frame, 300), bits):
        with pytest.raises((BitstreamError, Desync)):
            codec.decode_frame(parse_step(broken, context)[1])
        if name == "raw":
            with pytest.raises((Corrupt, Truncated)):
                parse_step(broken, context)


@pytest.mark.parametrize("name", CODECS)
def test_another_context_is_an_error(codec: FeatureCodec, name: str, rng: np.random.Generator) -> None:
    encoded = codec.encode(features(rng, (2, 24)), codec=name, quality=0.0)
    packed, context = pack_step(encoded.frame, 7), StepContext.of(encoded.frame)
    for other in (
        replace(context, profile_digest=context.profile_digest[::-1]),
        *(replace(context, codec=one) for one in CodecId if one != context.codec),
        *(replace(context, dtype=one) for one in Dtype if one != context.dtype),
        *(replace(context, channels=channels) for channels in (1, 12, 23, 25, 48, 128)),
    ):
        with pytest.raises((BitstreamError, DisagreementError)):
            codec.decode_frame(parse_step(packed, other)[1])
        with contextlib.suppress(Corrupt):  # raw
            assert parse_step(packed, other)[1].symbol_crc != encoded.frame.symbol_crc


@pytest.mark.parametrize("size", [16, 256])
def test_a_flipped_bit_changes_both_checksums_differently_where_tables_are_flat(size: int) -> None:
    tables = Tables([np.full(size, TOTAL // size, np.uint32)], escape=False)
    context = StepContext(profile_digest=bytes(8), codec=CodecId.levels, dtype=Dtype.float32, channels=1)
    for rows in range(1, 40):
        encoder = Encoder()
        encoder.write(tables, 0, np.random.default_rng(rows).integers(0, size, rows, np.int32))
        frame = Frame(
            codec=context.codec,
            dtype=context.dtype,
            shape=(rows, context.channels),
            profile_digest=context.profile_digest,
            symbol_crc=encoder.crc,
            payload=encoder.finish(),
        )
        packed = bytearray(pack_step(frame, 0))
        for bit in range(16, 8 * len(packed)):
            packed[bit // 8] ^= 1 << bit % 8
            broken = parse_step(bytes(packed), context)[1]
            packed[bit // 8] ^= 1 << bit % 8
            with pytest.raises((BitstreamError, Desync)):  # noqa: PT012
                decoder = Decoder(broken.payload)
                decoder.read(tables, 0, rows)
                decoder.finish(broken.symbol_crc)


@pytest.mark.parametrize(
    ("position", "rows", "channels"),
    [(0, 0, 24), (MAX_SESSION_ROWS, 1, 24), (MAX_SESSION_ROWS - 1, 2, 24), (0, MAX_VALUES // 24 + 1, 24),
     (2**35 - 1, 1, 24), (0, 2**35 - 1, 24)],
)  # fmt: skip
def test_sizes_are_checked_before_anything_is_allocated(position: int, rows: int, channels: int) -> None:
    context = replace(StepContext.of(EXAMPLE), codec=CodecId.klt, channels=channels)
    data = write_varint(position) + write_varint(rows) + bytes(20)
    tracemalloc.start()
    with pytest.raises(Corrupt, match=f"{rows} rows of {channels} values at position {position}"):
        parse_step(data, context)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 16


def test_a_payload_that_is_too_long_is_rejected_on_both_sides() -> None:
    too_long = bytes(MAX_PAYLOAD_BYTES + 1)
    with pytest.raises(InputError, match="payload: 134217729 bytes"):
        pack_step(replace(EXAMPLE, payload=too_long), 0)
    with pytest.raises(Corrupt, match="a payload of 134217729 bytes"):
        parse_step(b"\x00\x01" + too_long + bytes(4), StepContext.of(EXAMPLE))


def test_an_end_within_the_head_or_the_check_is_truncated() -> None:
    for data in (b"", b"\xac", b"\xac\x02", b"\xac\x02\x81", b"\xac\x02\x01", b"\xac\x02\x01\x00\x00\x00"):
        with pytest.raises(Truncated):
            parse_step(data, StepContext.of(EXAMPLE))


@pytest.mark.parametrize("shape", [(2,), (2, 1, 2), (1, 1, 1, 2), (0, 2), (1, MAX_VALUES + 1)])
def test_a_shape_that_is_not_one_of_rows_is_an_input_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="features"):
        pack_step(replace(EXAMPLE, shape=shape), 0)


@pytest.mark.parametrize("position", [-1, MAX_SESSION_ROWS - 2])
def test_a_position_out_of_range_is_an_input_error(position: int) -> None:
    rows = replace(EXAMPLE, shape=(3, 2))
    with pytest.raises(InputError, match=f"position: {position}, with 3 rows to come"):
        pack_step(rows, position)
    last = MAX_SESSION_ROWS - 3
    assert parse_step(pack_step(rows, last), StepContext.of(rows)) == (last, rows)
