"""Containers: the frames of several tensors in one file, behind one index. `docs/bitstream.md`, "Container".

    magic  version  count | length and CRC of each frame | CRC of all before | frames

Pure, as `bitstream`: standard library only, no I/O, no arrays. `parse` returns Frames or raises BitstreamError, for
every input; every size is checked before anything is allocated.
"""

import struct
import zlib
from collections.abc import Sequence
from typing import Final

from dtufc.coding import bitstream
from dtufc.coding.bitstream import Frame
from dtufc.errors import BadMagic, Corrupt, InputError, Truncated, UnsupportedVersion

MAGIC: Final = b"DTC"
VERSION: Final = 1
MAX_FRAMES: Final = 4096
MAX_VALUES: Final = 1 << 28  # of all frames together: 1 GiB as float32

_HEAD = struct.Struct("<3sBHH")  # magic, version, count, reserved
_ENTRY = struct.Struct("<II")  # length of a frame, its CRC
_SUM = struct.Struct("<I")
_MIN_FRAME_BYTES: Final = 26


def check_sizes(num_frames: int, num_values: int) -> None:
    """Raises InputError unless a container can carry so many frames, and so many values in all."""
    if not 1 <= num_frames <= MAX_FRAMES:
        raise InputError(field="tensors", problem=f"{num_frames} of them", remedy=f"Give 1 to {MAX_FRAMES}")
    if num_values > MAX_VALUES:
        remedy = f"Send at most {MAX_VALUES} values a container"
        raise InputError(field="tensors", problem=f"{num_values} values in all", remedy=remedy)


def pack(frames: Sequence[bytes]) -> bytes:
    """Frames, as `bitstream.pack` returns them, to bytes.

    Raises:
        InputError: none, too many, or too many values.
        BitstreamError: one is no frame.
    """
    check_sizes(len(frames), sum(bitstream.parse(frame).num_values for frame in frames))
    entries = b"".join(_ENTRY.pack(len(frame), _crc_of(frame)) for frame in frames)
    head = _HEAD.pack(MAGIC, VERSION, len(frames), 0) + entries
    return b"".join([head, _SUM.pack(zlib.crc32(head)), *frames])


def parse(data: bytes) -> list[Frame]:
    """Bytes to Frames.

    Raises:
        BitstreamError: for every input that `pack` did not make.
    """
    frames: list[Frame] = []
    num_values = 0
    for number, (place, crc) in enumerate(_entries(data)):
        frame = data[place]
        if _crc_of(frame) != crc:
            raise Corrupt(problem=f"frame {number} is not the one that the index names")
        frames.append(bitstream.parse(frame))
        num_values += frames[-1].num_values
        if num_values > MAX_VALUES:
            raise Corrupt(problem=f"more than {MAX_VALUES} values")
    return frames


def index(data: bytes) -> list[slice]:
    """Where each frame lies in the bytes of a container, so that one can be decoded without the others.

    Raises:
        BitstreamError: the head or the index is damaged, or the bytes are fewer or more than it says.
    """
    return [place for place, _ in _entries(data)]


def _entries(data: bytes) -> list[tuple[slice, int]]:
    """(place, CRC) of each frame."""
    start = _index_end(data)
    listed = _ENTRY.iter_unpack(memoryview(data)[_HEAD.size : start - _SUM.size])
    entries: list[tuple[slice, int]] = []
    for length, crc in listed:
        if length < _MIN_FRAME_BYTES:
            raise Corrupt(problem=f"a frame of {length} bytes")
        entries.append((slice(start, start + length), crc))
        start += length
    if len(data) < start:
        raise Truncated(available=len(data), needed=start)
    if len(data) > start:
        raise Corrupt(problem=f"{len(data) - start} bytes after its end")
    return entries


def _index_end(data: bytes) -> int:
    """Checks the head and the index's CRC; returns where the first frame begins."""
    if len(data) < _HEAD.size:
        raise Truncated(available=len(data), needed=_HEAD.size)
    magic, version, count, reserved = _HEAD.unpack_from(data)
    if magic != MAGIC:
        raise BadMagic(found=data[:3].hex())
    if version != VERSION:
        raise UnsupportedVersion(found=version, supported=VERSION)
    if not 1 <= count <= MAX_FRAMES or reserved:
        raise Corrupt(problem=f"{count} frames or flags {reserved} that this release does not know")
    end = _HEAD.size + count * _ENTRY.size
    if len(data) < end + _SUM.size:
        raise Truncated(available=len(data), needed=end + _SUM.size)
    if zlib.crc32(memoryview(data)[:end]) != _SUM.unpack_from(data, end)[0]:
        raise Corrupt(problem="checksum of the index differs")
    return end + _SUM.size


def _crc_of(frame: bytes) -> int:
    """The frame's own CRC, its last four bytes: a CRC over those as well would be the same for every frame."""
    return int(_SUM.unpack_from(frame, len(frame) - _SUM.size)[0])
