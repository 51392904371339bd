"""`python -m dtufc_research.evaluation.learned_speed`: times of the learned codecs and of CompressAI's coder, by stage.

Both have the same weights and run in this process, one after the other, on one plane of each task. Our codec is timed
stage by stage. Of CompressAI, hooks time the networks, and the rest of `compress` and `decompress` is entropy coding.
One thread is timed by process time, which other programs do not affect; several threads by wall time. Earlier work of
the process affects the times: run it alone.
"""

import argparse
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any, Final, Literal

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import nn

from dtufc.coding.arrays import Array
from dtufc.coding.codecs.learned import VARIANTS, shipped_network
from dtufc.coding.codecs.learned.codec import padded
from dtufc.coding.codecs.learned.latents import Coding, Reader, Writer
from dtufc.coding.codecs.learned.network_file import TrainedNetwork, load_network
from dtufc.coding.codecs.learned.networks import in_strips
from dtufc.coding.codecs.learned.plane import PlaneTransform
from dtufc.coding.entropy import Decoder, Encoder
from dtufc.models.profile import load_profile
from dtufc_research.evaluation.reference import HIGHEST, from_network_scale, reference_model
from dtufc_research.training.features import TASKS, Task, stored
from dtufc_research.training.networks import load_trainable
from dtufc_research.training.plane_transforms import fit_plane_transform

Side = Literal["ours", "CompressAI"]
STAGES: Final = (
    "encode: plane transform",
    "encode: g_a",
    "encode: h_a",
    "encode: probability networks",
    "encode: entropy coding",
    "decode: entropy coding",
    "decode: probability networks",
    "decode: g_s",
    "decode: plane transform",
)
_SUMS: Final = {"entropy coding": "entropy coding", "probability networks": "probability networks", "total": ""}
_NUM_ROWS: Final[dict[Task, int]] = {"vit": 1370, "llm": 256}
_WARM_UP_S: Final = 0.5
_QUALITY: Final = 0.5
_NUM_FITTED: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTime:
    """Median time of one stage.

    Attributes:
        network: hyperprior, elic or kltprior.
        task: of the plane.
        threads: of torch and BLAS.
        side: of the coder.
        stage: one of STAGES.
        milliseconds: for the plane.
    """

    network: str
    task: Task
    threads: int
    side: Side
    stage: str
    milliseconds: float


@dataclass(frozen=True, slots=True)
class _Sample:
    """One plane's features, and their plane transform."""

    features: Array
    plane_transform: PlaneTransform

    def plane(self) -> tuple[torch.Tensor, bytes]:
        """[1, 1, H, W] at network scale, as in `LearnedCodec.encoder`; and the payload's head."""
        plane, head = self.plane_transform.to_plane(self.features)
        return padded(plane, self.plane_transform.padding), head

    def restore(self, plane: torch.Tensor, data: bytes) -> Array:
        """[1, 1, H, W] of levels / 255 and the payload's head -> features."""
        head, _ = self.plane_transform.read_head(data, 0, self.features.shape)
        height, width = head.plane_shape
        return head.features((plane[0, 0, :height, :width] * HIGHEST).numpy())


class _Clock:
    """Seconds by stage; the time of a nested stage counts for the inner one only."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._running: list[str] = []
        self._since = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self._enter(name)
        try:
            yield
        finally:
            self._leave()

    def watch(self, module: nn.Module, name: str) -> None:
        """Times a module's calls as `name` of the stage around them: "encode: g_a" within "encode: ..."."""

        def enter(*_: object) -> None:
            self._enter(f"{self._running[-1].partition(':')[0]}: {name}")

        def leave(*_: object) -> None:
            self._leave()

        module.register_forward_pre_hook(enter)
        module.register_forward_hook(leave)

    def _enter(self, name: str) -> None:
        self._charge()
        self._running.append(name)

    def _leave(self) -> None:
        self._charge()
        self._running.pop()

    def _charge(self) -> None:
        now = self._now()
        if self._running:
            self.seconds[self._running[-1]] += now - self._since
        self._since = now


class _TimedCoding:
    """A Writer or a Reader that is timed."""

    def __init__(self, coding: Coding, clock: _Clock, stage: str) -> None:
        self._coding, self._clock, self._stage = coding, clock, stage

    def side(self, z: Array | None, shape: tuple[int, int, int]) -> Array:
        with self._clock.stage(self._stage):
            return self._coding.side(z, shape)

    def latents(self, classes: Array, y: Array | None) -> Array:
        with self._clock.stage(self._stage):
            return self._coding.latents(classes, y)


@torch.inference_mode()
def run_ours(clock: _Clock, trained: TrainedNetwork, sample: _Sample) -> None:
    """Codes and decodes one plane, in the steps of `LearnedCodec`."""
    network, rate = trained.network, torch.tensor([_QUALITY * (trained.num_rates - 1)])
    with clock.stage("encode: plane transform"):
        plane, head = sample.plane()
    with clock.stage("encode: g_a"):
        y = in_strips(network.g_a, plane) * network.gains.gain(rate)
    with clock.stage("encode: h_a"):
        z = network.hyper_analysis(y)
    encoder, shape = Encoder(), (y.shape[2], y.shape[3])
    with clock.stage("encode: probability networks"):
        y_rows, z_rows = (value[0].permute(1, 2, 0).numpy() for value in (y, z))
        writer = _TimedCoding(Writer(encoder, trained.tables), clock, "encode: entropy coding")
        trained.latents.transcode(writer, shape, y_rows, z_rows)
    with clock.stage("encode: entropy coding"):
        data = encoder.finish()
    with clock.stage("decode: entropy coding"):
        decoder = Decoder(data)
    with clock.stage("decode: probability networks"):
        reader = _TimedCoding(Reader(decoder, trained.tables), clock, "decode: entropy coding")
        y_hat = trained.latents.transcode(reader, shape, None, None)
    with clock.stage("decode: entropy coding"):
        decoder.finish(encoder.crc)
    with clock.stage("decode: g_s"):
        latent = torch.from_numpy(y_hat).permute(2, 0, 1)[None]
        decoded = in_strips(network.g_s, latent * network.gains.inverse(rate))
    with clock.stage("decode: plane transform"):
        sample.restore(from_network_scale(decoded), head)


@torch.inference_mode()
def run_reference(clock: _Clock, network: Any, sample: _Sample) -> None:
    """The same plane through `compress` and `decompress`; `watch_reference` times the networks."""
    with clock.stage("encode: plane transform"):
        scaled, head = sample.plane()
        plane = from_network_scale(scaled)
    with clock.stage("encode: entropy coding"):
        coded = network.compress(plane)
    with clock.stage("decode: entropy coding"):
        decoded = network.decompress(coded["strings"], coded["shape"])["x_hat"]
    with clock.stage("decode: plane transform"):
        sample.restore(decoded, head)


def watch_reference(clock: _Clock, network: Any) -> None:
    """Times the networks of a reference model."""
    clock.watch(network.g_a, "g_a")
    clock.watch(network.g_s, "g_s")
    predicting = []
    if hasattr(network, "latent_codec"):
        hyper, y = network.latent_codec["hyper"], network.latent_codec["y"]
        groups = y.latent_codec.values()
        predicting += [hyper.h_s, *y.channel_context.values()]
        predicting += [module for group in groups for module in (group.context_prediction, group.entropy_parameters)]
    else:
        hyper = network
        predicting += [network.h_s]
    clock.watch(hyper.h_a, "h_a")
    for module in predicting:
        clock.watch(module, "probability networks")


def stage_times(
    networks: Sequence[str] = tuple(VARIANTS), threads: Sequence[int] = (1, 2), repeats: int = 5
) -> list[StageTime]:
    """Times both sides on one plane of each task."""
    found: list[StageTime] = []
    for task, num_rows in _NUM_ROWS.items():
        samples = [features.astype(np.float32) for features in stored(task, "validate")[:_NUM_FITTED]]
        profile = load_profile(TASKS[task].profile, TASKS[task].split)
        for name in networks:
            plane_transform = fit_plane_transform("klt" if VARIANTS[name].uses_klt else "trimmed", profile, samples)
            sample = _Sample(samples[0][:num_rows], plane_transform)
            for side, run in _sides(name, sample).items():
                for count in threads:
                    medians = _medians(run, count, repeats)
                    found += [
                        StageTime(
                            network=name,
                            task=task,
                            threads=count,
                            side=side,
                            stage=stage,
                            milliseconds=1000 * medians[stage],
                        )
                        for stage in STAGES
                    ]
    return found


def learned_speed_report(repeats: int = 5) -> str:
    """A table of all stages, ours beside CompressAI's."""
    times = stage_times(repeats=repeats)
    settings = list(dict.fromkeys((time.network, time.task, time.threads) for time in times))
    stages = {stage: stage for stage in STAGES} | _SUMS
    lines = [
        "## Learned codecs, stage by stage: ours / CompressAI's with the same weights, ms a plane",
        "",
        "| | " + " | ".join(f"{name}, {task}, {count} thr." for name, task, count in settings) + " |",
        "|---|" + "---:|" * len(settings),
    ]
    for label, ending in stages.items():
        cells = []
        for setting in settings:
            ours, theirs = (_sum(times, setting, side, ending) for side in ("ours", "CompressAI"))
            cells.append(f"{ours:.1f} / {theirs:.1f}")
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _sides(name: str, sample: _Sample) -> dict[Side, Callable[[_Clock], None]]:
    trained = load_network(shipped_network(name))

    def ours(clock: _Clock) -> None:
        run_ours(clock, trained, sample)

    def theirs(clock: _Clock) -> None:
        network = reference_model(load_trainable(shipped_network(name)), _QUALITY * (trained.num_rates - 1))
        watch_reference(clock, network)
        run_reference(clock, network, sample)

    return {"ours": ours, "CompressAI": theirs}


def _medians(run: Callable[[_Clock], None], threads: int, repeats: int) -> dict[str, float]:
    """Median seconds of each stage, after warm-up runs.

    Threads of earlier work spin for some tenths of a second before they sleep, and process time includes them.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with threadpool_limits(limits=threads), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            now = time.process_time if threads == 1 else time.perf_counter
            end = time.perf_counter() + _WARM_UP_S
            while time.perf_counter() < end:
                run(_Clock(now))
            clocks = [_Clock(now) for _ in range(repeats)]
            for clock in clocks:
                run(clock)
    finally:
        torch.set_num_threads(before)
    return {stage: median(clock.seconds[stage] for clock in clocks) for stage in STAGES}


def _sum(times: Sequence[StageTime], setting: tuple[str, Task, int], side: str, ending: str) -> float:
    return sum(
        entry.milliseconds
        for entry in times
        if (entry.network, entry.task, entry.threads) == setting and entry.side == side and entry.stage.endswith(ending)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    print(f"# Times of the learned codecs\n\n{learned_speed_report(parser.parse_args().repeats)}", end="")


if __name__ == "__main__":
    main()
