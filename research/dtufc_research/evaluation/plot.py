"""The benchmark's tables as one plot: rate against agreement, for each model."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

if TYPE_CHECKING:
    from dtufc_research.evaluation.bench import Row

_SERIES = {
    "klt, ": ("klt", "o-"),
    "klt without": ("klt, fitted without gradients", "o--"),
    "levels": ("levels", "s"),
    "blockwise 8 bit, zstd": ("blockwise 8 bit, zstd", "^"),
    "float16, ": ("float16, shuffled, zstd", "v"),
    "JPEG": ("the photograph as JPEG", "x-"),
    "WebP": ("the photograph as WebP", "+-"),
}


def plot_tables(tables: "Sequence[tuple[str, list[Row]]]", path: Path) -> None:
    """One panel for each table."""
    figure, axes = plt.subplots(1, len(tables), figsize=(5 * len(tables), 4.2), layout="constrained")
    for axis, (title, rows) in zip(axes, tables, strict=True):
        for prefix, (label, style) in _SERIES.items():
            chosen = [row for row in rows if row.method.startswith(prefix)]
            if chosen:
                axis.plot(
                    [r.bpfp_wire for r in chosen], [r.agreement for r in chosen], style, label=label, markersize=4
                )
        axis.set(
            xscale="log", xlabel="bits a feature value, on the wire", ylabel="agreement", title=title.partition(" (")[0]
        )
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)
