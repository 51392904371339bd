"""Accuracy against bits, as a plot: matplotlib is no part of what runs."""

from pathlib import Path
from typing import Final

from dtufc.coding.evaluation import NO_CODEC, NOISE_FLOOR, Evaluation
from dtufc.errors import InputError

try:
    import matplotlib as mpl
    from matplotlib.figure import Figure
except ModuleNotFoundError as error:
    remedy = "Install it: pip install 'dtufc[evaluate]'"
    raise InputError(
        field="output", problem="a plot needs matplotlib, which is not installed", remedy=remedy
    ) from error

_SIZE: Final = (5.0, 3.6)  # inches, of one score
_DPI: Final = 120
_LEVELS: Final = {NO_CODEC: ("no codec", ":"), NOISE_FLOOR: (NOISE_FLOOR, "--")}  # lines across; their bits say nothing


def plot(evaluation: Evaluation, title: str, path: Path) -> None:
    """Writes a PNG: for each score one axis, bits a value (logarithmic) against it, a line for each codec."""
    names = evaluation.score_names
    figure = Figure(figsize=(_SIZE[0] * len(names), _SIZE[1]), dpi=_DPI, layout="constrained")
    every = figure.subplots(1, len(names), squeeze=False)[0]
    codecs = list(dict.fromkeys(row.codec for row in evaluation.rows if row.codec not in _LEVELS))
    colours = mpl.colormaps["tab10"]
    for axes, name in zip(every, names, strict=True):
        for number, codec in enumerate(codecs):
            rows = [row for row in evaluation.rows if row.codec == codec and name in row.scores]
            bits, scores = [row.bpfp for row in rows], [row.scores[name] for row in rows]
            axes.plot(bits, scores, "o-", color=colours(number % 10), label=codec, markersize=4)
        for row in evaluation.rows:
            if row.codec in _LEVELS and name in row.scores:
                label, style = _LEVELS[row.codec]
                axes.axhline(row.scores[name], color="grey", linestyle=style, label=label)
        axes.set(xscale="log", xlabel="bits a feature value", title=name)
        axes.grid(alpha=0.3)
    every[0].legend(fontsize="small")
    figure.suptitle(f"{title}: {evaluation.num_samples} samples")
    figure.savefig(path)
