"""An image file taken to pieces: what decodes to pixels, and what says how to show them.

A decoder alone takes what it finds for the image: rows that are missing stay black, a scan is decoded as often as it
is there, text unpacks to gigabytes, a date of the wrong type ends the program. So the container is read here, and the
decoder gets a file that holds the first image and nothing else: no text, no dates, no further frames.

    JPEG    segments to the end marker; what follows it (a film, a second image) is left out
    PNG     chunks to IEND; of an animation, the image that viewers without animation show
    WebP    RIFF; of an animation, libwebp composes the first frame

Sizes are checked before anything is unpacked. What viewers pass over is passed over: checksums of chunks that say
nothing about pixels, bytes after the end. What they would show a part of is rejected.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeVar

from dtufc.errors import InputError
from dtufc.models.image_colours import png_profile

MAX_SCANS: Final = 100  # of a JPEG: an encoder writes about ten, and each costs a pass over the whole image
MAX_PROFILE_BYTES: Final = 4 << 20  # unpacked
_MAX_PARTS: Final = 1 << 16  # segments or chunks: a photograph has hundreds
_REMEDY: Final = "Send a whole JPEG, PNG or WebP file"
_PIECE: Final = 1 << 18  # bytes at a time, where only their number matters

T = TypeVar("T")

_MARKER: Final = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])", re.DOTALL)  # no zero byte, restart marker or fill byte
_KEPT: Final = {*range(0xC0, 0xD0), 0xDA, 0xDB, 0xDC, 0xDD, 0xDE, 0xDF}  # frames, tables and scans
_FRAMES: Final = _KEPT - {0xC4, 0xC8, 0xCC, 0xDA, 0xDB, 0xDC, 0xDD, 0xDE, 0xDF}
_HUFFMAN: Final = {0xC0, 0xC1, 0xC2}
_FILLING: Final = bytes(range(0x11, 0x99, 0x08)) * 2  # no marker, and no run of blocks that are alike

_CHANNELS: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_DEPTHS: Final = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_WHOLE: Final = ((0, 0, 1, 1),)
_ADAM7: Final = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a file holds.

    Attributes:
        kind: JPEG, PNG or WEBP.
        image: a file of that kind, of the first image alone.
        filled: of a JPEG, the same with more bytes behind each scan: where it decodes to other pixels, scans were
            cut off. Empty where that cannot be told so.
        exif: a TIFF structure, or empty.
        profile: an ICC profile, or empty.
    """

    kind: str
    image: bytes
    filled: bytes = b""
    exif: bytes = b""
    profile: bytes = b""


def damaged(problem: str) -> InputError:
    return InputError(field="image", problem=problem, remedy=_REMEDY)


def take_apart(data: bytes, max_pixels: int) -> Parts:
    """A JPEG, PNG or WebP file's parts.

    Raises:
        InputError: a file of another kind, one that is cut off or damaged, or one of too many pixels.
    """
    try:
        if data.startswith(b"\xff\xd8\xff"):
            return _jpeg(data, max_pixels)
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            return _png(data, max_pixels)
        if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            return _webp(data, max_pixels)
    except struct.error as error:
        raise damaged("ends within a field") from error
    raise InputError(field="image", problem="is none of a kind that is known", remedy="Send a JPEG, PNG or WebP file")


def _few(parts: Iterator[T]) -> Iterator[T]:
    for number, part in enumerate(parts):
        if number == _MAX_PARTS:
            raise damaged(f"has more than {_MAX_PARTS} segments")
        yield part


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if not 0 < width * height <= max_pixels:
        problem = f"{width} x {height} pixels"
        raise InputError(field="image", problem=problem, remedy=f"Send 1 to {max_pixels} pixels")


def _jpeg(data: bytes, max_pixels: int) -> Parts:
    image, filled, exif, profile = [b"\xff\xd8"], [b"\xff\xd8"], b"", []
    frame, num_scans = 0, 0
    for marker, body, scan in _few(_segments(data)):
        if marker in _FRAMES:
            if frame:
                raise damaged("has two frames")
            frame = marker
            height, width = struct.unpack_from(">HH", body, 1)
            _check_size(width, height, max_pixels)
        num_scans += marker == 0xDA
        if num_scans > MAX_SCANS:
            remedy = f"Send at most {MAX_SCANS}"
            raise InputError(field="image", problem=f"a JPEG of more than {MAX_SCANS} scans", remedy=remedy)
        if marker == 0xE1 and body.startswith(b"Exif\0\0"):
            exif = exif or body[6:]
        elif marker == 0xE2 and body.startswith(b"ICC_PROFILE\0"):
            profile.append(body[12:])
        elif marker in _KEPT or (marker, body[:4]) == (0xE0, b"JFIF") or (marker, body[:5]) == (0xEE, b"Adobe"):
            segment = struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body
            image += segment, scan
            filled += segment, scan, _FILLING if marker == 0xDA else b""
    if not num_scans or not frame:
        raise damaged("has no image in it")
    return Parts(
        kind="JPEG",
        image=b"".join(image) + b"\xff\xd9",
        filled=b"".join(filled) + b"\xff\xd9" if frame in _HUFFMAN else b"",
        exif=exif,
        profile=_joined(profile),
    )


def _segments(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """(marker, body, the coded data behind it) to the end marker. What is between segments is passed over."""
    marker, body, position = 0, b"", 2
    while True:
        found = _MARKER.search(data, position)
        if found is None:
            raise damaged("is cut off: it has no end marker")
        if marker:
            yield marker, body, data[position : found.start()].rstrip(b"\xff") if marker == 0xDA else b""
        marker, start = found[1][0], found.end()
        if marker == 0xD9:
            return
        length = 0 if marker == 0x01 else struct.unpack_from(">H", data, start)[0]
        body, position = data[start + 2 : start + length], start + length
        if marker != 0x01 and (length < 2 or position > len(data)):
            raise damaged("is cut off within a segment")


def _joined(profile: list[bytes]) -> bytes:
    """The parts of a profile, each behind its number and how many there are; empty where they are not all there."""
    profile = sorted(profile)
    whole = all(part[:2] == bytes([number, len(profile)]) for number, part in enumerate(profile, start=1))
    return b"".join(part[2:] for part in profile) if whole and len(profile) < 256 else b""


def _png(data: bytes, max_pixels: int) -> Parts:
    chunks, packed = _sorted_chunks(data)
    pixels = b"".join(packed)
    if len(chunks.get(b"IHDR", b"")) != 13:
        raise damaged("is a PNG without a header")
    header = chunks[b"IHDR"]
    width, height, depth, colour, packing, filtering, interlace = struct.unpack(">IIBBBBB", header)
    if depth not in _DEPTHS.get(colour, ()) or packing or filtering or interlace > 1:
        raise damaged("is a PNG of a kind that is not specified")
    _check_size(width, height, max_pixels)
    passes = _ADAM7 if interlace else _WHOLE
    _check_rows(pixels, width, height, depth * _CHANNELS[colour], passes)
    image = [(b"IHDR", header)]
    if colour == 3:
        if not chunks.get(b"PLTE"):
            raise damaged("is a PNG without its palette")
        image.append((b"PLTE", chunks[b"PLTE"][:768].ljust(768, b"\0")))  # of an entry that is missing: black
    transparency = _transparency(chunks.get(b"tRNS", b""), depth, colour)
    if transparency:
        image.append((b"tRNS", transparency))
    image += (b"IDAT", pixels), (b"IEND", b"")
    return Parts(
        kind="PNG",
        image=data[:8] + b"".join(map(_chunk, *zip(*image, strict=True))),
        exif=chunks.get(b"eXIf", b""),
        profile=png_profile(chunks, is_grey=colour in (0, 4), max_bytes=MAX_PROFILE_BYTES),
    )


def _sorted_chunks(data: bytes) -> tuple[dict[bytes, bytes], list[bytes]]:
    """(the first chunk of each name, the bodies of the first run of IDAT). Only eXIf counts behind the pixels."""
    chunks: dict[bytes, bytes] = {}
    pixels: list[bytes] = []
    last = b""
    for name, body in _few(_chunks(data)):
        if name == b"IDAT" and (not pixels or last == b"IDAT"):
            pixels.append(body)
        elif not pixels or name == b"eXIf":
            chunks.setdefault(name, body)
        last = name
    return chunks, pixels


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(name, body) of each chunk before IEND; one that does not matter and has a wrong checksum is passed over."""
    position = 8
    while position + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            break
        body, checksum = data[position + 8 : end - 4], data[end - 4 : end]
        matters = not name[0] & 0x20
        if checksum == struct.pack(">I", zlib.crc32(body, zlib.crc32(name))):
            if name == b"IEND":
                return
            if matters and name not in (b"IHDR", b"PLTE", b"IDAT"):
                raise damaged("is a PNG with a chunk that is not specified and without which it cannot be shown")
            yield name, body
        elif matters:
            raise damaged("is a PNG with a wrong checksum")
        position = end
    raise damaged("is cut off: it has no last chunk")


def _check_rows(
    pixels: bytes, width: int, height: int, bits: int, passes: tuple[tuple[int, int, int, int], ...]
) -> None:
    """Unpacks the rows, and keeps nothing of them: a decoder leaves what is missing black, and says nothing."""
    needed = 0
    for left, top, across, down in passes:
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        needed += rows * (1 + -(-columns * bits // 8)) if columns > 0 and rows > 0 else 0
    found, unpacking = 0, zlib.decompressobj()
    try:
        for start in range(0, len(pixels), _PIECE):
            rest = pixels[start : start + _PIECE]
            while rest and found < needed and not unpacking.eof:
                found += len(unpacking.decompress(rest, _PIECE))
                rest = unpacking.unconsumed_tail
        found += len(unpacking.flush()) if found < needed else 0
    except zlib.error as error:
        raise damaged(f"has pixels that cannot be unpacked: {error}") from error
    if found < needed:
        raise damaged(f"is cut off: {found} of {needed} bytes of pixels are there")


def _transparency(body: bytes, depth: int, colour: int) -> bytes:
    """A tRNS chunk as the decoder compares it with the pixels that it has brought to eight bits; empty for none."""
    if colour == 3:
        return body[:256]
    size = 2 * _CHANNELS[colour]
    if colour not in (0, 2) or len(body) < size:
        return b""
    if colour == 2 and depth == 16:
        problem = "has a transparent colour of 16 bits"
        raise InputError(field="image", problem=problem, remedy="Save it with an alpha channel")
    step = 255 // (2**depth - 1) if depth < 8 else 1
    samples = (sample % (1 << depth) * step for (sample,) in struct.iter_unpack(">H", body[:size]))
    return b"".join(struct.pack(">H", sample) for sample in samples)


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", len(body), name) + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(name)))


def _webp(data: bytes, max_pixels: int) -> Parts:
    end = 8 + struct.unpack_from("<I", data, 4)[0]
    if end > len(data):
        raise damaged(f"is cut off: {len(data)} of {end} bytes are there")
    chunks: dict[bytes, bytes] = {}
    for name, body in _few(_riff_chunks(data, end)):
        chunks.setdefault(name, body)
    _check_size(*_canvas(data[12:16], chunks), max_pixels)
    exif = chunks.get(b"EXIF", b"").removeprefix(b"Exif\0\0")
    return Parts(kind="WEBP", image=data[:end], exif=exif, profile=chunks.get(b"ICCP", b""))


def _riff_chunks(data: bytes, end: int) -> Iterator[tuple[bytes, bytes]]:
    position = 12
    while position + 8 <= end:
        name, length = struct.unpack_from("<4sI", data, position)
        if position + 8 + length > end:
            raise damaged("is cut off within a chunk")
        yield name, data[position + 8 : position + 8 + length]
        position += 8 + length + length % 2


def _canvas(name: bytes, chunks: dict[bytes, bytes]) -> tuple[int, int]:
    """(width, height) as the first chunk says it."""
    body = chunks.get(name, b"")
    if name == b"VP8X":
        low, high = struct.unpack_from("<IH", body, 4)
        return 1 + (low & 0xFFFFFF), 1 + (low >> 24 | high << 8)
    if name == b"VP8L" and body.startswith(b"\x2f"):
        (bits,) = struct.unpack_from("<I", body, 1)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if name == b"VP8 " and body[3:6] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", body, 6)
        return width & 0x3FFF, height & 0x3FFF
    raise damaged("is a WebP without an image")
