"""`python -m dtufc_research.evaluation.fuzz_images`: damaged image files, to docs/results/images.md.

Whatever a file holds, the product either takes it for an image or says in one line why not: no other exception, no
warning, no time or memory that grows with what the file claims to be.
"""

import argparse
import resource
import struct
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from rich.progress import track

from dtufc.errors import InputError
from dtufc.models.images import open_image
from dtufc_research.evaluation.image_files import MAX_BYTES, MAX_PIXELS, cases
from dtufc_research.evaluation.image_png import png_chunks, png_file
from dtufc_research.evaluation.images_page import PAGE, write_section

_SAMPLES: Final = PAGE.parents[2] / "samples"
_NUMBERS: Final = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_MOST_BYTES: Final = 200_000  # of a file that is damaged: with larger ones, the time goes into copies


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What became of damaged files.

    Attributes:
        taken: how many are images all the same.
        rejected: how many are not, with an InputError.
        escaped: (number of the file, what went wrong) of all others.
        slowest_s: of one file; and that file's number.
        memory_bytes: by which the process grew at its largest.
        seconds: for all files.
    """

    taken: int
    rejected: int
    escaped: tuple[tuple[int, str], ...]
    slowest_s: float
    slowest: int
    memory_bytes: int
    seconds: float


def originals() -> list[bytes]:
    """The files of `image_files`, and the samples."""
    made = [case.data for case in cases() if case.data]
    photographs = [path.read_bytes() for path in sorted(_SAMPLES.glob("*.jpg"))]
    return [data for data in (*made, *photographs) if len(data) <= _MOST_BYTES]


def damaged_files(count: int, seed: int) -> Iterator[bytes]:
    """Mutations, each by its number: the same for a seed."""
    files = originals()
    for number in range(count):
        rng = np.random.default_rng((seed, number))
        data = files[rng.integers(len(files))]
        for _ in range(rng.integers(1, 3)):
            data = _damaged(data, files, rng)
        yield data


def _damaged(data: bytes, files: Sequence[bytes], rng: np.random.Generator) -> bytes:
    if len(data) < 2:
        return data + bytes(2)
    changed, place = bytearray(data), int(rng.integers(len(data)))
    match rng.integers(8):
        case 0:  # bytes anywhere
            for each in rng.integers(len(data), size=rng.integers(1, 6)):
                changed[each] ^= int(rng.integers(1, 256))
        case 1:  # bytes of the header
            for each in rng.integers(min(64, len(data)), size=rng.integers(1, 4)):
                changed[each] = int(rng.integers(256))
        case 2:
            return data[:place]
        case 3:  # the start of one and the end of another
            other = files[rng.integers(len(files))]
            return data[:place] + other[rng.integers(len(other)) :]
        case 4:  # a number, of either order
            number = struct.pack("<>"[rng.integers(2)] + "I", _NUMBERS[rng.integers(len(_NUMBERS))])
            changed[place : place + 4] = number
        case 5:  # a part twice, or not at all
            end = place + int(rng.integers(1, 200))
            return data[:end] + data[place:] if rng.integers(2) else data[:place] + data[end:]
        case 6:  # a marker of JPEG
            changed[place : place + 2] = bytes([0xFF, int(rng.integers(0xC0, 0xFF))])
        case _:
            return _damaged_chunk(data, rng)
    return bytes(changed)


def _damaged_chunk(data: bytes, rng: np.random.Generator) -> bytes:
    """A PNG of which a chunk is changed, doubled or left out, and all checksums are right; other files as they are."""
    try:
        chunks = png_chunks(data) if data.startswith(b"\x89PNG") else []
    except struct.error:
        chunks = []
    if not chunks:
        return data
    place = int(rng.integers(len(chunks)))
    name, body = chunks[place]
    match rng.integers(3):
        case 0 if body:
            changed = bytearray(body)
            changed[rng.integers(len(body))] = int(rng.integers(256))
            chunks[place] = name, bytes(changed)
        case 1:
            chunks.insert(int(rng.integers(len(chunks))), (name, body[: rng.integers(len(body) + 1)]))
        case _:
            del chunks[place]
    return png_file(chunks)


def fuzz(files: Iterable[bytes]) -> Findings:
    """Opens files, with warnings as errors."""
    taken, rejected, escaped, slowest = 0, 0, [], (0.0, 0)
    before, start = _largest_bytes(), time.perf_counter()
    for number, data in enumerate(files):
        begin = time.perf_counter()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                image = open_image(data, MAX_BYTES, MAX_PIXELS)
            assert image.mode == "RGB"
            assert image.width * image.height <= MAX_PIXELS
            taken += 1
        except InputError as error:
            if "\n" in str(error) or " at 0x" in str(error):
                escaped.append((number, f"says {error}"))
            rejected += 1
        except Exception as error:  # what is looked for
            escaped.append((number, repr(error)))
        slowest = max(slowest, (time.perf_counter() - begin, number))
    return Findings(
        taken=taken,
        rejected=rejected,
        escaped=tuple(escaped),
        slowest_s=slowest[0],
        slowest=slowest[1],
        memory_bytes=_largest_bytes() - before,
        seconds=time.perf_counter() - start,
    )


def _largest_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="how many files")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    # With what every image loads behind it, memory that grows is a file's.
    fuzz(damaged_files(100, chosen.seed + 1))
    found = fuzz(track(damaged_files(chosen.count, chosen.seed), total=chosen.count))
    lines = [
        f"Of {chosen.count} damaged files, {len(found.escaped)} ended in anything but an image or a line that says why "
        "not. The files are those above and the samples, with bytes, numbers, markers and chunks changed, cut off, "
        "left out, doubled and joined with others. `python -m dtufc_research.evaluation.fuzz_images` makes them and "
        "this table.",
        "",
        "| | |",
        "|---|---|",
        f"| taken for images | {found.taken} |",
        f"| rejected | {found.rejected} |",
        f"| other exceptions, and warnings | {len(found.escaped)} |",
        f"| slowest file | {1000 * found.slowest_s:.0f} ms |",
        f"| growth of the process's largest size | {found.memory_bytes / 2**20:.0f} MiB |",
        f"| all files, on one core | {found.seconds:.0f} s |",
    ]
    print("\n".join([*lines[2:], *(f"file {number}: {what}" for number, what in found.escaped)]))
    print(f"the slowest file is number {found.slowest}")
    write_section("Damaged files", lines)
    return int(bool(found.escaped))


if __name__ == "__main__":
    raise SystemExit(main())
