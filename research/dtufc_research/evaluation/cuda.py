"""`python -m dtufc_research.evaluation.cuda [PROFILES...]`: both sides on a GPU, held against the CPU in float32.

Prints, for each profile: the time of each stage on CPU and GPU, how far the GPU's features and results are from the
CPU's, and whether frames that were made on the CPU decode there to the same symbols. The codecs run on the CPU in any
case. With `--device cpu` the CPU is held against itself, which tests this script.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from dtufc.coding.arrays import Array
from dtufc.coding.rate import Rate
from dtufc.errors import Desync, DtufcError
from dtufc.models.device import pick_device
from dtufc.models.profile import Profile, load_profile, shipped_profiles
from dtufc.serving.telemetry import Record
from dtufc_cloud.pipeline import CloudPipeline
from dtufc_edge.pipeline import EdgePipeline
from dtufc_research.data.extract import CPU, Cnn, Decoder, Model, Sd3, Vit
from dtufc_research.data.sources import photo_views, photos, prompts, square
from dtufc_research.evaluation.agreement import mean_iou
from dtufc_research.evaluation.machine import machine
from dtufc_research.evaluation.samples import ssim

STAGES: Final = ("edge.backbone", "edge.encode", "cloud.decode", "cloud.head")
NUM_INPUTS: Final = 4
_NOTE: Final = """\
Times are medians over {count} inputs, in ms. "Features differ" is the relative error of the backbone's features, and
"agree" compares what the heads make of the same frames, both with the CPU in float32: top-1 of every next token or of
the label, mean IoU of the mask, structural similarity of the generated image.
"""


@dataclass(frozen=True, slots=True)
class Pair:
    """Both sides of a profile on one device, and the model that they make."""

    edge: EdgePipeline
    cloud: CloudPipeline
    model: Model

    @classmethod
    def load(cls, profile: Profile, device: torch.device, dtype: torch.dtype) -> "Pair":
        edge, cloud = EdgePipeline(profile, device, dtype), CloudPipeline(profile, device, dtype)
        halves = edge.backbone, cloud.head
        models = {"decoder": Decoder, "vit": Vit, "cnn": Cnn}
        family = profile.spec.family
        model = Sd3(*halves, profile.spec.generation) if family == "sd3" else models[family](*halves)
        return cls(edge, cloud, model)

    def encode(self, features: Tensor, record: Record, codec: str = "") -> bytes:
        return self.edge.encode(features, codec or self.edge.codec.default_codec, Rate(), record)

    def decode(self, frame: bytes, record: Record) -> Tensor:
        return self.cloud.decode(self.cloud.parse(frame, record), len(frame), record)


@dataclass(frozen=True, slots=True)
class Run:
    """What one pair made of the inputs; seconds are medians by stage."""

    features: list[Tensor]
    frames: list[bytes]
    results: list[Array]
    seconds: list[float]


def run(pair: Pair, inputs: Sequence[Any], frames: Sequence[bytes] = ()) -> Run:
    """Every stage of every input, after one that only warms up.

    Args:
        pair: both sides.
        inputs: as the model takes them.
        frames: what the cloud decodes; by default those that the edge makes.
    """
    records = [Record("cuda") for _ in range(len(inputs) + 1)]
    made = Run([], [], [], [])
    for record, number in zip(records, (0, *range(len(inputs))), strict=True):
        with record.stages.measure("edge.backbone"):
            features = pair.model.features(inputs[number])
        frame = pair.encode(features, record)
        decoded = pair.decode(frames[number] if frames else frame, record)
        with record.stages.measure("cloud.head"):
            result = _result(pair.model, decoded)
        if record is not records[0]:
            made.features.append(features.float())
            made.frames.append(frame)
            made.results.append(result)
    made.seconds.extend(median(record.stages.seconds[stage] for record in records[1:]) for stage in STAGES)
    return made


def compare(name: str, device: torch.device, num_inputs: int) -> tuple[list[str], str]:
    """The rows of a profile, and what came of its frames."""
    profile = load_profile(name)
    here = Pair.load(profile, CPU, torch.float32)
    inputs = _inputs(here.model, num_inputs)
    reference = run(here, inputs)
    rows = [_row(name, CPU, torch.float32, here.model, reference, reference)]
    for where, dtype in ((CPU, torch.bfloat16), (device, torch.float32), (device, torch.bfloat16)):
        there = Pair.load(profile, where, dtype)
        rows.append(_row(name, where, dtype, here.model, run(there, inputs, reference.frames), reference))
        if where == device and dtype == torch.float32:
            frames = ", ".join(_symbols(here, there, codec, reference.features[0]) for codec in here.edge.codec.codecs)
    return rows, f"- {name}: {frames}"


def _row(name: str, device: torch.device, dtype: torch.dtype, model: Model, made: Run, reference: Run) -> str:
    times = " | ".join(f"{1000 * seconds:.2f}" for seconds in made.seconds)
    both = zip(made.features, reference.features, strict=True)
    error = np.mean([float((a - b).norm() / b.norm()) for a, b in both])
    agree = np.mean([_agreement(model, a, b) for a, b in zip(made.results, reference.results, strict=True)])
    return f"| {name} | {device} | {str(dtype).removeprefix('torch.')} | {times} | {error:.2g} | {agree:.4f} |"


def _symbols(here: Pair, there: Pair, codec: str, features: Tensor) -> str:
    """What a frame of the one decodes to on the other; the decoder compares the CRC of the symbols itself."""
    frame, record = here.encode(features, Record("cuda"), codec), Record("cuda")
    try:
        same = torch.equal(here.decode(frame, record), there.decode(frame, record))
    except Desync:
        return f"{codec} OTHER SYMBOLS"
    return f"{codec} {'same bytes' if same else 'same symbols, other bytes'}"


def _inputs(model: Model, count: int) -> list[Any]:
    """Test inputs, which nothing was fitted on."""
    match model:
        case Decoder():
            return list(model.rows("test", count))
        case Vit():
            return [square(photo) for _, photo in photos("test")[:count]]
        case Cnn():
            return list(photo_views("test")[:count])
        case Sd3():
            return list(prompts("test")[:count])


def _result(model: Model, features: Tensor) -> Array:
    """Next tokens, mask, label, or image."""
    match model:
        case Decoder():
            return model.head.logits(features).argmax(dim=-1).numpy()
        case Vit():
            return model.head.logits(features)[0].numpy() > 0
        case Cnn():
            return model.head.logits(features).argmax(dim=-1).numpy()
        case Sd3():
            return model.head.image(features)


def _agreement(model: Model, a: Array, b: Array) -> float:
    match model:
        case Vit():
            return mean_iou(a, b)
        case Sd3():
            return ssim(a, b)
        case _:
            return float(np.mean(a == b))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profiles", nargs="*", help="all that are shipped, by default")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu to test this script")
    parser.add_argument("--inputs", type=int, default=NUM_INPUTS, help="of each profile")
    given = parser.parse_args(arguments)
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        print("No CUDA device was found: nothing was measured.")
        return 0
    try:
        device = pick_device(given.device)
        compared = [compare(name, device, given.inputs) for name in given.profiles or shipped_profiles()]
    except DtufcError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    gpu = f" and {torch.cuda.get_device_name(device)}" if device.type == "cuda" else ""
    print(f"# CPU and GPU\n\nMeasured on {machine()}{gpu}, {torch.get_num_threads()} thread(s) on the CPU.")
    print(_NOTE.format(count=given.inputs))
    print("| profile | device | type | backbone | encode | decode | head | features differ | agree |")
    print("|---|---|---|---:|---:|---:|---:|---:|---:|")
    print("\n".join(row for rows, _ in compared for row in rows))
    print(f"\nFrames of {CPU}, decoded by the pair on {device}:\n")
    print("\n".join(frames for _, frames in compared))
    return 0


if __name__ == "__main__":
    sys.exit(main())
