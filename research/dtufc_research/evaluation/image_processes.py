"""`python -m dtufc_research.evaluation.image_processes FILE`: what a process of its own costs an image of the edge.

An image of the edge is decoded in a process that can be killed (decision 0024). Here: its time beside that of the same
work in this process, and the memory that it takes, for a file and for larger ones of each format; printed as Markdown.
"""

import asyncio
import io
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any, Final

from PIL import Image

from dtufc.models.images import open_image
from dtufc_edge.image_decoding import ImageDecoders
from dtufc_edge.image_process import ImageLimits
from dtufc_edge.settings import EdgeSettings
from dtufc_research.evaluation.machine import machine

REPEATS: Final = 11
LARGE: Final = (2000, 1500)
_TURNED: Final = 6  # orientation by EXIF: a copy more


def main() -> None:
    limits = EdgeSettings().image_limits
    file = Path(sys.argv[1])
    print(f"{machine()}\n\n| image | pixels | in this process, ms | in a process of its own, ms | bytes a pixel |")
    print("|---|---:|---:|---:|---:|")
    for name, data in {file.name: file.read_bytes(), **larger(file)}.items():
        print(asyncio.run(table_row(name, data, limits)))
    print(f"\nA process starts in {1e3 * asyncio.run(start_s(limits)):.0f} ms.")


def larger(file: Path) -> dict[str, bytes]:
    """The image of a file in a larger size, in each format in its costliest form."""
    with Image.open(file) as image:
        large = image.convert("RGB").resize(LARGE)
    exif = Image.Exif()
    exif[0x0112] = _TURNED
    forms: dict[str, tuple[str, str, dict[str, Any]]] = {
        "JPEG": ("JPEG", "RGB", {}),
        "progressive JPEG, CMYK": ("JPEG", "CMYK", {"progressive": True}),
        "PNG, alpha": ("PNG", "RGBA", {"compress_level": 1}),
        "WebP, alpha": ("WEBP", "RGBA", {"lossless": True, "method": 0, "quality": 0}),
    }
    made = {}
    for name, (kind, mode, options) in forms.items():
        buffer = io.BytesIO()
        large.convert(mode).save(buffer, kind, exif=exif, **options)
        made[name] = buffer.getvalue()
    return made


async def table_row(name: str, data: bytes, limits: ImageLimits) -> str:
    here, there = [], []
    decoders = ImageDecoders(limits, 1, lambda _: None)
    try:
        await decoders.start()
        (pid,) = map(int, Path("/proc/thread-self/children").read_text(encoding="utf-8").split())
        before = memory(pid, "VmSize")
        for _ in range(REPEATS):
            start = time.perf_counter()
            open_image(data, limits.max_bytes, limits.max_pixels)
            here.append(time.perf_counter() - start)
            start = time.perf_counter()
            pixels = await decoders.decode(data)
            pixels.to_image()
            there.append(time.perf_counter() - start)
        num_pixels = pixels.width * pixels.height
        needed = (memory(pid, "VmPeak") - before) / num_pixels
    finally:
        await decoders.close()
    return f"| {name} | {num_pixels} | {1e3 * median(here):.1f} | {1e3 * median(there):.1f} | {needed:.0f} |"


async def start_s(limits: ImageLimits) -> float:
    decoders = ImageDecoders(limits, 1, lambda _: None)
    start = time.perf_counter()
    try:
        await decoders.start()
        return time.perf_counter() - start
    finally:
        await decoders.close()


def memory(pid: int, field: str) -> int:
    """Bytes, of a process."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{field}:"))


if __name__ == "__main__":
    main()
