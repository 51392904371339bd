"""The paper's figures from measured points, as PNG; a curve has the same style in all of them.

Hides matplotlib. Every figure is about 1200 pixels wide; legends are below the panels.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

import matplotlib as mpl
import numpy as np

from dtufc.coding.arrays import Array
from dtufc.coding.transform import NUM_LEVELS
from dtufc_research.paper.distributions import Activation, TaskDistribution
from dtufc_research.paper.points import Point, curves_of, select, trained_tasks
from dtufc_research.paper.verdicts import IDLE, idle_share

mpl.use("Agg")
import matplotlib.pyplot as plt

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH: Final = 12.0  # inches
_DPI: Final = 100
_BLUE, _ORANGE, _GREEN, _RED, _PURPLE, _GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#666666"
_STYLES: Final = {  # transformed features: solid lines; truncated ones: dashed lines of the same colour
    "hyperprior-hybrid": (_BLUE, "o-"),
    "hyperprior-llm": (_ORANGE, "s-"),
    "hyperprior-vit": (_GREEN, "D-"),
    "hyperprior-tti": (_PURPLE, "P-"),
    "elic-hybrid": (_RED, "^-"),
    "pca-arranged-hybrid": ("black", "d-"),
    "baseline-hybrid": (_BLUE, "o--"),
    "baseline-llm": (_ORANGE, "s--"),
    "baseline-vit": (_GREEN, "D--"),
    "baseline-tti": (_PURPLE, "P--"),
    "kltprior": (_GREEN, "s-"),
    "klt": (_PURPLE, "x-"),
    "levels": (_GREY, "*"),
    "blockwise 8 bit, zstd": ("black", "v"),
}
CODECS: Final = (
    "hyperprior-hybrid",
    "elic-hybrid",
    "kltprior",
    "baseline-hybrid",
    "klt",
    "levels",
    "blockwise 8 bit, zstd",
)

Quantity: TypeAlias = Callable[[Point], float]


def figure2(tasks: Sequence[TaskDistribution], path: Path) -> None:
    """For each task: histogram and CDF of features, the learned map, widths of regions, histogram and CDF of levels."""
    figure, axes = plt.subplots(len(tasks), 4, figsize=(_WIDTH, 2.9 * len(tasks)), layout="constrained", squeeze=False)
    for row, task in zip(axes, tasks, strict=True):
        _histogram(row[0], task.counts, task.edges, f"{task.task}: features", "value", log=True)
        _learned_map(row[1], task)
        _region_widths(row[2], task)
        edges = np.arange(NUM_LEVELS + 1) - 0.5
        _histogram(row[3], task.level_counts, edges, "transformed features", "level", log=False)
    _save(figure, path)


def figure3(baseline: Activation, transformed: Activation, path: Path) -> None:
    """Mean |y| of the latent channels, sorted: of truncated features, and of transformed ones."""
    figure, axis = plt.subplots(figsize=(_WIDTH, 4.5), layout="constrained")
    for activation, style in ((baseline, "--"), (transformed, "-")):
        ordered = np.sort(activation.mean_abs)[::-1]
        share = np.arange(1, ordered.size + 1) / ordered.size
        label = f"{activation.curve}: {idle_share(ordered):.0%} of {ordered.size} channels below {IDLE}"
        axis.plot(
            share, np.maximum(ordered, 1e-4), style, color=_STYLES.get(activation.curve, ("black", ""))[0], label=label
        )
    axis.axhline(IDLE, color=_GREY, linewidth=0.8, linestyle=":")
    axis.set(yscale="log", xlabel="share of the latent channels, most active first", ylabel="mean |y|", xlim=(0, 1))
    axis.grid(alpha=0.3)
    _legend(figure, [axis])
    _save(figure, path)


def figure4(points: Sequence[Point], path: Path) -> None:
    """Rate against accuracy and MSE: the hybrid codecs, the task's own, and the baselines."""

    def curves(task: str) -> list[str]:
        own = [f"hyperprior-{task}", "baseline-hybrid", f"baseline-{task}"]
        return ["hyperprior-hybrid", "elic-hybrid", *own, "pca-arranged-hybrid"]

    _rate_panels(points, curves, path, with_mse=True)


def figure5(points: Sequence[Point], path: Path) -> None:
    """Rate against accuracy of every hyperprior codec on every task."""
    tasks = trained_tasks(points)

    def curves(task: str) -> list[str]:
        return [f"{family}-{trained}" for family in ("hyperprior", "baseline") for trained in ("hybrid", *tasks)]

    _rate_panels(points, curves, path, with_mse=False)


def codec_figure(points: Sequence[Point], task: str, path: Path) -> None:
    """All kinds of codec on one task: accuracy, and time to encode and decode, against the rate on the wire."""
    figure, axes = plt.subplots(1, 2, figsize=(_WIDTH, 5.2), layout="constrained")
    chosen = [curve for curve in CODECS if curve in curves_of(points)]
    _plot_curves(axes[0], points, task, chosen, _bpfp_wire, lambda p: p.accuracy)
    axes[0].set(ylabel="accuracy (agreement)")
    _plot_curves(axes[1], points, task, chosen, _bpfp_wire, lambda p: p.encode_ms + p.decode_ms)
    axes[1].set(yscale="log", ylabel="encode + decode, ms a feature")
    for axis in axes:
        _rate_axis(axis, "BPFP on the wire")
    figure.suptitle(f"{task}: all codecs")
    _legend(figure, axes)
    _save(figure, path)


def _rate_panels(points: Sequence[Point], curves: Callable[[str], list[str]], path: Path, *, with_mse: bool) -> None:
    """A column for each task; accuracy above, MSE below."""
    tasks, rows = trained_tasks(points), 2 if with_mse else 1
    figure, axes = plt.subplots(
        rows, len(tasks), figsize=(_WIDTH, 0.7 + 4.0 * rows), layout="constrained", squeeze=False
    )
    for column, task in enumerate(tasks):
        _plot_curves(axes[0, column], points, task, curves(task), _bpfp, lambda p: p.accuracy)
        axes[0, column].set(title=task, ylabel="accuracy (agreement)")
        if with_mse:
            _plot_curves(axes[1, column], points, task, curves(task), _bpfp, lambda p: p.mse)
            axes[1, column].set(yscale="log", ylabel="MSE of the features")
    for axis in axes.flat:
        _rate_axis(axis, "BPFP")
    _legend(figure, axes.flat)
    _save(figure, path)


def _plot_curves(
    axis: "Axes", points: Sequence[Point], task: str, curves: Iterable[str], x: Quantity, y: Quantity
) -> None:
    for curve in dict.fromkeys(curves):
        chosen = select(points, curve, task)
        color, style = _STYLES.get(curve, (_GREY, ".:"))
        if chosen:
            size = 9 if len(chosen) == 1 else 4
            axis.plot([x(p) for p in chosen], [y(p) for p in chosen], style, color=color, label=curve, markersize=size)


def _bpfp(point: Point) -> float:
    return point.bpfp_payload


def _bpfp_wire(point: Point) -> float:
    return point.bpfp_wire


def _rate_axis(axis: "Axes", label: str) -> None:
    """A logarithmic rate axis, and decimal numbers on every logarithmic axis; called last."""
    axis.set(xscale="log", xlabel=f"{label} (bits a feature value)")
    for scale in (axis.xaxis, axis.yaxis):
        if scale.get_scale() == "log":
            scale.set_major_locator(mpl.ticker.LogLocator(subs=(1, 2, 5)))
            scale.set_major_formatter(mpl.ticker.FormatStrFormatter("%g"))
            scale.set_minor_formatter(mpl.ticker.NullFormatter())
    axis.grid(alpha=0.3)


def _histogram(axis: "Axes", counts: Array, edges: Array, title: str, label: str, *, log: bool) -> None:
    axis.stairs(np.maximum(counts, 0.5) if log else counts, edges, fill=True, color=_GREEN, baseline=0.5 if log else 0)
    axis.set(title=title, xlabel=label, ylabel="count", yscale="log" if log else "linear")
    shares = axis.twinx()
    shares.plot(edges[1:], np.cumsum(counts) / counts.sum(), color=_RED)
    shares.set(ylim=(0, 1.02), ylabel="CDF")
    shares.yaxis.label.set_color(_RED)


def _learned_map(axis: "Axes", task: TaskDistribution) -> None:
    axis.step(task.transform.centroids, np.arange(NUM_LEVELS), where="mid", color=_BLUE)
    axis.set(title="learned map", xlabel="value", ylabel="level", ylim=(0, NUM_LEVELS - 1))
    axis.grid(alpha=0.3)


def _region_widths(axis: "Axes", task: TaskDistribution) -> None:
    """Widths of the 254 regions that have two borders."""
    widths = np.diff(task.transform.borders)
    axis.semilogy(np.arange(1, NUM_LEVELS - 1), np.where(widths > 0, widths, np.nan), color=_BLUE)
    axis.axhline(float(widths.mean()), color=_RED, linestyle="--", label="mean")
    axis.legend(loc="upper center", fontsize=8)
    axis.set(title="widths of regions", xlabel="level", ylabel="width")
    axis.grid(alpha=0.3)


def _legend(figure: "Figure", axes: Iterable["Axes"]) -> None:
    """One legend for all panels, below them, in the order of `_STYLES`."""
    found: dict[str, Artist] = {}
    for axis in axes:
        handles, labels = axis.get_legend_handles_labels()
        found = dict(zip(labels, handles, strict=True)) | found
    if found:
        order = [*(name for name in _STYLES if name in found), *(name for name in found if name not in _STYLES)]
        handles = [found[name] for name in order]
        figure.legend(handles, order, loc="outside lower center", ncols=min(len(found), 4), fontsize=9)


def _save(figure: "Figure", path: Path) -> None:
    figure.savefig(path, dpi=_DPI)
    plt.close(figure)
