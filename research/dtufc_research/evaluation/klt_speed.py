"""`python -m dtufc_research.evaluation.klt_speed`: where the time of `klt` goes, to docs/results/klt-speed.md.

Features of a large model's width and of a vision transformer's shape, and ever longer ones. Values are synthetic, with
channels of different scales and a few directions of their own: times depend on shapes and on the rate alone.
"""

import cProfile
import pstats
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
from threadpoolctl import threadpool_limits

from dtufc.coding.arrays import Array
from dtufc.coding.codecs.klt import KltCodec
from dtufc.coding.layout import Family, Layout
from dtufc_research.evaluation.machine import machine
from dtufc_research.evaluation.speed import median_seconds

PAGE: Final = Path(__file__).parents[3] / "docs" / "results" / "klt-speed.md"
QUALITY: Final = 0.5
_PARTS: Final = {  # of the work, by the function that does it
    "products": ("to_components", "to_channels"),
    "entropy coder": ("write", "finish", "read"),
    "sorting by class": ("_runs",),
}
_REPEATS: Final = 5


def features(rng: np.random.Generator, num_rows: int, channels: int) -> Array:
    """[num_rows, channels] float32."""
    fixed = np.random.default_rng(0)
    scale = np.exp(fixed.standard_normal(channels))
    directions = fixed.standard_normal((24, channels)) / 2
    rows = rng.standard_normal((num_rows, channels)) + rng.standard_normal((num_rows, 24)) @ directions
    return (rows * scale).astype(np.float32)


def fitted(family: Family, num_rows: int, channels: int) -> KltCodec:
    """`klt` for such features, from ten samples; it loads as from a profile."""
    layout = Layout(family=family, channels=channels, prefix=int(family == Family.vit))
    rng = np.random.default_rng(1)
    fit = KltCodec.fit([features(rng, num_rows, channels) for _ in range(10)], layout)
    return KltCodec.from_arrays(fit.arrays(), layout)


def row(codec: KltCodec, num_rows: int, threads: int) -> str:
    """Markdown: shape, threads, rate, and milliseconds: encode, decode, of both the parts, and that a thousand rows."""
    channels = codec.transform.basis.channels
    sent = features(np.random.default_rng(2), num_rows, channels)
    payload = codec.encoder(sent)(QUALITY)

    def decode() -> None:
        codec.decode(payload, sent.shape, np.dtype(np.float32))

    with threadpool_limits(limits=threads):
        encode_s, decode_s = (
            median_seconds(lambda: codec.encoder(sent)(QUALITY), _REPEATS),
            median_seconds(decode, _REPEATS),
        )
        parts = _parts(lambda: codec.encoder(sent)(QUALITY), decode)
    cells = [f"{1000 * seconds:.1f}" for seconds in (encode_s, decode_s, *parts)]
    bits = 8 * len(payload.data) / sent.size
    each = 1e6 * (encode_s + decode_s) / num_rows
    return f"| {num_rows} x {channels} | {threads} | {bits:.2f} | {' | '.join(cells)} | {each:.1f} |"


def _parts(*runs: Callable[[], object]) -> list[float]:
    """Seconds in each of the parts, of one encode and one decode."""
    profiler = cProfile.Profile()
    for run in runs:
        profiler.runcall(run)
    seconds: dict[str, float] = {}
    for (_, _, name), (_, _, _, cumulative, _) in pstats.Stats(profiler).stats.items():  # type: ignore[attr-defined]
        seconds[name] = seconds.get(name, 0.0) + cumulative
    return [sum(seconds.get(name, 0.0) for name in names) for names in _PARTS.values()]


def main() -> int:
    rows = []
    for family, fit_rows, channels, lengths in (
        (Family.vit, 1370, 384, (1370,)),
        (Family.llm, 256, 4096, (1024,)),
        (Family.llm, 256, 512, (1024, 4096, 16384, 32768)),
    ):
        codec = fitted(family, fit_rows, channels)
        for num_rows in lengths:
            rows += [row(codec, num_rows, threads) for threads in ((1, 2) if num_rows < 4096 else (1,))]
    lines = [
        "# Where the time of klt goes",
        "",
        f"Milliseconds at quality {QUALITY}. Products: components and channels, float32 one way and float64 the other,",
        "which is what makes a decoder exact. Parts are of one encode and one decode together, under a profiler. A row",
        "of C channels takes 2 r C multiplications each way, with r leading components (C^2 for a whole basis of up to",
        "1,024 channels); work is linear in rows.",
        "`python -m dtufc_research.evaluation.klt_speed` writes this page.",
        "",
        f"Measured on {machine()}.",
        "",
        f"| shape | threads | BPFP | encode | decode | {' | '.join(_PARTS)} | both, us a row |",
        "|---|" + "---:|" * (5 + len(_PARTS)),
        *rows,
    ]
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
