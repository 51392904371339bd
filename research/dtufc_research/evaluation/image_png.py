"""PNG files, written byte by byte."""

import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from dtufc.coding.arrays import Array
from dtufc.models.image_colours import matrix_profile
from dtufc_research.evaluation.image_case import (
    HEIGHT,
    P3,
    SRGB,
    WIDTH,
    Case,
    as_rgb,
    cmyk_profile,
    encoded,
    from_p3,
    over_white,
)

RGB, _GREY, _PALETTE, _GREY_ALPHA, _RGB_ALPHA = 2, 0, 3, 4, 6  # colour types of PNG
_CHANNELS: Final = {_GREY: 1, RGB: 3, _PALETTE: 1, _GREY_ALPHA: 2, _RGB_ALPHA: 4}
_ADAM7: Final = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_MAGIC: Final = b"\x89PNG\r\n\x1a\n"


def pngs(rng: np.random.Generator) -> Iterator[Case]:
    """Every PNG."""
    yield from _png_modes(rng)
    yield from _png_colours(rng)
    yield from _png_containers(rng)


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
    return rng.integers(0, 2**depth, (HEIGHT, WIDTH, channels))


def _levels(samples: Array, depth: int) -> Array:
    """Of 255; of 16 bits the upper eight."""
    return samples >> 8 if depth == 16 else samples * 255 // (2**depth - 1)


def _png_modes(rng: np.random.Generator) -> Iterator[Case]:
    for colour, depths in ((_GREY, (1, 2, 4, 8, 16)), (RGB, (8, 16)), (_GREY_ALPHA, (8, 16)), (_RGB_ALPHA, (8, 16))):
        kind = {_GREY: "grey", RGB: "RGB", _GREY_ALPHA: "grey and alpha", _RGB_ALPHA: "RGB and alpha"}[colour]
        for depth in depths:
            samples = _samples(rng, depth, _CHANNELS[colour])
            shown, tolerance = as_rgb(_levels(samples[:, :, :3], depth)) if colour in (_GREY, RGB) else None, 0
            if shown is None:
                levels = samples / (2**depth - 1)
                shown = over_white(255 * levels[:, :, :-1], levels[:, :, -1:])
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
    shown = as_rgb(255 - disc[:, :, 3:])
    yield Case(name="disc.png", holds="a black disc on a transparent ground", data=png(disc, 8, 6), shown=shown)


def _png_transparent(rng: np.random.Generator) -> Iterator[Case]:
    for depth in (1, 2, 4, 8, 16):
        samples = _samples(rng, depth, 1)
        samples[3, 4] = key = 2**depth // 3
        if depth == 16:
            samples[5, 6] = key ^ 1  # of the same upper byte: not transparent
        shown = over_white(_levels(samples, depth), samples != key)
        data = png(samples, depth, _GREY, [(b"tRNS", struct.pack(">H", key))])
        yield Case(
            name=f"grey-key-{depth}.png", holds=f"grey, {depth} bits, a transparent level", data=data, shown=shown
        )
    samples = _samples(rng, 8, 3)
    samples[2, 2] = samples[3, 4] ^ [0, 0, 1]
    colour = struct.pack(">3H", *samples[3, 4])
    shown = over_white(samples, (samples != samples[3, 4]).any(axis=2, keepdims=True))
    yield Case(
        name="rgb-key-8.png",
        holds="RGB, 8 bits, a transparent colour",
        data=png(samples, 8, RGB, [(b"tRNS", colour)]),
        shown=shown,
    )
    data = png(_samples(rng, 16, 3), 16, RGB, [(b"tRNS", bytes(6))])
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
            shown=as_rgb(shown),
        )  # fmt: skip
        for name, entries in (("alpha", alpha), ("key", one)):
            chunks = [colours, (b"tRNS", entries.astype(np.uint8).tobytes())]
            holds = "an alpha for each entry" if name == "alpha" else "one transparent entry"
            yield Case(
                name=f"palette-{depth}-{name}.png",
                holds=f"palette, {depth} bits, {holds}",
                data=png(samples, depth, _PALETTE, chunks, interlaced=depth == 4),
                shown=over_white(shown, entries[first.T] / 255),
                tolerance=1,
            )
    samples = _samples(rng, 8, 1)
    palette = rng.integers(0, 256, (100, 3))
    shown = np.concatenate([palette, np.zeros((156, 3), int)])[samples[:, :, 0]]
    data = png(samples, 8, _PALETTE, [(b"PLTE", palette.astype(np.uint8).tobytes())])
    yield Case(
        name="palette-short.png", holds="a palette of 100, numbers to 255 (black)", data=data, shown=as_rgb(shown)
    )
    yield Case(name="palette-none.png", holds="no palette", data=png(samples, 8, _PALETTE), shown=None)


def _iccp(profile: bytes) -> tuple[bytes, bytes]:
    return b"iCCP", b"a name\0\0" + zlib.compress(profile)


def _png_colours(rng: np.random.Generator) -> Iterator[Case]:
    p3, grey = matrix_profile(None, P3, is_grey=False), matrix_profile(1.8, SRGB, is_grey=True)
    rgb, levels, alpha = _samples(rng, 8, 3), _samples(rng, 8, 1), _samples(rng, 8, 4)
    chromaticities = b"cHRM", struct.pack(">8I", *(round(1e5 * one) for corner in P3 for one in corner))
    srgb, gamma = (b"sRGB", b"\0"), (b"gAMA", struct.pack(">I", 100_000))
    plain = as_rgb(rgb)
    table: list[tuple[str, str, Array, int, list[tuple[bytes, bytes]], Array | None]] = [
        ("gamma-srgb", "gAMA of sRGB", rgb, 2, [(b"gAMA", struct.pack(">I", 45455))], plain),
        ("gamma-linear", "gAMA 1", rgb, 2, [gamma], as_rgb(encoded(rgb / 255))),
        ("gamma-grey", "gAMA 1, grey", levels, 0, [gamma], as_rgb(encoded(levels / 255))),
        ("gamma-zero", "gAMA 0 (means nothing)", rgb, 2, [(b"gAMA", bytes(4))], plain),
        ("gamma-and-srgb", "gAMA 1, and sRGB, which counts", rgb, 2, [gamma, srgb], plain),
        ("chromaticities", "cHRM of Display P3", rgb, 2, [chromaticities], from_p3(rgb)),
        ("chromaticities-gamma", "both", rgb, 2, [gamma, chromaticities], from_p3(rgb, rgb / 255)),
        ("chromaticities-zero", "cHRM of nothing", rgb, 2, [(b"cHRM", bytes(32))], plain),
        ("profile-p3", "profile Display P3", rgb, 2, [_iccp(p3)], from_p3(rgb)),
        ("profile-and-gamma", "profile, which counts, and gAMA 1", rgb, 2, [gamma, _iccp(p3)], from_p3(rgb)),
        (
            "profile-grey",
            "grey, profile of gamma 1.8",
            levels,
            0,
            [_iccp(grey)],
            as_rgb(encoded((levels / 255) ** 1.8)),
        ),
        ("profile-other", "grey, profile of RGB (passed over)", levels, 0, [_iccp(p3)], as_rgb(levels)),
        ("profile-cmyk", "RGB, profile of CMYK (passed over)", rgb, 2, [_iccp(cmyk_profile()[0])], plain),
        ("profile-broken", "profile of zeros (passed over)", rgb, 2, [_iccp(p3[:40] + bytes(400))], plain),
        ("profile-cut", "profile cut off (passed over)", rgb, 2, [_iccp(p3[:200])], plain),
        ("profile-unpacks", "profile that does not unpack (passed over)", rgb, 2, [(b"iCCP", b"x\0\0abc")], plain),
        ("profile-large", "profile of 8 MiB (passed over)", rgb, 2, [_iccp(p3 + bytes(8 << 20))], plain),
        ("cicp-srgb", "cICP of sRGB, and gAMA 1", rgb, 2, [(b"cICP", b"\x01\x0d\0\x01"), gamma], plain),
        ("cicp-p3", "cICP of Display P3", rgb, 2, [(b"cICP", b"\x0c\x0d\0\x01")], from_p3(rgb)),
        ("cicp-hdr", "cICP of BT.2100 PQ", rgb, 2, [(b"cICP", b"\x09\x10\0\x01")], None),
    ]
    for name, holds, samples, colour, chunks, shown in table:
        is_same = shown is None or np.array_equal(shown, as_rgb(samples))
        data = png(samples, 8, colour, chunks)
        yield Case(name=f"{name}.png", holds=holds, data=data, shown=shown, tolerance=0 if is_same else 2)
    shown = over_white(from_p3(alpha[:, :, :3]), alpha[:, :, 3:] / 255)
    data = png(alpha, 8, _RGB_ALPHA, [_iccp(p3)])
    yield Case(name="profile-alpha.png", holds="profile Display P3, alpha", data=data, shown=shown, tolerance=2)
    palette = rng.integers(0, 256, (256, 3))
    data = png(levels, 8, _PALETTE, [_iccp(p3), (b"PLTE", palette.astype(np.uint8).tobytes())])
    shown = from_p3(palette[levels[:, :, 0]])
    yield Case(name="profile-palette.png", holds="profile Display P3, palette", data=data, shown=shown, tolerance=2)


def _png_containers(rng: np.random.Generator) -> Iterator[Case]:
    samples = rng.integers(0, 256, (100, 100, 3))
    shown = as_rgb(samples)
    whole = png(samples, 8, RGB)
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
        yield Case(name=name, holds=holds, data=png(long, 8, _GREY, interlaced=height == 1), shown=as_rgb(long))


def _cut_interlaced(samples: Array) -> bytes:
    header, pixels, end = png_chunks(png(samples, 8, RGB, interlaced=True))
    return png_file([header, (b"IDAT", zlib.compress(zlib.decompress(pixels[1])[:-15050])), end])


def _more_rows(samples: Array) -> bytes:
    header, pixels, end = png_chunks(png(samples, 8, RGB))
    return png_file([(b"IHDR", struct.pack(">II", 100, 90) + header[1][8:]), pixels, end])


def _broken_animation(*chunks: tuple[bytes, bytes]) -> bytes:
    header, pixels, end = chunks
    none = b"acTL", bytes(8)
    return png_file([header, none, none, (b"fcTL", b"\xff" * 26), pixels, end])


def _says_large(*chunks: tuple[bytes, bytes]) -> bytes:
    header, pixels, end = chunks
    return png_file([(b"IHDR", struct.pack(">II", 2**31 - 1, 2**31 - 1) + header[1][8:]), pixels, end])
