"""Writes what was measured: the points as JSON, the tables as Markdown, the figures as PNG."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch

from dtufc.coding.arrays import Array
from dtufc.coding.codecs.learned.networks import STRIDE
from dtufc.coding.codecs.learned.plane import MIDDLE, NETWORK_SCALE, Levels, PlaneTransform
from dtufc.coding.transform import NUM_LEVELS
from dtufc_research.paper.exactness import rate_overhead
from dtufc_research.paper.figures import Activation, codec_figure, figure2, figure3, figure4, figure5
from dtufc_research.paper.histograms import DISTANCES, OWN_BINS, TaskValues, level_counts
from dtufc_research.paper.measure import (
    CURVES,
    NUM_SAMPLES,
    QUALITIES,
    has_run,
    learned_codec,
    plane_transform_for,
    samples,
)
from dtufc_research.paper.points import Point, curves_of, save_points, tasks_of, trained_tasks
from dtufc_research.paper.tables import figure3_note, results_page
from dtufc_research.training.configurations import TrainSpec
from dtufc_research.training.plane_transforms import ChannelMapped
from dtufc_research.training.train import SHIPPED, trained_steps

_MIDDLE_RATE = 0.5
_COMPARED = ("llm", "vit", "tti")  # whose distributions the paper compares
_NUM_EXACT = 4  # features of each task
_PICTURES = {  # title, and where the page says whether ours agrees
    "figure2.png": ("Figure 2: the features, the learned map and the transformed features of each task", "Figure 2"),
    "figure3.png": ("Figure 3: activation of the latent channels", "Figure 3"),
    "figure4.png": ("Figure 4: rate against accuracy and error", "Against the baselines"),
    "figure5.png": ("Figure 5: networks trained on one task, on every other", "Table 4"),
}
_TIMES = "Times are of the machine on which a curve was last measured; [on one machine](speed.md)."

_MORE = """\
## More pages

What each codec does to [drawn pictures](pictures.md) and to [the answers a language model chooses](answers.md); what
decodes [otherwise on other machines](determinism.md); [times](speed.md).

The numbers as JSON: [points](points.json) for Tables 2 to 6, Figures 4 and 5 and all that is beyond the paper;
[distributions](distributions.json) for Table 1, Figures 2 and 3; [trainings](networks.json).
"""


class Training(TypedDict):
    """What is kept of a network's training."""

    steps: int
    validation_loss: float


def write(measured: Sequence[Point], kept: Sequence[Point], folder: Path) -> None:
    """All of docs/results.

    Args:
        measured: points of networks as they are here.
        kept: points of other curves, which the pages in `folder` have already.
        folder: where the pages lie.
    """
    folder.mkdir(parents=True, exist_ok=True)
    points = [*measured, *kept]
    trainings = trainings_of(measured, folder / "networks.json")
    tasks = trained_tasks(points)
    values = [_values(task) for task in tasks_of(points) if task in _COMPARED]
    baseline, transformed = (_activation(name, tasks) for name in ("baseline-hybrid", "hyperprior-hybrid"))
    save_points(points, folder / "points.json")
    save_distributions(values, [baseline, transformed], folder / "distributions.json")
    figure2(values, folder / "figure2.png")
    figure3(baseline, transformed, folder / "figure3.png")
    figure4(points, folder / "figure4.png")
    figure5(points, folder / "figure5.png")
    pictures = {
        name: (title, f'Whether ours agrees with the paper: "{where}", above.')
        for name, (title, where) in _PICTURES.items()
    }
    for task in tasks_of(points):
        pictures[f"codecs-{task}.png"] = f"All codecs on `{task}`: accuracy and time against rate", _TIMES
        codec_figure(points, task, folder / f"codecs-{task}.png")
    page = results_page(points, values) + "\n" + figure3_note(baseline.mean_abs, transformed.mean_abs)
    listed = "\n".join(f"## {title}\n\n![{title}]({name})\n\n{note}\n" for name, (title, note) in pictures.items())
    sections = (page, _exactness(tasks), _training(points, trainings), listed, _MORE)
    (folder / "README.md").write_text("\n".join(sections), encoding="utf-8")


def save_distributions(tasks: Sequence[TaskValues], activations: Sequence[Activation], path: Path) -> None:
    """Writes what Table 1, Figures 2 and 3 show."""
    distances = {
        name: {f"{a} from {b}": _rounded(kl) for (a, b), kl in divergences(tasks).items()}
        for name, divergences in DISTANCES.items()
    }
    maps = {}
    for task in tasks:
        counts, edges = np.histogram(task.values, OWN_BINS)
        maps[task.task] = {
            "features": {"edges": _rounded(edges), "counts": counts.tolist()},
            "levels": {"values": _rounded(task.transform.centroids), "counts": level_counts(task).tolist()},
        }
    activity = {activation.curve: _rounded(activation.mean_abs) for activation in activations}
    found = {"table 1": distances, "figure 2": maps, "figure 3": activity}
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _rounded(values: Any) -> Any:
    """Floats of any shape, to six digits."""
    return np.vectorize(lambda value: float(f"{value:.6g}"))(values).tolist()


def _values(task: str) -> TaskValues:
    features = [sample.features for sample in samples(task)]
    paper, near = plane_transform_for("paper", task), plane_transform_for("trimmed", task)
    assert isinstance(paper, Levels)
    assert isinstance(near, Levels)
    arranged = plane_transform_for("pca-arranged", task)
    assert isinstance(arranged, ChannelMapped)
    return TaskValues(
        task=task,
        values=np.concatenate([feature.ravel() for feature in features]),
        transform=paper.transform,
        trimmed=_level_counts(near, features),
        trimmed_transform=near.transform,
        channelwise=_level_counts(plane_transform_for("affine", task), features),
        pca_arranged=_level_counts(arranged, features, arranged.spacing),
    )


def _level_counts(plane_transform: PlaneTransform, features: Sequence[Array], spacing: float = 1.0) -> Array:
    """[256], how often each level occurs; values apart, between two levels on the plane, do not count."""
    plane = np.concatenate([plane_transform.to_plane(feature)[0].ravel() for feature in features])
    places = MIDDLE + (plane - MIDDLE) / spacing
    levels = places[places % 1 == 0].astype(np.int64)
    return np.bincount(levels, minlength=NUM_LEVELS).astype(np.float64)


@torch.inference_mode()
def _activation(name: str, tasks: Sequence[str]) -> Activation:
    """Mean |y| of each latent channel at a middle rate, over some test features of each task."""
    curve = next(curve for curve in CURVES if curve.name == name)
    found: list[Array] = []
    for task in tasks:
        codec = learned_codec(curve, task)
        rate = torch.tensor([_MIDDLE_RATE * (codec.trained.num_rates - 1)])
        for sample in samples(task)[:4]:
            plane, _ = codec.plane_transform.to_plane(sample.features)
            sides = [side // STRIDE * STRIDE for side in plane.shape]
            units = torch.from_numpy((plane[: sides[0], : sides[1]] - MIDDLE) / NETWORK_SCALE)[None, None]
            found.append(codec.trained.network.analysis(units.float(), rate).abs().mean(dim=(0, 2, 3)).numpy())
    return Activation(curve=curve.name, mean_abs=np.mean(found, axis=0))


def _exactness(tasks: Sequence[str]) -> str:
    """A table of what integer probabilities cost."""
    lines = [
        "## What exact decoding costs",
        "",
        f"Code length of {_NUM_EXACT} test features' symbols, under integer probabilities, against the float network's "
        "ideal; normal tables, but for `kltprior`: its fitted ones may need less than that ideal. In brackets the "
        "bytes that a stream has beyond its code length: the coder's whole words, which come with any probabilities.",
        "",
        "| network | task | " + " | ".join(f"rate {quality:g}" for quality in QUALITIES) + " |",
        "|---|---|" + "---:|" * len(QUALITIES),
    ]
    for curve in (curve for curve in CURVES if curve.name in ("hyperprior-hybrid", "elic-hybrid", "kltprior")):
        for task in tasks:
            codec = learned_codec(curve, task)
            planes = [codec.plane_transform.to_plane(sample.features)[0] for sample in samples(task)[:_NUM_EXACT]]
            found = [
                rate_overhead(codec.trained, planes, quality, codec.plane_transform.padding) for quality in QUALITIES
            ]
            cells = [f"{100 * cost.share:+.2f} % ({cost.end_bytes:.1f})" for cost in found]
            lines.append(f"| {curve.name} | {task} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def trainings_of(measured: Sequence[Point], path: Path) -> dict[str, Training]:
    """How each network was trained: those of the measured curves that were trained here, the others as kept."""
    found: dict[str, Training] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    names = set(curves_of(measured))
    for network in {curve.network for curve in CURVES if curve.name in names}:
        if has_run(network):
            steps, loss = trained_steps(network)
            found[network] = {"steps": steps, "validation_loss": round(loss, 3)}
    path.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return found


def _training(points: Sequence[Point], trainings: dict[str, Training]) -> str:
    """How long each network was trained, and on what."""
    lines = [
        "## How the networks were trained",
        "",
        f"{NUM_SAMPLES} test features a task, {len(samples('cnn'))} of `cnn`, from files that nothing was fitted or "
        "trained on. Networks: N hidden channels, M latents. Losses are of whole validation planes, and comparable "
        "between networks of equal features and tasks only.",
        "",
        "| network | kind | features | trained on | N, M | steps | validation loss | shipped as |",
        "|---|---|---|---|---|---:|---|---|",
    ]
    measured = set(curves_of(points))
    for name in sorted({curve.network for curve in CURVES if curve.name in measured}):
        spec, training = TrainSpec.load(name), trainings[name]
        widths = f"{spec.widths.num_channels}, {spec.widths.num_latents}"
        lines.append(
            f"| {name} | {spec.kind} | {spec.plane_transform} | {', '.join(spec.tasks)} | {widths} | {training['steps']} "
            f"| {training['validation_loss']:.3f} | {SHIPPED.get(name, '')} |"
        )
    missing = sorted({curve.name for curve in CURVES} - measured)
    if missing:
        lines += ["", f"Not measured: {', '.join(missing)}."]
    return "\n".join(lines) + "\n"
