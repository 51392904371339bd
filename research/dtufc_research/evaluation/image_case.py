"""An image file with the pixels that a viewer shows, and what the files are made of: colours, and Pillow's compressors.

The pixels follow from the formats' specifications: Pillow compresses, and nothing of it converts.
"""

import io
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from PIL import Image

from dtufc.coding.arrays import Array

WIDTH, HEIGHT = 19, 13
NEAR: Final = 4  # by which a JPEG at quality 100 may differ
LOSSY: Final = 12  # a lossy WebP, or a JPEG of few bits
_D65: Final = (0.3127, 0.3290)
SRGB: Final = (_D65, (0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
P3: Final = (_D65, (0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
_SRGB_TO_D50: Final = np.array(  # XYZ of sRGB's red, green and blue, adapted (IEC 61966-2-1, Bradford)
    [[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169], [0.0139322, 0.0971045, 0.7141733]]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A file.

    Attributes:
        name: of the file.
        holds: what is in it.
        data: the file.
        shown: uint8[H, W, 3]; None where no viewer shows it whole, and it must be rejected.
        tolerance: in levels of 255.
    """

    name: str
    holds: str
    data: bytes
    shown: Array | None
    tolerance: int = 0


def as_rgb(levels: Array) -> Array:
    """uint8 [H, W, 3] of grey or coloured levels."""
    return np.broadcast_to(levels, (*levels.shape[:2], 3)).round().astype(np.uint8)


def over_white(levels: Array, alpha: Array) -> Array:
    """Levels and an alpha [H, W, 1], of 0 to 1."""
    return as_rgb(levels * alpha + 255 * (1 - alpha))


def _linear(levels: Array) -> Array:
    """sRGB's curve, of 0 to 255 (IEC 61966-2-1)."""
    value = levels / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def encoded(light: Array) -> Array:
    light = light.clip(0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def _to_xyz(corners: Sequence[tuple[float, float]]) -> Array:
    """[3, 3]: XYZ of red, green and blue."""
    white, *primaries = (np.array([x / y, 1, (1 - x - y) / y]) for x, y in corners)
    columns = np.stack(primaries, axis=1)
    return columns * np.linalg.solve(columns, white)


def from_p3(levels: Array, light: Array | None = None) -> Array:
    """Display P3 -> sRGB; the white is the same."""
    light = _linear(levels) if light is None else light
    return as_rgb(encoded(light @ (np.linalg.inv(_to_xyz(SRGB)) @ _to_xyz(P3)).T))


def cmyk_profile() -> tuple[bytes, Array]:
    """A printer's profile, and the sRGB levels [2, 2, 2, 2, 3] of its inks without and in full."""
    inks = np.array([[0, 140, 200], [220, 20, 120], [250, 230, 20]]) / 255
    corners = np.ones((2, 2, 2, 2, 3))
    for index in np.ndindex(2, 2, 2, 2):
        for ink, is_there in zip(inks, index, strict=False):
            corners[index] *= ink if is_there else 1
        corners[index] *= 0 if index[3] else 1
    xyz = (_linear(255 * corners) @ _SRGB_TO_D50.T * 32768).round().astype(">u2").tobytes()
    identity = struct.pack(">9i", *(np.eye(3, dtype=int) * 65536).ravel())
    ramp = struct.pack(">2H", 0, 65535)
    table = struct.pack(">4sI4B", b"mft2", 0, 4, 3, 2, 0) + identity + struct.pack(">2H", 2, 2)
    table += ramp * 4 + xyz + ramp * 3
    white = struct.pack(">4sI3i", b"XYZ ", 0, 63190, 65536, 54061)
    body = struct.pack(">I4sII4sII", 2, b"A2B0", 156, len(table), b"wtpt", 156 + len(table), len(white)) + table + white
    head = struct.pack(">I4sI4s4s4s", 128 + len(body), bytes(4), 0x02400000, b"prtr", b"CMYK", b"XYZ ")
    head = (head + bytes(12) + b"acsp").ljust(68, b"\0") + struct.pack(">3i", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + body, 255 * corners


def blocks(colours: Array | None = None) -> Array:
    """uint8 [32, 48, channels]: blocks of one colour each, which JPEG keeps."""
    if colours is None:
        colours = np.array([[250, 10, 20], [30, 200, 60], [20, 40, 220], [128, 128, 128], [255, 255, 255], [0, 0, 0]])
    return colours.reshape(2, 3, -1).astype(np.uint8).repeat(16, 0).repeat(16, 1)


def ramps() -> Array:
    """uint8 [32, 48, 3]: colours that change slowly, as halved chroma keeps them."""
    y, x = np.mgrid[:32, :48]
    return np.stack([40 + 4 * x, 30 + 5 * y, 200 - 2 * x - y], axis=2).astype(np.uint8)


def saved(pixels: Array, kind: str = "JPEG", mode: str | None = None, **parameters: Any) -> bytes:
    """An image, compressed by Pillow."""
    file = io.BytesIO()
    if kind == "JPEG":
        parameters = {"quality": 100, "subsampling": 0} | parameters
    height, width = pixels.shape[:2]
    mode = mode or {1: "L", 3: "RGB", 4: "RGBA"}[pixels.shape[2]]
    Image.frombytes(mode, (width, height), pixels.tobytes()).save(file, kind, **parameters)
    return file.getvalue()
