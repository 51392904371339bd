"""Frames: the bytes that cross the wire. `docs/bitstream.md` is the specification.

Pure and self-contained: standard library only, no I/O, no arrays. `parse` and `parse_step` return a Frame or raise
BitstreamError, for every input; they check every size against a cap before anything is allocated.
"""

import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum
from math import prod
from typing import Final, Self

from dtufc.errors import BadMagic, Corrupt, InputError, Truncated, UnsupportedVersion

MAGIC: Final = b"DTU"
VERSION: Final = 1
MAX_RANK: Final = 4
MAX_VALUES: Final = 1 << 24  # values in one feature: 64 MiB as float32
MAX_PAYLOAD_BYTES: Final = 1 << 27
MAX_SESSION_ROWS: Final = 1 << 24  # position and rows of a step frame together
DIGEST_BYTES: Final = 8

_HEAD = struct.Struct("<3sBBBBB")  # magic, version, codec, dtype, rank, reserved
_SUMS = struct.Struct("<II")  # symbol CRC, frame CRC
_CHECK = struct.Struct("<I")  # of a step frame
_MAX_VARINT_BYTES: Final = 5


class Dtype(IntEnum):
    """The type of the features that went in, and of those that come out."""

    float32 = 0
    float16 = 1
    bfloat16 = 2


class CodecId(IntEnum):
    """The wire's numbers for the codecs; a number is never given twice (5 was `gridprior`)."""

    raw = 0
    levels = 1
    klt = 2
    hyperprior = 3
    elic = 4
    kltprior = 6


_DTYPES: Final = frozenset(Dtype)
_CODECS: Final = frozenset(CodecId)


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One encoded feature tensor.

    Attributes:
        codec: which codec made the payload.
        dtype: of the features.
        shape: of the features, 1 to 4 dimensions, none of them zero.
        profile_digest: the first 8 bytes of the profile's SHA-256.
        symbol_crc: CRC-32 of the symbols that the payload decodes to; the codec says which bytes.
        payload: the codec's own bytes.
    """

    codec: CodecId
    dtype: Dtype
    shape: tuple[int, ...]
    profile_digest: bytes
    symbol_crc: int
    payload: bytes

    @property
    def num_values(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepContext:
    """What the opening of a session fixed: its step frames leave it out.

    Attributes:
        profile_digest: as of a Frame.
        codec: as of a Frame.
        dtype: as of a Frame.
        channels: of a row, at least 1.
    """

    profile_digest: bytes
    codec: CodecId
    dtype: Dtype
    channels: int

    @classmethod
    def of(cls, frame: Frame) -> Self:
        """The context in which `frame`, of shape [..., channels], can go as a step frame."""
        return cls(profile_digest=frame.profile_digest, codec=frame.codec, dtype=frame.dtype, channels=frame.shape[-1])

    @property
    def crc(self) -> int:
        """Of all this; the CRC of every step frame goes on from here."""
        return zlib.crc32(self.profile_digest + bytes((self.codec, self.dtype)) + write_varint(self.channels))


def check_shape(shape: tuple[int, ...]) -> None:
    """Raises InputError unless a frame can carry this shape."""
    if not 1 <= len(shape) <= MAX_RANK:
        raise InputError(
            field="features", problem=f"{len(shape)} dimensions", remedy=f"Give an array of 1 to {MAX_RANK} dimensions"
        )
    if min(shape) < 1:
        raise InputError(field="features", problem=f"shape {shape} holds no value", remedy="Give at least one value")
    if prod(shape) > MAX_VALUES:
        raise InputError(
            field="features", problem=f"{prod(shape)} values", remedy=f"Send at most {MAX_VALUES} values a frame"
        )


def pack(frame: Frame) -> bytes:
    """Frame to bytes.

    Raises:
        InputError: the shape or the payload is beyond what a frame can carry.
    """
    _check_sizes(frame)
    head = _HEAD.pack(MAGIC, VERSION, frame.codec, frame.dtype, len(frame.shape), 0)
    sizes = b"".join(write_varint(size) for size in (*frame.shape, len(frame.payload)))
    body = head + frame.profile_digest + sizes + frame.payload
    return body + _SUMS.pack(frame.symbol_crc, zlib.crc32(struct.pack("<I", frame.symbol_crc), zlib.crc32(body)))


def parse(data: bytes) -> Frame:
    """Bytes to Frame.

    Raises:
        BitstreamError: for every input that `pack` did not make.
    """
    _need(data, _HEAD.size)
    magic, version, codec, dtype, rank, reserved = _HEAD.unpack_from(data)
    if magic != MAGIC:
        raise BadMagic(found=data[:3].hex())
    if version != VERSION:
        raise UnsupportedVersion(found=version, supported=VERSION)
    if codec not in _CODECS or dtype not in _DTYPES or reserved:
        raise Corrupt(problem=f"codec {codec}, dtype {dtype} or flags {reserved} that this release does not know")
    if not 1 <= rank <= MAX_RANK:
        raise Corrupt(problem=f"{rank} dimensions")
    offset = _HEAD.size + DIGEST_BYTES
    _need(data, offset)
    shape, offset = _read_shape(data, offset, rank)
    payload_bytes, offset = read_varint(data, offset)
    if payload_bytes > MAX_PAYLOAD_BYTES:
        raise Corrupt(problem=f"a payload of {payload_bytes} bytes")
    end = offset + payload_bytes
    _need(data, end + _SUMS.size)
    if len(data) > end + _SUMS.size:
        raise Corrupt(problem=f"{len(data) - end - _SUMS.size} bytes after its end")
    symbol_crc, frame_crc = _SUMS.unpack_from(data, end)
    if zlib.crc32(memoryview(data)[: end + 4]) != frame_crc:
        raise Corrupt(problem="checksum differs")
    return Frame(
        codec=CodecId(codec),
        dtype=Dtype(dtype),
        shape=shape,
        profile_digest=data[_HEAD.size : _HEAD.size + DIGEST_BYTES],
        symbol_crc=symbol_crc,
        payload=data[offset:end],
    )


def pack_step(frame: Frame, position: int) -> bytes:
    """Frame to a step frame: position, rows, payload and one checksum. `docs/bitstream.md`, "Step frame".

    Args:
        frame: of shape [rows, channels] or [1, rows, channels].
        position: the number of the session's rows before the first one of this frame.

    Raises:
        InputError: the shape, the payload or the position is beyond what a step frame can carry.
    """
    _check_sizes(frame)
    match frame.shape:
        case (rows, _) | (1, rows, _):
            pass
        case _:
            remedy = "Give an array [rows, channels] or [1, rows, channels]"
            raise InputError(field="features", problem=f"shape {frame.shape} is not one of rows", remedy=remedy)
    if not 0 <= position <= MAX_SESSION_ROWS - rows:
        problem = f"{position}, with {rows} rows to come"
        remedy = f"Start at 0 or later, and end at row {MAX_SESSION_ROWS} or earlier"
        raise InputError(field="position", problem=problem, remedy=remedy)
    body = write_varint(position) + write_varint(rows) + frame.payload
    return body + _CHECK.pack(zlib.crc32(body, StepContext.of(frame).crc) ^ _reversed(frame.symbol_crc))


def parse_step(data: bytes, context: StepContext) -> tuple[int, Frame]:
    """A step frame to its position and a Frame of shape (rows, channels).

    Damaged bytes, and those of another context, give the Frame another symbol CRC than its payload has, so that
    decoding it ends in an error. `raw` has no symbols: here it is rejected at once.

    Raises:
        BitstreamError: the bytes are no step frame; for `raw`, every input that `pack_step` did not make.
    """
    position, offset = read_varint(data, 0)
    rows, offset = read_varint(data, offset)
    _need(data, offset + _CHECK.size)
    if rows < 1 or position + rows > MAX_SESSION_ROWS or rows * context.channels > MAX_VALUES:
        raise Corrupt(problem=f"{rows} rows of {context.channels} values at position {position}")
    end = len(data) - _CHECK.size
    if end - offset > MAX_PAYLOAD_BYTES:
        raise Corrupt(problem=f"a payload of {end - offset} bytes")
    symbol_crc = _reversed(_CHECK.unpack_from(data, end)[0] ^ zlib.crc32(memoryview(data)[:end], context.crc))
    if symbol_crc and context.codec == CodecId.raw:
        raise Corrupt(problem="checksum differs")
    return position, Frame(
        codec=context.codec,
        dtype=context.dtype,
        shape=(rows, context.channels),
        profile_digest=context.profile_digest,
        symbol_crc=symbol_crc,
        payload=data[offset:end],
    )


def write_varint(value: int) -> bytes:
    """An integer in [0, 2^35) as LEB128: seven bits a byte, low bits first, the top bit set on all but the last."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_varint(data: bytes, offset: int) -> tuple[int, int]:
    """Reads one LEB128 integer at `offset`; returns it and the offset behind it.

    Raises:
        Truncated: the data ends within it.
        Corrupt: it is longer than five bytes, or longer than it need be.
    """
    value = 0
    for index in range(_MAX_VARINT_BYTES):
        _need(data, offset + index + 1)
        byte = data[offset + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            if byte == 0 and index:
                raise Corrupt(problem="an overlong integer")
            return value, offset + index + 1
    raise Corrupt(problem="an integer of more than five bytes")


def _reversed(symbol_crc: int) -> int:
    """The four bytes in reverse order: a change that payload and symbols have in common does not cancel out."""
    return int.from_bytes(symbol_crc.to_bytes(4, "little"), "big")


def _check_sizes(frame: Frame) -> None:
    check_shape(frame.shape)
    if len(frame.payload) > MAX_PAYLOAD_BYTES:
        raise InputError(
            field="payload", problem=f"{len(frame.payload)} bytes", remedy=f"At most {MAX_PAYLOAD_BYTES} fit in a frame"
        )


def _read_shape(data: bytes, offset: int, rank: int) -> tuple[tuple[int, ...], int]:
    shape: list[int] = []
    for _ in range(rank):
        size, offset = read_varint(data, offset)
        shape.append(size)
    if min(shape) < 1 or prod(shape) > MAX_VALUES:
        raise Corrupt(problem=f"shape {tuple(shape)}")
    return tuple(shape), offset


def _need(data: bytes, size: int) -> None:
    if len(data) < size:
        raise Truncated(available=len(data), needed=size)
