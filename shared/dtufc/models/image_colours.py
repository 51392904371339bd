"""Colours as a viewer shows them: any image of Pillow's -> RGB in sRGB, on white.

    samples of 16 bits      the upper eight
    transparency            over white, in sRGB, as browsers blend
    a colour profile        converted to sRGB (perceptual); one that is broken or of other colours than the image's
                            is passed over, as browsers do
    none                    sRGB; CMYK, of which a file without a profile does not say the inks: (1 - C)(1 - K)

A PNG may say its colours in four ways, of which the first counts: cICP (of sRGB's curve; others are rejected), iCCP,
sRGB, gAMA with cHRM.
"""

import io
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from PIL import Image, ImageCms

from dtufc.coding.arrays import Array
from dtufc.errors import InputError

GROUND: Final = (255, 255, 255)

_SPACES: Final = {"L": b"GRAY", "RGB": b"RGB ", "CMYK": b"CMYK"}  # of a profile's header, for a mode of Pillow's
_GREY: Final = ("1", "L", "LA", "La")
_WITHOUT_WHITE: Final = ("I", "F")

_D50: Final = np.array([0.9642, 1.0, 0.8249])
_BRADFORD: Final = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
_SRGB: Final = ((0.3127, 0.3290), (0.64, 0.33), (0.30, 0.60), (0.15, 0.06))  # x and y of white, red, green, blue
_CICP: Final = {  # primaries by their number in ITU-T H.273
    1: _SRGB,
    9: ((0.3127, 0.3290), (0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    12: ((0.3127, 0.3290), (0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
}
_SRGB_CURVE: Final = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)  # ICC.1, parametricCurveType 3
_SRGB_GAMMA: Final = 0.45455
_CLOSE: Final = 0.05  # of a gamma: as libpng has it


def as_shown(image: Image.Image) -> Image.Image:
    """RGB as a viewer shows it, with nothing left to apply; an image that is such already comes back.

    Raises:
        InputError: an image of which no viewer knows what is black and what is white.
    """
    if image.mode == "RGB" and not image.has_transparency_data and not image.info.get("icc_profile"):
        return image
    image = _of_eight_bits(image)
    if image.mode == "La":
        image = image.convert("LA")
    profile = image.info.get("icc_profile") or b""
    if not image.has_transparency_data:
        return _in_srgb(image.convert("L") if image.mode in _GREY else image, profile)
    is_grey = image.mode in _GREY
    image = image.convert("RGBA")
    ground = Image.new("RGB", image.size, GROUND)
    ground.paste(_in_srgb(image.convert("L" if is_grey else "RGB"), profile), mask=image.getchannel("A"))
    return ground


def _of_eight_bits(image: Image.Image) -> Image.Image:
    if image.mode in _WITHOUT_WHITE:
        remedy = "Save it as grey or RGB of 8 or 16 bits"
        raise InputError(field="image", problem=f"samples of kind {image.mode}, without a white", remedy=remedy)
    if not image.mode.startswith("I;16"):
        return image
    samples = np.asarray(image)
    grey = Image.fromarray((samples >> 8).astype(np.uint8))
    if "transparency" in image.info:
        grey.putalpha(Image.fromarray(np.where(samples == image.info["transparency"], 0, 255).astype(np.uint8)))
    grey.info["icc_profile"] = image.info.get("icc_profile")
    return grey


def _in_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    if image.mode in ("P", "RGBX"):
        image = image.convert("RGB")
    if profile and profile[16:20] == _SPACES.get(image.mode):
        flags = ImageCms.Flags.NOOPTIMIZE if image.mode == "L" else ImageCms.Flags.NONE
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            target = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
            transform = ImageCms.ImageCmsTransform(source, target, image.mode, "RGB", flags=flags)
        except (OSError, ValueError):  # broken: passed over, as the page above says
            pass
        else:
            return _without_info(_transformed(image, transform))
    return _without_info(image.convert("RGB"))


def _transformed(image: Image.Image, transform: ImageCms.ImageCmsTransform) -> Image.Image:
    """Grey goes by a table: of one channel, lcms interpolates between 33 levels, and misses dark ones by 10 of 255."""
    if image.mode != "L":
        return transform.apply(image)
    table = np.asarray(transform.apply(Image.frombytes("L", (256, 1), bytes(range(256)))))[0]
    return Image.merge("RGB", [image.point(column.tolist()) for column in table.T])


def _without_info(image: Image.Image) -> Image.Image:
    image.info = {}
    return image


def png_profile(chunks: Mapping[bytes, bytes], *, is_grey: bool, max_bytes: int) -> bytes:
    """The ICC profile of a PNG's colours; empty where they are sRGB's, or are said in a way that viewers pass over.

    Raises:
        InputError: cICP with another curve than sRGB's, as of HDR.
    """
    if len(chunks.get(b"cICP", b"")) == 4:
        primaries, curve, matrix, full = chunks[b"cICP"]
        if primaries not in _CICP or (curve, matrix, full) != (13, 0, 1):
            problem = f"is a PNG of colours {primaries}/{curve}/{matrix}/{full} (cICP)"
            raise InputError(field="image", problem=problem, remedy="Save it as sRGB")
        return matrix_profile(None, _CICP[primaries], is_grey=is_grey)
    profile = _unpacked(chunks.get(b"iCCP", b""), max_bytes)
    if profile or b"sRGB" in chunks:
        return profile
    gamma = _numbers(chunks.get(b"gAMA", b""), 1)
    corners = _numbers(chunks.get(b"cHRM", b""), 8)
    exponent = 1 / gamma[0] if gamma and 0.1 <= gamma[0] <= 10 else None
    if exponent and abs(exponent * _SRGB_GAMMA - 1) < _CLOSE:
        exponent = None
    places = tuple(zip(corners[::2], corners[1::2], strict=True)) if corners else _SRGB
    return matrix_profile(exponent, places, is_grey=is_grey)


def _unpacked(body: bytes, max_bytes: int) -> bytes:
    """Of an iCCP chunk: a name, a zero, the method 0, the profile."""
    _, _, packed = body.partition(b"\0")
    unpacking = zlib.decompressobj()
    try:
        profile = unpacking.decompress(packed[1:], max_bytes) if packed[:1] == b"\0" else b""
    except zlib.error:
        return b""
    return profile if unpacking.eof else b""


def _numbers(body: bytes, count: int) -> list[float]:
    return [number / 100_000 for number in struct.unpack(f">{count}I", body)] if len(body) == 4 * count else []


def matrix_profile(exponent: float | None, corners: Sequence[tuple[float, float]], *, is_grey: bool) -> bytes:
    """An ICC profile of a curve (None for sRGB's) and of primaries; empty where that is sRGB or no colour space."""
    if is_grey:
        return _icc(b"GRAY", {b"kTRC": _curve(exponent)}) if exponent else b""
    if not exponent and np.allclose(corners, _SRGB, atol=0.002):
        return b""
    columns = _to_d50(corners)
    if columns is None:
        return b""
    tags = {name: _xyz(column) for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns.T, strict=True)}
    return _icc(b"RGB ", tags | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), _curve(exponent)))


def _to_d50(corners: Sequence[tuple[float, float]]) -> Array | None:
    """[3, 3]: XYZ under D50 of red, green and blue, by Bradford's adaptation; None for what spans no colour space."""
    xyz = np.array([[x, y, 1 - x - y] for x, y in corners]).T  # [3, white and primaries]
    if xyz[1, 0] <= 0 or abs(np.linalg.det(xyz[:, 1:])) < 1e-4:
        return None
    white = xyz[:, 0] / xyz[1, 0]
    primaries = xyz[:, 1:] * np.linalg.solve(xyz[:, 1:], white)
    cones = _BRADFORD @ white
    if np.any(cones <= 0):
        return None
    adapted: Array = np.linalg.inv(_BRADFORD) @ np.diag(_BRADFORD @ _D50 / cones) @ _BRADFORD @ primaries
    return adapted if np.all(np.abs(adapted) < 4) else None


def _fixed(*numbers: float) -> bytes:
    """s15Fixed16Number."""
    return struct.pack(f">{len(numbers)}i", *(round(number * 65536) for number in numbers))


def _xyz(values: Array) -> bytes:
    return b"XYZ \0\0\0\0" + _fixed(*values)


def _curve(exponent: float | None) -> bytes:
    numbers = (exponent,) if exponent else _SRGB_CURVE
    return struct.pack(">4sIHH", b"para", 0, 0 if exponent else 3, 0) + _fixed(*numbers)


def _icc(space: bytes, tags: Mapping[bytes, bytes]) -> bytes:
    """A monitor's profile of version 4.3 (ICC.1:2010, 7)."""
    tags = {b"wtpt": _xyz(_D50), **tags}
    place, table, body = 128 + 4 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        table += struct.pack(">4sII", name, place + len(body), len(data))
        body += data
    head = struct.pack(">I4sI4s4s4s", place + len(body), bytes(4), 0x04300000, b"mntr", space, b"XYZ ")
    head = (head + bytes(12) + b"acsp").ljust(68, b"\0") + _fixed(*_D50)
    return head.ljust(128, b"\0") + table + body
