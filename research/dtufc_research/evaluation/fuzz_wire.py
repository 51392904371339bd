"""Hostile bytes of protobuf messages and of frames, made of valid ones by a seeded generator.

A message is read into fields, as the wire has them; a few are given values at their borders, lengths that do not fit,
other types, or are taken out, doubled or invented; or the bytes themselves are changed. A frame is changed behind its
checksum, or with one that fits again, so that what lies behind it is met too.
"""

import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor

from dtufc.coding import bitstream
from dtufc.coding.bitstream import StepContext
from dtufc.errors import BitstreamError

_VARINT, _FIXED64, _BYTES, _GROUP, _FIXED32 = 0, 1, 2, 3, 5
_NUMBERS: Final = (
    *(0, 1, 2, 3, 5, 8, 16, 20, 21, 26, 27, 64, 65, 100, 101, 127, 128, 129, 255, 256, 300, 301, 1024, 1025, 2049),
    *(1 << 14, 1 << 16, 1 << 24, (1 << 24) + 1, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 63) - 1),
    *(1 << 63, (1 << 64) - 1),
)
_REALS: Final = (
    *(float("inf"), float("-inf"), float("nan"), 0.0, -0.0, 0.5, 1.0, -1.0, 2.0, -2.0, 2.1, 100.0, -100.0, 1e-9),
    *(5e-324, 1e38, 1e308, -1e308, 0.6, 0.01, 0.001),
)
_TEXTS: Final = (
    *(
        b"",
        b" ",
        b"\n\t",
        b"\0",
        b"a",
        b"A\0B",
        b"{}",
        b"%s%n",
        b"../../etc/passwd",
        b"\xff\xfe",
        b"\xc3",
        b"\xed\xa0\x80",
    ),
    *(b"tiny", b"tiny-vit", b"raw", b"levels", b"klt", b"elic", b"kltprior", b"float32", b"bfloat16", b"int8"),
    *(b"user", b"assistant", b"system", b"<|im_start|>", b"\xf4\x90\x80\x80", b"\xc0\x80", b"type.googleapis.com/"),
    *("\U0001f600".encode(), "\u202e\u0301\u200d".encode(), "\ufeff\ufffd".encode(), "é".encode(), b"a" * 300),
)
_SIZES: Final = (0, 1, 2, 31, 33, 1000, 1 << 14, 1 << 24, (1 << 35) - 1)
_LONG: Final = (1000, 20_000, 200_000)
_MAX_EDITS: Final = 3


@dataclass(slots=True)
class Field:
    """One field as the wire has it.

    Attributes:
        number: of the field.
        kind: its wire type.
        value: an integer, bytes, or the fields of a message.
        of: what the schema says of it; None where it does not know it.
    """

    number: int
    kind: int
    value: "int | bytes | list[Field]"
    of: FieldDescriptor | None = field(default=None)


def hostile_message(
    random: Random,
    valid: bytes,
    schema: Any,
    others: Sequence[bytes],
    bytes_of: Callable[[Random, str, bytes], bytes],
) -> bytes:
    """A message made of a valid one.

    Args:
        random: all choices are its.
        valid: to start from.
        schema: descriptor of the message.
        others: messages of any kind, to mix in.
        bytes_of: hostile content of a bytes field, by its name, made of what it has.
    """
    way = random.random()
    if way < 0.02:
        return random.choice((b"", random.randbytes(random.choice((1, 2, 10, 1000))), random.choice(others)))
    if way < 0.12:
        return hostile_bytes(random, valid)
    fields = _read(schema, valid)
    for _ in range(random.randint(1, _MAX_EDITS)):
        _edit(random, schema, fields, bytes_of)
    data = _write(fields)
    return hostile_bytes(random, data) if way < 0.15 else data


def hostile_bytes(random: Random, data: bytes) -> bytes:
    """Bytes with bits flipped, parts cut, doubled, moved or put in."""
    changed = bytearray(data)
    for _ in range(random.randint(1, _MAX_EDITS)):
        place = random.randrange(len(changed) + 1)
        length = min(random.choice((1, 1, 2, 4, 16, 256)), len(changed) - place)
        match random.randrange(6):
            case 0 | 1 if place < len(changed):
                changed[place] ^= 1 << random.randrange(8)
            case 2:
                del changed[place : place + length]
            case 3:
                changed[place:place] = changed[place : place + length] * random.choice((1, 1, 50))
            case 4:
                changed[place:place] = random.randbytes(random.choice((1, 2, 8, 64)))
            case _:
                del changed[place:]
    return bytes(changed)


def hostile_frame(random: Random, valid: bytes) -> bytes:
    """A frame made of one, which may be hostile already; half of them with a checksum that fits."""
    try:
        frame = bitstream.parse(valid)
    except BitstreamError:
        return hostile_bytes(random, valid)
    if random.random() < 0.5:
        return hostile_bytes(random, valid)
    head = [bitstream.MAGIC, bitstream.VERSION, int(frame.codec), int(frame.dtype), len(frame.shape), 0]
    shape, payload, symbols = list(frame.shape), frame.payload, frame.symbol_crc
    match random.randrange(6):
        case 0:
            head[random.randrange(1, 6)] = random.choice((0, 1, 2, 3, 4, 5, 6, 255))
        case 1:
            shape[random.randrange(len(shape))] = random.choice(
                (0, 1, 2, 31, 33, 1000, 1 << 14, 1 << 24, (1 << 35) - 1)
            )
        case 2:
            shape = [random.choice((1, 2, 5, 32)) for _ in range(random.randint(1, 5))]
        case 3:
            symbols ^= 1 << random.randrange(32)
        case _:
            payload = hostile_bytes(random, payload)
    sizes = b"".join(bitstream.write_varint(size) for size in (*shape, len(payload)))
    body = struct.pack("<3sBBBBB", *head) + frame.profile_digest + sizes + payload + struct.pack("<I", symbols)
    return body + struct.pack("<I", zlib.crc32(body))


def hostile_step(random: Random, valid: bytes, context: StepContext) -> bytes:
    """A step frame made of a valid one; half of them with a checksum that fits its payload's symbols."""
    if random.random() < 0.5:
        return hostile_bytes(random, valid)
    position, frame = bitstream.parse_step(valid, context)
    rows, payload = frame.shape[0], frame.payload
    match random.randrange(3):
        case 0:
            position = random.choice((0, 1, 4, 6, 127, 128, 1 << 24, (1 << 35) - 1))
        case 1:
            rows = random.choice((0, 2, 3, 128, 1 << 19, 1 << 24, (1 << 35) - 1))
        case _:
            payload = hostile_bytes(random, payload)
    body = bitstream.write_varint(position) + bitstream.write_varint(rows) + payload
    reversed_symbols = int.from_bytes(frame.symbol_crc.to_bytes(4, "little"), "big")
    return body + struct.pack("<I", zlib.crc32(body, context.crc) ^ reversed_symbols)


def _edit(random: Random, schema: Any, fields: list[Field], bytes_of: Callable[..., bytes]) -> None:
    """Changes one field, here or in a message within."""
    within = [each for each in fields if isinstance(each.value, list)]
    if within and random.random() < 0.5:
        chosen = random.choice(within)
        assert isinstance(chosen.value, list)
        assert chosen.of is not None
        return _edit(random, chosen.of.message_type, chosen.value, bytes_of)
    match random.randrange(20):
        case 0 if fields:
            fields.remove(random.choice(fields))
        case 1 if fields:
            fields += [random.choice(fields)] * random.choice((1, 2, 30, 400))
        case 2:
            fields.append(Field(random.choice((15, 1000, (1 << 29) - 1)), _VARINT, random.choice(_NUMBERS)))
        case 3 if fields:  # another type
            chosen = random.choice(fields)
            chosen.kind = random.choice((_VARINT, _FIXED64, _BYTES, _GROUP, _FIXED32, 7))
            chosen.value = random.choice(_NUMBERS) if chosen.kind == _VARINT else random.randbytes(8)
        case 4 if fields:  # a length that does not fit
            random.choice(fields).value = b"\xff" * random.randint(1, 4)
        case _:
            known = random.choice([each.of for each in fields if each.of] + list(schema.fields) or [None])
            if known is not None:
                old = next((each for each in fields if each.of is known), None)
                new = Field(known.number, *_border(random, known, old, bytes_of), known)
                fields[:] = [each for each in fields if each is not old or known.is_repeated] + [new]
    return None


def _border(
    random: Random, known: FieldDescriptor, old: Field | None, bytes_of: Callable[..., bytes]
) -> tuple[int, Any]:
    """Wire type and value at a border of what the field may have."""
    match known.type:
        case FieldDescriptor.TYPE_DOUBLE:
            return _FIXED64, struct.pack("<d", random.choice(_REALS))
        case FieldDescriptor.TYPE_FLOAT:
            number = random.choice(_REALS)
            return _FIXED32, struct.pack("<f", number if abs(number) < 1e38 or abs(number) == float("inf") else 1e38)
        case FieldDescriptor.TYPE_BYTES:
            return _BYTES, bytes_of(random, known.name, old.value if old and isinstance(old.value, bytes) else b"")
        case FieldDescriptor.TYPE_STRING:
            long = random.choice(("a", "é ", "\n", "\U0001f600")).encode() * random.choice(_LONG)
            return _BYTES, random.choice((*_TEXTS, long))
        case FieldDescriptor.TYPE_MESSAGE:
            return _BYTES, random.choice((b"", b"\x08", random.randbytes(6), b"\x0a\x00" * 1000))
    return _VARINT, random.choice(_NUMBERS)


def _read(schema: Any, data: bytes) -> list[Field]:
    """The fields of a valid message."""
    fields, offset = list[Field](), 0
    while offset < len(data):
        tag, offset = _read_number(data, offset)
        number, kind = tag >> 3, tag & 7
        known = schema.fields_by_number.get(number)
        if kind == _VARINT:
            value, offset = _read_number(data, offset)
            fields.append(Field(number, kind, value, known))
            continue
        length = {_FIXED64: 8, _FIXED32: 4}.get(kind, -1)
        if length < 0:
            length, offset = _read_number(data, offset)
        part, offset = data[offset : offset + length], offset + length
        is_message = kind == _BYTES and known is not None and known.type == FieldDescriptor.TYPE_MESSAGE
        fields.append(Field(number, kind, _read(known.message_type, part) if is_message and known else part, known))
    return fields


def _write(fields: Sequence[Field]) -> bytes:
    out = bytearray()
    for each in fields:
        out += _number(each.number << 3 | each.kind)
        if isinstance(each.value, int):
            out += _number(each.value)
            continue
        data = _write(each.value) if isinstance(each.value, list) else each.value
        out += (_number(len(data)) if each.kind == _BYTES else b"") + data
    return bytes(out)


def _number(value: int) -> bytes:
    return bitstream.write_varint(value)


def _read_number(data: bytes, offset: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = data[offset]
        value, shift, offset = value | (byte & 0x7F) << shift, shift + 7, offset + 1
        if byte < 0x80:
            return value, offset
