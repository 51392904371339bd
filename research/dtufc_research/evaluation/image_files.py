"""`python -m dtufc_research.evaluation.image_files`: image files of every kind, to docs/results/images.md."""

import io
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image

from dtufc.coding.arrays import Array
from dtufc.errors import InputError
from dtufc.models.image_colours import matrix_profile
from dtufc.models.images import open_image
from dtufc_research.evaluation.image_case import (
    HEIGHT,
    LOSSY,
    P3,
    WIDTH,
    Case,
    blocks,
    from_p3,
    over_white,
    ramps,
    saved,
)
from dtufc_research.evaluation.image_jpeg import jpegs, orientations
from dtufc_research.evaluation.image_png import pngs
from dtufc_research.evaluation.images_page import write_section

MAX_BYTES: Final = 16 << 20
MAX_PIXELS: Final = 1_000_000


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
    made = [*pngs(rng), *orientations(), *jpegs(), *_webps(rng)]
    return [*made, *_others(rng)]


def _webps(rng: np.random.Generator) -> Iterator[Case]:
    rgb, smooth = blocks(), ramps()
    alpha = rng.integers(0, 256, (HEIGHT, WIDTH, 4)).astype(np.uint8)
    soft = np.concatenate([smooth, blocks(np.array([0, 60, 128, 200, 255, 255]))], axis=2)
    over = over_white(soft[:, :, :3], soft[:, :, 3:] / 255)
    lossless, lossy = saved(rgb, "WEBP", lossless=True), saved(smooth, "WEBP", quality=90)
    p3 = matrix_profile(None, P3, is_grey=False)
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
         over_white(alpha[:, :, :3], alpha[:, :, 3:] / 255), 1),
        ("lossy", "lossy", lossy, smooth, LOSSY),
        ("lossy-alpha", "lossy, alpha", saved(soft, "WEBP", quality=100, exact=True), over, LOSSY),
        ("profile", "profile Display P3", saved(rgb, "WEBP", lossless=True, icc_profile=p3), from_p3(rgb), 2),
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
