"""`python -m dtufc_research.evaluation.image_files`: image files of every kind, to docs/results/images.md.

Each file is made here, with the pixels that a viewer shows, as they follow from the formats' specifications: Pillow
compresses JPEG and WebP, and nothing of it converts. PNG files are written byte by byte.
"""

import io
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from PIL import Image

from dtufc.coding.arrays import Array
from dtufc.errors import InputError
from dtufc.models.image_colours import matrix_profile
from dtufc.models.image_files import MAX_SCANS
from dtufc.models.images import open_image
from dtufc_research.evaluation.images_page import write_section

MAX_BYTES: Final = 16 << 20
MAX_PIXELS: Final = 1_000_000
_RGB, _GREY, _PALETTE, _GREY_ALPHA, _RGB_ALPHA = 2, 0, 3, 4, 6  # colour types of PNG
_CHANNELS: Final = {_GREY: 1, _RGB: 3, _PALETTE: 1, _GREY_ALPHA: 2, _RGB_ALPHA: 4}
_ADAM7: Final = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_MAGIC: Final = b"\x89PNG\r\n\x1a\n"
_WIDTH, _HEIGHT = 19, 13
_JPEG: Final = 4  # by which a JPEG at quality 100 may differ
_LOSSY: Final = 12  # a lossy WebP, or a JPEG of few bits
_D65: Final = (0.3127, 0.3290)
_SRGB: Final = (_D65, (0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
_P3: Final = (_D65, (0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the product takes a file for: pixels, or why not."""

    taken: Array | None
    problem: str
    difference: int | None
    is_right: bool


def outcome(case: Case) -> Outcome:
    """Opens a file; anything but an InputError comes out."""
    try:
        image = open_image(case.data, MAX_BYTES, MAX_PIXELS)
    except InputError as error:
        return Outcome(taken=None, problem=error.context["problem"], difference=None, is_right=case.shown is None)
    taken = np.asarray(image)
    if case.shown is None or taken.shape != case.shown.shape or image.mode != "RGB":
        return Outcome(taken=taken, problem="", difference=None, is_right=False)
    difference = int(np.abs(taken.astype(int) - case.shown).max())
    return Outcome(taken=taken, problem="", difference=difference, is_right=difference <= case.tolerance)


def cases() -> list[Case]:
    """Every file, always the same."""
    rng = np.random.default_rng(0)
    made = [*_png_modes(rng), *_png_colours(rng), *_png_containers(rng), *_orientations(), *_jpegs(), *_webps(rng)]
    return [*made, *_others(rng)]


# PNG


def png(
    samples: Array, depth: int, colour: int, chunks: Sequence[tuple[bytes, bytes]] = (), *, interlaced: bool = False
) -> bytes:
    """A PNG of samples [H, W, channels] below 2 ** depth, with chunks in front of its pixels."""
    height, width = samples.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    passes = [samples[top::down, left::across] for left, top, across, down in _ADAM7] if interlaced else [samples]
    rows = b"".join(b"\0" + _packed(row, depth) for part in passes if part.size for row in part)
    return png_file([(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")])


def png_file(chunks: Sequence[tuple[bytes, bytes]]) -> bytes:
    return _MAGIC + b"".join(
        struct.pack(">I4s", len(body), name) + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


def png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """What `png_file` makes a file of."""
    found, place = [], 8
    while place < len(data):
        length, name = struct.unpack_from(">I4s", data, place)
        found.append((name, data[place + 8 : place + 8 + length]))
        place += 12 + length
    return found


def _packed(row: Array, depth: int) -> bytes:
    if depth >= 8:
        return row.astype(f">u{depth // 8}").tobytes()
    bits: Array = row.reshape(-1, 1) >> np.arange(depth - 1, -1, -1) & 1
    return np.packbits(bits.astype(np.uint8)).tobytes()


def _samples(rng: np.random.Generator, depth: int, channels: int) -> Array:
    return rng.integers(0, 2**depth, (_HEIGHT, _WIDTH, channels))


def _levels(samples: Array, depth: int) -> Array:
    """Of 255; of 16 bits the upper eight."""
    return samples >> 8 if depth == 16 else samples * 255 // (2**depth - 1)


def _rgb(levels: Array) -> Array:
    """uint8 [H, W, 3] of grey or coloured levels."""
    return np.broadcast_to(levels, (*levels.shape[:2], 3)).round().astype(np.uint8)


def _over_white(levels: Array, alpha: Array) -> Array:
    """Levels and an alpha [H, W, 1], of 0 to 1."""
    return _rgb(levels * alpha + 255 * (1 - alpha))


def _png_modes(rng: np.random.Generator) -> Iterator[Case]:
    for colour, depths in ((_GREY, (1, 2, 4, 8, 16)), (_RGB, (8, 16)), (_GREY_ALPHA, (8, 16)), (_RGB_ALPHA, (8, 16))):
        kind = {_GREY: "grey", _RGB: "RGB", _GREY_ALPHA: "grey and alpha", _RGB_ALPHA: "RGB and alpha"}[colour]
        for depth in depths:
            samples = _samples(rng, depth, _CHANNELS[colour])
            shown, tolerance = _rgb(_levels(samples[:, :, :3], depth)) if colour in (_GREY, _RGB) else None, 0
            if shown is None:
                levels = samples / (2**depth - 1)
                shown = _over_white(255 * levels[:, :, :-1], levels[:, :, -1:])
                tolerance = 1 if depth == 8 else 2
            for interlaced in (False, True):
                name = f"{kind.replace(' ', '-')}-{depth}{'-interlaced' if interlaced else ''}.png"
                holds = f"{kind}, {depth} bits{', interlaced' if interlaced else ''}"
                data = png(samples, depth, colour, interlaced=interlaced)
                yield Case(name=name, holds=holds, data=data, shown=shown, tolerance=tolerance)
    yield from _png_transparent(rng)
    yield from _png_palettes(rng)
    y, x = np.mgrid[:64, :64]
    disc = np.zeros((64, 64, 4), np.int64)
    disc[:, :, 3] = 255 * ((x - 32) ** 2 + (y - 32) ** 2 < 400)
    shown = _rgb(255 - disc[:, :, 3:])
    yield Case(name="disc.png", holds="a black disc on a transparent ground", data=png(disc, 8, 6), shown=shown)


def _png_transparent(rng: np.random.Generator) -> Iterator[Case]:
    for depth in (1, 2, 4, 8, 16):
        samples = _samples(rng, depth, 1)
        samples[3, 4] = key = 2**depth // 3
        if depth == 16:
            samples[5, 6] = key ^ 1  # of the same upper byte: not transparent
        shown = _over_white(_levels(samples, depth), samples != key)
        data = png(samples, depth, _GREY, [(b"tRNS", struct.pack(">H", key))])
        yield Case(
            name=f"grey-key-{depth}.png", holds=f"grey, {depth} bits, a transparent level", data=data, shown=shown
        )
    samples = _samples(rng, 8, 3)
    samples[2, 2] = samples[3, 4] ^ [0, 0, 1]
    colour = struct.pack(">3H", *samples[3, 4])
    shown = _over_white(samples, (samples != samples[3, 4]).any(axis=2, keepdims=True))
    yield Case(
        name="rgb-key-8.png",
        holds="RGB, 8 bits, a transparent colour",
        data=png(samples, 8, _RGB, [(b"tRNS", colour)]),
        shown=shown,
    )
    data = png(_samples(rng, 16, 3), 16, _RGB, [(b"tRNS", bytes(6))])
    yield Case(name="rgb-key-16.png", holds="RGB, 16 bits, a transparent colour", data=data, shown=None)


def _png_palettes(rng: np.random.Generator) -> Iterator[Case]:
    for depth in (1, 2, 4, 8):
        samples = _samples(rng, depth, 1)
        palette = rng.integers(0, 256, (2**depth, 3))
        alpha = rng.integers(0, 256, (2**depth, 1))
        colours, one = (b"PLTE", palette.astype(np.uint8).tobytes()), np.full((2**depth, 1), 255)
        one[1] = 0
        first, *_ = samples.T
        shown = palette[first.T]
        yield Case(
            name=f"palette-{depth}.png", holds=f"palette, {depth} bits", data=png(samples, depth, 3, [colours]),
            shown=_rgb(shown),
        )  # fmt: skip
        for name, entries in (("alpha", alpha), ("key", one)):
            chunks = [colours, (b"tRNS", entries.astype(np.uint8).tobytes())]
            holds = "an alpha for each entry" if name == "alpha" else "one transparent entry"
            yield Case(
                name=f"palette-{depth}-{name}.png",
                holds=f"palette, {depth} bits, {holds}",
                data=png(samples, depth, _PALETTE, chunks, interlaced=depth == 4),
                shown=_over_white(shown, entries[first.T] / 255),
                tolerance=1,
            )
    samples = _samples(rng, 8, 1)
    palette = rng.integers(0, 256, (100, 3))
    shown = np.concatenate([palette, np.zeros((156, 3), int)])[samples[:, :, 0]]
    data = png(samples, 8, _PALETTE, [(b"PLTE", palette.astype(np.uint8).tobytes())])
    yield Case(name="palette-short.png", holds="a palette of 100, numbers to 255 (black)", data=data, shown=_rgb(shown))
    yield Case(name="palette-none.png", holds="no palette", data=png(samples, 8, _PALETTE), shown=None)


# Colours


def _linear(levels: Array) -> Array:
    """sRGB's curve, of 0 to 255 (IEC 61966-2-1)."""
    value = levels / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def _encoded(light: Array) -> Array:
    light = light.clip(0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def _to_xyz(corners: Sequence[tuple[float, float]]) -> Array:
    """[3, 3]: XYZ of red, green and blue."""
    white, *primaries = (np.array([x / y, 1, (1 - x - y) / y]) for x, y in corners)
    columns = np.stack(primaries, axis=1)
    return columns * np.linalg.solve(columns, white)


def _from_p3(levels: Array, light: Array | None = None) -> Array:
    """Display P3 -> sRGB; the white is the same."""
    light = _linear(levels) if light is None else light
    return _rgb(_encoded(light @ (np.linalg.inv(_to_xyz(_SRGB)) @ _to_xyz(_P3)).T))


def _iccp(profile: bytes) -> tuple[bytes, bytes]:
    return b"iCCP", b"a name\0\0" + zlib.compress(profile)


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


def _png_colours(rng: np.random.Generator) -> Iterator[Case]:
    p3, grey = matrix_profile(None, _P3, is_grey=False), matrix_profile(1.8, _SRGB, is_grey=True)
    rgb, levels, alpha = _samples(rng, 8, 3), _samples(rng, 8, 1), _samples(rng, 8, 4)
    chromaticities = b"cHRM", struct.pack(">8I", *(round(1e5 * one) for corner in _P3 for one in corner))
    srgb, gamma = (b"sRGB", b"\0"), (b"gAMA", struct.pack(">I", 100_000))
    plain = _rgb(rgb)
    table: list[tuple[str, str, Array, int, list[tuple[bytes, bytes]], Array | None]] = [
        ("gamma-srgb", "gAMA of sRGB", rgb, 2, [(b"gAMA", struct.pack(">I", 45455))], plain),
        ("gamma-linear", "gAMA 1", rgb, 2, [gamma], _rgb(_encoded(rgb / 255))),
        ("gamma-grey", "gAMA 1, grey", levels, 0, [gamma], _rgb(_encoded(levels / 255))),
        ("gamma-zero", "gAMA 0 (means nothing)", rgb, 2, [(b"gAMA", bytes(4))], plain),
        ("gamma-and-srgb", "gAMA 1, and sRGB, which counts", rgb, 2, [gamma, srgb], plain),
        ("chromaticities", "cHRM of Display P3", rgb, 2, [chromaticities], _from_p3(rgb)),
        ("chromaticities-gamma", "both", rgb, 2, [gamma, chromaticities], _from_p3(rgb, rgb / 255)),
        ("chromaticities-zero", "cHRM of nothing", rgb, 2, [(b"cHRM", bytes(32))], plain),
        ("profile-p3", "profile Display P3", rgb, 2, [_iccp(p3)], _from_p3(rgb)),
        ("profile-and-gamma", "profile, which counts, and gAMA 1", rgb, 2, [gamma, _iccp(p3)], _from_p3(rgb)),
        ("profile-grey", "grey, profile of gamma 1.8", levels, 0, [_iccp(grey)], _rgb(_encoded((levels / 255) ** 1.8))),
        ("profile-other", "grey, profile of RGB (passed over)", levels, 0, [_iccp(p3)], _rgb(levels)),
        ("profile-cmyk", "RGB, profile of CMYK (passed over)", rgb, 2, [_iccp(cmyk_profile()[0])], plain),
        ("profile-broken", "profile of zeros (passed over)", rgb, 2, [_iccp(p3[:40] + bytes(400))], plain),
        ("profile-cut", "profile cut off (passed over)", rgb, 2, [_iccp(p3[:200])], plain),
        ("profile-unpacks", "profile that does not unpack (passed over)", rgb, 2, [(b"iCCP", b"x\0\0abc")], plain),
        ("profile-large", "profile of 8 MiB (passed over)", rgb, 2, [_iccp(p3 + bytes(8 << 20))], plain),
        ("cicp-srgb", "cICP of sRGB, and gAMA 1", rgb, 2, [(b"cICP", b"\x01\x0d\0\x01"), gamma], plain),
        ("cicp-p3", "cICP of Display P3", rgb, 2, [(b"cICP", b"\x0c\x0d\0\x01")], _from_p3(rgb)),
        ("cicp-hdr", "cICP of BT.2100 PQ", rgb, 2, [(b"cICP", b"\x09\x10\0\x01")], None),
    ]
    for name, holds, samples, colour, chunks, shown in table:
        is_same = shown is None or np.array_equal(shown, _rgb(samples))
        data = png(samples, 8, colour, chunks)
        yield Case(name=f"{name}.png", holds=holds, data=data, shown=shown, tolerance=0 if is_same else 2)
    shown = _over_white(_from_p3(alpha[:, :, :3]), alpha[:, :, 3:] / 255)
    data = png(alpha, 8, _RGB_ALPHA, [_iccp(p3)])
    yield Case(name="profile-alpha.png", holds="profile Display P3, alpha", data=data, shown=shown, tolerance=2)
    palette = rng.integers(0, 256, (256, 3))
    data = png(levels, 8, _PALETTE, [_iccp(p3), (b"PLTE", palette.astype(np.uint8).tobytes())])
    shown = _from_p3(palette[levels[:, :, 0]])
    yield Case(name="profile-palette.png", holds="profile Display P3, palette", data=data, shown=shown, tolerance=2)


# Containers


def _png_containers(rng: np.random.Generator) -> Iterator[Case]:
    samples = rng.integers(0, 256, (100, 100, 3))
    shown = _rgb(samples)
    whole = png(samples, 8, _RGB)
    header, pixels, end = png_chunks(whole)
    rows = zlib.decompress(pixels[1])
    broken_text = bytearray(png_file([header, (b"tEXt", b"Title\0cat"), pixels, end]))
    broken_text[45] ^= 1
    broken_pixels = bytearray(whole)
    broken_pixels[-20] ^= 1
    cut = [header, (b"IDAT", zlib.compress(rows[:3010])), end]
    pieces = [(b"IDAT", pixels[1][place : place + 1000]) for place in range(0, len(pixels[1]), 1000)]
    bomb = b"zTXt", b"x\0\0" + zlib.compress(bytes(4 << 20))
    frame = struct.pack(">IIIIIHHBB", 0, 100, 100, 0, 0, 1, 1, 0, 0)
    second = struct.pack(">IIIIIHHBB", 1, 100, 100, 0, 0, 1, 1, 0, 0)
    animation = [(b"acTL", struct.pack(">II", 2, 0))]
    rest = [(b"fcTL", second), (b"fdAT", struct.pack(">I", 2) + pixels[1])]
    table: list[tuple[str, str, bytes, Array | None]] = [
        ("10-of-100-rows", "10 of 100 rows", png_file(cut), None),
        ("interlaced-cut", "interlaced, the last pass missing", _cut_interlaced(samples), None),
        ("cut", "the first half of the file", whole[: len(whole) // 2], None),
        ("no-end", "no IEND", whole[:-12], None),
        ("pieces", "IDAT in pieces, and an empty one", png_file([header, (b"IDAT", b""), *pieces, end]), shown),
        ("piece-missing", "IDAT in pieces, one missing", png_file([header, *pieces[:5], *pieces[6:], end]), None),
        ("checksum-pixels", "IDAT with a wrong checksum", bytes(broken_pixels), None),
        ("checksum-text", "text with a wrong checksum", bytes(broken_text), shown),
        ("text-bomb", "text that unpacks to 4 MiB", png_file([header, bomb, pixels, end]), shown),
        ("more-pixels", "more rows than the header says", _more_rows(samples), shown[:90]),
        ("trailing", "other bytes after the end", whole + b"PK\3\4" * 100, shown),
        ("animation", "an animation", png_file([header, *animation, (b"fcTL", frame), pixels, *rest, end]), shown),
        (
            "animation-hidden",
            "an image that is not in the animation",
            png_file([header, *animation, pixels, end]),
            shown,
        ),
        ("animation-broken", "an animation of 0 frames, said twice", _broken_animation(header, pixels, end), shown),
        ("exif-text", "text named exif", png_file([header, (b"tEXt", b"exif\0" + b"\xff" * 50), pixels, end]), shown),
        ("chunk-unknown", "a chunk of Apple's", png_file([(b"CgBI", bytes(4)), header, pixels, end]), None),
        ("empty", "0 x 0 pixels", png_file([(b"IHDR", bytes(8) + header[1][8:]), pixels, end]), None),
        ("too-large", "1001 x 1000 pixels, of 1000000", png(np.zeros((1001, 1000, 1), int), 1, _GREY), None),
        ("says-large", "4 x 10^18 pixels, by the header", _says_large(header, pixels, end), None),
    ]
    for name, holds, data, expected in table:
        yield Case(name=f"{name}.png", holds=holds, data=data, shown=expected)
    for width, height in ((65500, 1), (1, 65500), (1, 1), (2, 100_000)):
        long = rng.integers(0, 256, (height, width, 1))
        name, holds = f"{width}x{height}.png", f"{width} x {height} pixels"
        yield Case(name=name, holds=holds, data=png(long, 8, _GREY, interlaced=height == 1), shown=_rgb(long))


def _cut_interlaced(samples: Array) -> bytes:
    header, pixels, end = png_chunks(png(samples, 8, _RGB, interlaced=True))
    return png_file([header, (b"IDAT", zlib.compress(zlib.decompress(pixels[1])[:-15050])), end])


def _more_rows(samples: Array) -> bytes:
    header, pixels, end = png_chunks(png(samples, 8, _RGB))
    return png_file([(b"IHDR", struct.pack(">II", 100, 90) + header[1][8:]), pixels, end])


def _broken_animation(*chunks: tuple[bytes, bytes]) -> bytes:
    header, pixels, end = chunks
    none = b"acTL", bytes(8)
    return png_file([header, none, none, (b"fcTL", b"\xff" * 26), pixels, end])


def _says_large(*chunks: tuple[bytes, bytes]) -> bytes:
    header, pixels, end = chunks
    return png_file([(b"IHDR", struct.pack(">II", 2**31 - 1, 2**31 - 1) + header[1][8:]), pixels, end])


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


_TURNED: Final[dict[int, Callable[[Array], Array]]] = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.transpose(1, 0, 2),
    6: lambda pixels: pixels[::-1].transpose(1, 0, 2),
    7: lambda pixels: pixels[::-1, ::-1].transpose(1, 0, 2),
    8: lambda pixels: pixels[:, ::-1].transpose(1, 0, 2),
}


def _orientations() -> Iterator[Case]:
    for value, turned in _TURNED.items():
        order = "<>"[value % 2]
        data = with_segment(saved(blocks()), 0xE1, b"Exif\0\0" + exif(value, order=order))
        shown = turned(blocks())
        holds = f"orientation {value}, and four broken fields"
        yield Case(name=f"orientation-{value}.jpg", holds=holds, data=data, shown=shown, tolerance=_JPEG)
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
        shown = _TURNED[value](blocks())
        yield Case(name=f"exif-{name}.jpg", holds=holds, data=data, shown=shown, tolerance=_JPEG)
    levels = blocks()
    data = png(levels.astype(int), 8, _RGB, [(b"eXIf", exif(6))])
    yield Case(name="orientation.png", holds="eXIf, orientation 6", data=data, shown=_TURNED[6](levels))
    data = saved(levels, "WEBP", lossless=True, exif=b"Exif\0\0" + exif(8))
    yield Case(name="orientation.webp", holds="EXIF, orientation 8", data=data, shown=_TURNED[8](levels))


# JPEG


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


def _jpegs() -> Iterator[Case]:
    rgb, smooth = blocks(), ramps()
    grey = blocks(np.array([0, 30, 100, 128, 200, 255]))
    p3 = matrix_profile(None, _P3, is_grey=False)
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
        ("rgb", "YCbCr", jpeg, rgb, _JPEG),
        ("420", "YCbCr 4:2:0", saved(smooth, subsampling=2), smooth, _JPEG),
        ("quality-30", "YCbCr, quality 30", saved(smooth, quality=30), smooth, _LOSSY),
        ("not-converted", "RGB, with Adobe's marker", saved(rgb, keep_rgb=True), rgb, _JPEG),
        ("grey", "grey", saved(grey), _rgb(grey), _JPEG),
        ("progressive", "progressive", progressive, rgb, _JPEG),
        ("restarts", "restart markers", restarts, rgb, _JPEG),
        ("scans", f"progressive, more than {MAX_SCANS} scans", many, None, 0),
        ("profile", "profile Display P3 in three parts", with_segment(jpeg, 0xE2, *icc), _from_p3(rgb), 5),
        ("profile-order", "the parts in another order", with_segment(jpeg, 0xE2, *icc[::-1]), _from_p3(rgb), 5),
        ("profile-missing", "a part missing (passed over)", with_segment(jpeg, 0xE2, *icc[:2]), rgb, _JPEG),
        ("exif-many", "EXIF twice", with_segment(jpeg, 0xE1, *[b"Exif\0\0" + exif(3), b"Exif\0\0" + exif(6)]),
         _TURNED[3](rgb), _JPEG),
        ("thumbnail", "a JPEG within its EXIF", with_segment(jpeg, 0xE1, b"Exif\0\0" + exif(1) + jpeg), rgb, _JPEG),
        ("mpo", "two images (MPO)", second.getvalue(), rgb, _JPEG),
        ("mpo-broken", "a broken index of images", with_segment(jpeg, 0xE2, b"MPF\0" + b"\xff" * 60), rgb, _JPEG),
        ("trailing", "a film behind the end", jpeg + b"\0\0\0\x18ftypmp42" * 50, rgb, _JPEG),
        ("comment", "a comment with an end marker in it", with_segment(jpeg, 0xFE, b"\xff\xd9"), rgb, _JPEG),
        ("fill-bytes", "fill bytes between segments", jpeg[:2] + b"\xff" * 9 + jpeg[2:], rgb, _JPEG),
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
    shown = _rgb((255 - inks[:, :, :3]) * (255 - inks[:, :, 3:]) / 255)
    adobe = saved(inks.astype(np.uint8), mode="CMYK")
    yield Case(name="cmyk.jpg", holds="CMYK, as Adobe writes it", data=adobe, shown=shown, tolerance=_JPEG)
    data = _without_segment(adobe, 0xEE)
    holds = "CMYK without Adobe's marker, inverted as browsers take it"
    yield Case(name="cmyk-plain.jpg", holds=holds, data=data, shown=shown, tolerance=_JPEG)
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


# WebP and others


def _webps(rng: np.random.Generator) -> Iterator[Case]:
    rgb, smooth = blocks(), ramps()
    alpha = rng.integers(0, 256, (_HEIGHT, _WIDTH, 4)).astype(np.uint8)
    soft = np.concatenate([smooth, blocks(np.array([0, 60, 128, 200, 255, 255]))], axis=2)
    over = _over_white(soft[:, :, :3], soft[:, :, 3:] / 255)
    lossless, lossy = saved(rgb, "WEBP", lossless=True), saved(smooth, "WEBP", quality=90)
    p3 = matrix_profile(None, _P3, is_grey=False)
    frames = [Image.fromarray(rgb), Image.fromarray(255 - rgb)]
    animation = io.BytesIO()
    frames[0].save(animation, "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    short = bytearray(lossless[:-20])
    short[4:8] = struct.pack("<I", len(short) - 8)
    stream = struct.pack("<4sI4s4sI", b"RIFF", 4 + 8 + 40, b"WEBP", lossless[12:16], 40) + lossless[20:60]
    large = struct.pack("<4sI4s4sIIIH", b"RIFF", 22, b"WEBP", b"VP8X", 10, 0, 0xFFFFFFFF, 0xFFFF)
    table: list[tuple[str, str, bytes, Array | None, int]] = [
        ("lossless", "lossless", lossless, rgb, 0),
        ("lossless-alpha", "lossless, alpha", saved(alpha, "WEBP", lossless=True, exact=True),
         _over_white(alpha[:, :, :3], alpha[:, :, 3:] / 255), 1),
        ("lossy", "lossy", lossy, smooth, _LOSSY),
        ("lossy-alpha", "lossy, alpha", saved(soft, "WEBP", quality=100, exact=True), over, _LOSSY),
        ("profile", "profile Display P3", saved(rgb, "WEBP", lossless=True, icc_profile=p3), _from_p3(rgb), 2),
        ("animation", "an animation: its first frame", animation.getvalue(), rgb, 0),
        ("trailing", "other bytes after the end", lossless + bytes(99), rgb, 0),
        ("cut", "the first half of the file", lossless[: len(lossless) // 2], None, 0),
        ("cut-lossy", "all but the last byte", lossy[:-1], None, 0),
        ("cut-inside", "cut off, and its length set to that", bytes(short), None, 0),
        ("cut-stream", "cut off, and all lengths set to that", stream, None, 0),
        ("says-large", "16777216 x 16777216 pixels, by the header", large, None, 0),
    ]  # fmt: skip
    for name, holds, data, shown, tolerance in table:
        yield Case(name=f"{name}.webp", holds=holds, data=data, shown=shown, tolerance=tolerance)


def _others(rng: np.random.Generator) -> Iterator[Case]:
    levels = rng.integers(0, 256, (8, 8, 1)).astype(np.uint8)
    for kind in ("GIF", "TIFF", "BMP"):
        data = saved(levels, kind)
        yield Case(name=f"image.{kind.lower()}", holds=f"another kind: {kind}", data=data, shown=None)
    yield Case(name="empty.jpg", holds="nothing", data=b"", shown=None)
    yield Case(name="page.jpg", holds="HTML", data=b"<!doctype html><title>404</title>", shown=None)


def rows(found: Sequence[tuple[Case, Outcome]]) -> list[str]:
    """Markdown."""
    lines = ["| file | holds | a viewer shows | taken for | difference | |", "|---|---|---|---|---|---|"]
    for case, one in found:
        shown = "no whole image" if case.shown is None else _said(case.shown)
        taken = f"rejected: {one.problem}" if one.taken is None else _said(one.taken)
        difference = "" if one.difference is None else f"{one.difference} of {case.tolerance}"
        verdict = "right" if one.is_right else "wrong"
        lines.append(f"| {case.name} | {case.holds} | {shown} | {taken} | {difference} | {verdict} |")
    return lines


def _said(pixels: Array) -> str:
    height, width = pixels.shape[:2]
    return f"{width} x {height}, mean {' '.join(f'{mean:.1f}' for mean in pixels.reshape(-1, 3).mean(axis=0))}"


def main() -> int:
    found = [(case, outcome(case)) for case in cases()]
    wrong = [case.name for case, one in found if not one.is_right]
    rejected = sum(one.taken is None for _, one in found)
    lines = [
        f"Of {len(found)} files, {len(found) - len(wrong)} are taken for what a viewer shows, or rejected where no "
        f"viewer shows a whole image ({rejected}). The difference is the largest of any pixel and colour, in levels of "
        "255, beside what the file's coding allows. `python -m dtufc_research.evaluation.image_files` makes the files "
        "and this table.",
        "",
        *rows(found),
    ]
    write_section("Files of every kind", lines)
    print("\n".join([lines[0], *(f"wrong: {name}" for name in wrong)]))
    return int(bool(wrong))


if __name__ == "__main__":
    raise SystemExit(main())
