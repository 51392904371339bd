"""JPEG files, and files of every orientation."""

import io
import struct
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
from PIL import Image

from dtufc.coding.arrays import Array
from dtufc.models.image_colours import matrix_profile
from dtufc.models.image_files import MAX_SCANS
from dtufc_research.evaluation.image_case import (
    LOSSY,
    NEAR,
    P3,
    Case,
    as_rgb,
    blocks,
    cmyk_profile,
    from_p3,
    ramps,
    saved,
)
from dtufc_research.evaluation.image_png import RGB, png


def exif(value: int = 6, kind: int = 3, count: int = 1, order: str = "<") -> bytes:
    """A TIFF structure with an orientation, a date of a wrong type, and a resolution that lies outside."""
    entries = [
        struct.pack(f"{order}HHII", 0x0106, 99, 1, 0),
        struct.pack(f"{order}HHI", 0x0112, kind, count) + struct.pack(f"{order}{'I' if kind == 4 else 'Hxx'}", value),
        struct.pack(f"{order}HHII", 0x011A, 5, 1, 1 << 30),
        struct.pack(f"{order}HHII", 0x0132, 4, 20, 8),
        struct.pack(f"{order}HHII", 0x8769, 2, 1, 5),
    ]
    start = b"II*\0" if order == "<" else b"MM\0*"
    return start + struct.pack(f"{order}IH", 8, len(entries)) + b"".join(entries) + bytes(4)


TURNED: Final[dict[int, Callable[[Array], Array]]] = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.transpose(1, 0, 2),
    6: lambda pixels: pixels[::-1].transpose(1, 0, 2),
    7: lambda pixels: pixels[::-1, ::-1].transpose(1, 0, 2),
    8: lambda pixels: pixels[:, ::-1].transpose(1, 0, 2),
}


def orientations() -> Iterator[Case]:
    for value, turned in TURNED.items():
        order = "<>"[value % 2]
        data = with_segment(saved(blocks()), 0xE1, b"Exif\0\0" + exif(value, order=order))
        shown = turned(blocks())
        holds = f"orientation {value}, and four broken fields"
        yield Case(name=f"orientation-{value}.jpg", holds=holds, data=data, shown=shown, tolerance=NEAR)
    for name, holds, body, value in (
        ("long", "orientation 8 as LONG", exif(8, kind=4), 8),
        ("nine", "orientation 9 (passed over)", exif(9), 1),
        ("text", "orientation as text (passed over)", exif(6, kind=2), 1),
        ("two", "two orientations (passed over)", exif(6, count=2), 1),
        ("cut", "EXIF that ends within its fields", exif(6)[:40], 6),
        ("noise", "EXIF of other bytes", b"\xff" * 30, 1),
        ("far", "EXIF whose directory lies outside", b"II*\0\xff\xff\xff\xff", 1),
    ):
        data = with_segment(saved(blocks()), 0xE1, b"Exif\0\0" + body)
        shown = TURNED[value](blocks())
        yield Case(name=f"exif-{name}.jpg", holds=holds, data=data, shown=shown, tolerance=NEAR)
    levels = blocks()
    data = png(levels.astype(int), 8, RGB, [(b"eXIf", exif(6))])
    yield Case(name="orientation.png", holds="eXIf, orientation 6", data=data, shown=TURNED[6](levels))
    data = saved(levels, "WEBP", lossless=True, exif=b"Exif\0\0" + exif(8))
    yield Case(name="orientation.webp", holds="EXIF, orientation 8", data=data, shown=TURNED[8](levels))


def with_segment(jpeg: bytes, marker: int, *bodies: bytes) -> bytes:
    """A JPEG with more segments behind its first two bytes."""
    added = b"".join(struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body for body in bodies)
    return jpeg[:2] + added + jpeg[2:]


def _without_segment(jpeg: bytes, marker: int) -> bytes:
    place = jpeg.index(bytes([0xFF, marker]))
    return jpeg[:place] + jpeg[place + 2 + struct.unpack_from(">H", jpeg, place + 2)[0] :]


def _cut_scan(jpeg: bytes, share: float) -> bytes:
    """A JPEG of which a share of the coded data is there, and the end marker."""
    start = jpeg.rindex(b"\xff\xda")
    return jpeg[: start + int(share * (len(jpeg) - start))].rstrip(b"\xff") + b"\xff\xd9"


def _icc_segments(profile: bytes, count: int) -> list[bytes]:
    size = -(-len(profile) // count)
    parts = [profile[number * size : number * size + size] for number in range(count)]
    return [b"ICC_PROFILE\0" + bytes([number, count]) + part for number, part in enumerate(parts, start=1)]


def jpegs() -> Iterator[Case]:
    rgb, smooth = blocks(), ramps()
    grey = blocks(np.array([0, 30, 100, 128, 200, 255]))
    p3 = matrix_profile(None, P3, is_grey=False)
    icc = _icc_segments(p3, 3)
    jpeg, progressive = saved(rgb), saved(rgb, progressive=True)
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    scan = progressive[progressive.rindex(b"\xff\xda") : -2]
    many = progressive[:-2] + scan * MAX_SCANS + b"\xff\xd9"
    second = io.BytesIO()
    images = [Image.fromarray(rgb), Image.fromarray(rgb[::-1].copy())]
    images[0].save(second, "MPO", save_all=True, append_images=images[1:], quality=100, subsampling=0)
    restarts = saved(rgb, restart_marker_blocks=1)
    table: list[tuple[str, str, bytes, Array | None, int]] = [
        ("rgb", "YCbCr", jpeg, rgb, NEAR),
        ("420", "YCbCr 4:2:0", saved(smooth, subsampling=2), smooth, NEAR),
        ("quality-30", "YCbCr, quality 30", saved(smooth, quality=30), smooth, LOSSY),
        ("not-converted", "RGB, with Adobe's marker", saved(rgb, keep_rgb=True), rgb, NEAR),
        ("grey", "grey", saved(grey), as_rgb(grey), NEAR),
        ("progressive", "progressive", progressive, rgb, NEAR),
        ("restarts", "restart markers", restarts, rgb, NEAR),
        ("scans", f"progressive, more than {MAX_SCANS} scans", many, None, 0),
        ("profile", "profile Display P3 in three parts", with_segment(jpeg, 0xE2, *icc), from_p3(rgb), 5),
        ("profile-order", "the parts in another order", with_segment(jpeg, 0xE2, *icc[::-1]), from_p3(rgb), 5),
        ("profile-missing", "a part missing (passed over)", with_segment(jpeg, 0xE2, *icc[:2]), rgb, NEAR),
        ("exif-many", "EXIF twice", with_segment(jpeg, 0xE1, *[b"Exif\0\0" + exif(3), b"Exif\0\0" + exif(6)]),
         TURNED[3](rgb), NEAR),
        ("thumbnail", "a JPEG within its EXIF", with_segment(jpeg, 0xE1, b"Exif\0\0" + exif(1) + jpeg), rgb, NEAR),
        ("mpo", "two images (MPO)", second.getvalue(), rgb, NEAR),
        ("mpo-broken", "a broken index of images", with_segment(jpeg, 0xE2, b"MPF\0" + b"\xff" * 60), rgb, NEAR),
        ("trailing", "a film behind the end", jpeg + b"\0\0\0\x18ftypmp42" * 50, rgb, NEAR),
        ("comment", "a comment with an end marker in it", with_segment(jpeg, 0xFE, b"\xff\xd9"), rgb, NEAR),
        ("fill-bytes", "fill bytes between segments", jpeg[:2] + b"\xff" * 9 + jpeg[2:], rgb, NEAR),
        ("cut", "the first half of the file", saved(noise)[:3000], None, 0),
        ("no-end", "no end marker", jpeg[:-2], None, 0),
        ("cut-and-ended", "half of the rows, and an end marker", _cut_scan(saved(noise), 0.5), None, 0),
        ("cut-at-last", "98 % of the data, and an end marker", _cut_scan(saved(noise), 0.98), None, 0),
        ("progressive-cut", "half of the last scan, and an end marker",
         _cut_scan(saved(noise, progressive=True), 0.5), None, 0),
        ("no-scan", "no scan", jpeg[: jpeg.index(b"\xff\xda")] + b"\xff\xd9", None, 0),
        ("no-tables", "no Huffman tables of its own", _without_tables(jpeg), None, 0),
        ("12-bit", "12 bits", jpeg.replace(b"\xff\xc0\0\x11\x08", b"\xff\xc1\0\x11\x0c"), None, 0),
        ("two-frames", "two frames", with_segment(jpeg, 0xC0, b"\x08\0\x20\0\x30\1\1\x11\0"), None, 0),
        ("no-height", "a height that comes later (DNL)", jpeg.replace(b"\x08\0\x20\0\x30", b"\x08\0\0\0\x30"), None, 0),
        ("too-large", "65500 x 65500 pixels, by the header",
         jpeg.replace(b"\x08\0\x20\0\x30", b"\x08\xff\xdc\xff\xdc"), None, 0),
    ]  # fmt: skip
    for name, holds, data, shown, tolerance in table:
        yield Case(name=f"{name}.jpg", holds=holds, data=data, shown=shown, tolerance=tolerance)
    yield from _cmyk_jpegs()


def _without_tables(jpeg: bytes) -> bytes:
    while b"\xff\xc4" in jpeg[: jpeg.index(b"\xff\xda")]:
        jpeg = _without_segment(jpeg, 0xC4)
    return jpeg.replace(b"\xff\xda\0\x0c\x03\x01\0\x02\x11\x03\x11", b"\xff\xda\0\x0c\x03\x01\x33\x02\x33\x03\x33")


def _cmyk_jpegs() -> Iterator[Case]:
    inks = blocks(
        np.array([[0, 0, 0, 0], [255, 0, 0, 0], [0, 200, 0, 20], [0, 0, 255, 0], [0, 0, 0, 255], [100, 50, 20, 60]])
    ).astype(int)
    shown = as_rgb((255 - inks[:, :, :3]) * (255 - inks[:, :, 3:]) / 255)
    adobe = saved(inks.astype(np.uint8), mode="CMYK")
    yield Case(name="cmyk.jpg", holds="CMYK, as Adobe writes it", data=adobe, shown=shown, tolerance=NEAR)
    data = _without_segment(adobe, 0xEE)
    holds = "CMYK without Adobe's marker, inverted as browsers take it"
    yield Case(name="cmyk-plain.jpg", holds=holds, data=data, shown=shown, tolerance=NEAR)
    c, m, y, k = np.moveaxis(inks, 2, 0)
    luma = 0.299 * c + 0.587 * m + 0.114 * y
    coded = np.stack([255 - luma, 255 - (128 + (y - luma) / 1.772), 255 - (128 + (c - luma) / 1.402), k], axis=2)
    data = saved(coded.round().clip(0, 255).astype(np.uint8), mode="CMYK")
    place = data.index(b"Adobe") + 11
    data = data[:place] + b"\x02" + data[place + 1 :]
    yield Case(name="ycck.jpg", holds="YCCK", data=data, shown=shown, tolerance=6)
    profile, corners = cmyk_profile()
    full = np.array([[0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [1, 1, 0, 0]])
    data = with_segment(saved(blocks(255 * full), mode="CMYK"), 0xE2, *_icc_segments(profile, 1))
    shown = blocks(corners[tuple(full.T)].round())
    yield Case(name="cmyk-profile.jpg", holds="CMYK with a printer's profile", data=data, shown=shown, tolerance=6)
