"""Measures what the pages need and keeps it as JSON; writes the page, the tables and the figures from it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, TypeAlias, TypedDict

import numpy as np
import torch

from dtufc.coding.arrays import Array
from dtufc.coding.codecs.learned.networks import STRIDE
from dtufc.coding.codecs.learned.plane import MIDDLE, NETWORK_SCALE, Levels, PlaneTransform
from dtufc.coding.transform import NUM_LEVELS
from dtufc_research.paper.distributions import Activation, distributions_of, load_distributions, save_distributions
from dtufc_research.paper.exactness import rate_overhead
from dtufc_research.paper.figures import codec_figure, figure2, figure3, figure4, figure5
from dtufc_research.paper.histograms import TaskValues
from dtufc_research.paper.measure import (
    CURVES,
    QUALITIES,
    has_run,
    learned_codec,
    network_path,
    plane_transform_for,
    samples,
)
from dtufc_research.paper.page import results_page, sections_of, verdict_table, write_tables
from dtufc_research.paper.points import Point, curves_of, load_points, save_points, tasks_of, trained_tasks
from dtufc_research.paper.rows import BASELINE, ELIC, HYBRID, KLTPRIOR, Table
from dtufc_research.training.configurations import TrainSpec
from dtufc_research.training.networks import load_trainable
from dtufc_research.training.plane_transforms import ChannelMapped
from dtufc_research.training.train import SHIPPED, trained_steps

_MIDDLE_RATE: Final = 0.5
_COMPARED: Final = ("llm", "vit", "tti")  # the tasks whose distributions the paper compares
_NUM_EXACT: Final = 4  # features of each task


class Training(TypedDict):
    """A network's training, as kept."""

    steps: int
    validation_loss: float


class Exactness(TypedDict):
    """The cost of exact decoding at one rate; see `exactness.Overhead`."""

    share: float
    end_bytes: float


Exactnesses: TypeAlias = Mapping[str, Mapping[str, Mapping[str, Exactness]]]  # by network, task and rate


def write(measured: Sequence[Point], kept: Sequence[Point], folder: Path) -> None:
    """Measures and keeps everything else that the pages need, and writes them.

    Args:
        measured: points that were measured now.
        kept: points of other curves, from the previous pages.
        folder: of the pages.
    """
    folder.mkdir(parents=True, exist_ok=True)
    points = [*measured, *kept]
    tasks = trained_tasks(points)
    trainings_of(measured, folder / "networks.json")
    save_points(points, folder / "points.json")
    values = [_values(task) for task in tasks_of(points) if task in _COMPARED]
    activations = [_activation(name, tasks) for name in (BASELINE, HYBRID)]
    num_samples = {task: len(samples(task)) for task in tasks_of(points)}
    save_distributions(distributions_of(values, activations, num_samples), folder / "distributions.json")
    _save(_exactness(tasks), folder / "exactness.json")
    write_pages(folder)


def write_pages(folder: Path) -> None:
    """Writes the page, the tables and the figures from the JSON files of the folder; measures nothing."""
    points, found = load_points(folder / "points.json"), load_distributions(folder / "distributions.json")
    trainings: dict[str, Training] = json.loads((folder / "networks.json").read_text(encoding="utf-8"))
    exactness: Exactnesses = json.loads((folder / "exactness.json").read_text(encoding="utf-8"))
    baseline, transformed = found.activations
    figure2(found.tasks, folder / "figure2.png")
    figure3(baseline, transformed, folder / "figure3.png")
    figure4(points, folder / "figure4.png")
    figure5(points, folder / "figure5.png")
    for task in tasks_of(points):
        codec_figure(points, task, folder / f"codecs-{task}.png")
    sections = sections_of(points, found)
    tables = [table for section in sections for table in section.tables]
    tables += [exactness_table(exactness), training_table(points, trainings, found.num_samples)]
    verdicts = verdict_table(verdict for section in sections for verdict in section.verdicts)
    write_tables([verdicts, *tables], folder / "tables")
    (folder / "README.md").write_text(results_page(points, sections), encoding="utf-8")


def _save(tree: object, path: Path) -> None:
    path.write_text(json.dumps(tree, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _values(task: str) -> TaskValues:
    features = [sample.features for sample in samples(task)]
    paper, trimmed = plane_transform_for("paper", task), plane_transform_for("trimmed", task)
    assert isinstance(paper, Levels)
    assert isinstance(trimmed, Levels)
    pca_arranged = plane_transform_for("pca-arranged", task)
    assert isinstance(pca_arranged, ChannelMapped)
    return TaskValues(
        task=task,
        values=np.concatenate([feature.ravel() for feature in features]),
        transform=paper.transform,
        trimmed=_level_counts(trimmed, features),
        trimmed_transform=trimmed.transform,
        channelwise=_level_counts(plane_transform_for("affine", task), features),
        pca_arranged=_level_counts(pca_arranged, features, pca_arranged.spacing),
    )


def _level_counts(plane_transform: PlaneTransform, features: Sequence[Array], spacing: float = 1.0) -> Array:
    """[256], how often each level occurs; outliers, which are between two levels on the plane, do not count."""
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
            scaled = torch.from_numpy((plane[: sides[0], : sides[1]] - MIDDLE) / NETWORK_SCALE)[None, None]
            network = codec.trained.network
            y = network.g_a(scaled.float()) * network.gains.gain(rate)
            found.append(y.abs().mean(dim=(0, 2, 3)).numpy())
    return Activation(curve=curve.name, mean_abs=np.mean(found, axis=0))


def _exactness(tasks: Sequence[str]) -> dict[str, dict[str, dict[str, Exactness]]]:
    """The cost of integer probabilities, for some test features of each task."""
    found: dict[str, dict[str, dict[str, Exactness]]] = {}
    for curve in (curve for curve in CURVES if curve.name in (HYBRID, ELIC, KLTPRIOR)):
        for task in tasks:
            codec = learned_codec(curve, task)
            padding, network = codec.plane_transform.padding, load_trainable(network_path(curve))
            planes = [codec.plane_transform.to_plane(sample.features)[0] for sample in samples(task)[:_NUM_EXACT]]
            for quality in QUALITIES:
                cost = rate_overhead(codec.trained, network, planes, quality, padding)
                kept = Exactness(share=round(cost.share, 4), end_bytes=round(cost.end_bytes, 1))
                found.setdefault(curve.name, {}).setdefault(task, {})[f"{quality:g}"] = kept
    return found


def exactness_table(found: Exactnesses) -> Table:
    """The cost of integer probabilities, as a table."""
    rows = [
        [network, task, rate, f"{100 * cost['share']:+.2f}", f"{cost['end_bytes']:.1f}"]
        for network, tasks in found.items()
        for task, rates in tasks.items()
        for rate, cost in rates.items()
    ]
    text = (
        f"What exact decoding costs: code length of {_NUM_EXACT} test features under integer probabilities, against "
        "the floating-point network's ideal (`kltprior` has fitted tables and may need less). `end_bytes` is what a "
        "stream has beyond its code length: whole words, with any probabilities."
    )
    columns = ("network", "task", "rate", "overhead_percent", "end_bytes")
    return Table(name="exactness", text=text, columns=columns, rows=rows)


def trainings_of(measured: Sequence[Point], path: Path) -> dict[str, Training]:
    """The trainings of all networks: of measured curves that were trained here, and of the others as kept."""
    found: dict[str, Training] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    names = set(curves_of(measured))
    for network in {curve.network for curve in CURVES if curve.name in names}:
        if has_run(network):
            steps, loss = trained_steps(network)
            found[network] = {"steps": steps, "validation_loss": round(loss, 3)}
    _save(found, path)
    return found


def training_table(points: Sequence[Point], trainings: Mapping[str, Training], num_samples: Mapping[str, int]) -> Table:
    """The trainings as a table."""
    measured, rows = set(curves_of(points)), []
    for name in sorted({curve.network for curve in CURVES if curve.name in measured}):
        spec, training = TrainSpec.load(name), trainings[name]
        sizes = [str(spec.widths.num_channels), str(spec.widths.num_latents), str(training["steps"])]
        shipped = SHIPPED.get(name, "")
        tasks = " ".join(spec.tasks)
        rows.append(
            [name, spec.kind, spec.plane_transform, tasks, *sizes, f"{training['validation_loss']:.3f}", shipped]
        )
    counts = ", ".join(f"{count} of `{task}`" for task, count in num_samples.items())
    text = (
        "How the networks were trained: hidden channels N, latents M. Losses are of whole validation planes, and are "
        f"comparable only between networks of equal features and tasks. Test features: {counts}, from files that "
        "nothing was fitted or trained on."
    )
    missing = sorted({curve.name for curve in CURVES} - measured)
    if missing:
        text += f" Not measured: {', '.join(missing)}."
    columns = ("network", "kind", "plane_transform", "tasks", "N", "M", "steps", "validation_loss", "shipped_as")
    return Table(name="trainings", text=text, columns=columns, rows=rows)
