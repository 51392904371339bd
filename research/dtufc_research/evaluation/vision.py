"""`python -m dtufc_research.evaluation.vision`: a vision transformer cut in several places, to docs/results/vision.md.

`dinov2-small`, fitted on five photographs, each whole and as a square, measured on six others: bits a feature value
(whole frames) against the IoU of the saliency mask with the uncompressed model's.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from rich.progress import track

from dtufc.models.profile import load_profile
from dtufc_research.data.extract import Vit, fitting_set
from dtufc_research.data.sources import photos, square
from dtufc_research.evaluation.methods import Method, baselines, bits_at, codec_method, codecs_of, reached
from dtufc_research.evaluation.samples import Sample, vit_samples

PAGE: Final = Path(__file__).parents[3] / "docs" / "results" / "vision.md"
NAME: Final = "dinov2-small"
NUM_FIT, NUM_TEST = 10, 12
QUALITIES: Final = (0.2, 0.35, 0.5, 0.65, 0.8)
OTHER_QUALITIES: Final = (0.2, 0.4, 0.6)
IOUS: Final = (0.95, 0.97, 0.98)


def methods(split: int) -> Iterator[tuple[str, Method]]:
    """(label, one rate) of every codec, fitted at this split."""
    profile = load_profile(NAME, split)
    codecs = codecs_of(profile, *fitting_set(profile, NUM_FIT))
    ours = codecs["klt"]
    for label, codec in codecs.items():
        for quality in QUALITIES:
            yield label, codec_method(label, codec, "klt", quality)
    yield "levels", codec_method("levels", ours, "levels", None)
    int8 = next(method for method in baselines() if method.name == "blockwise 8 bit, zstd")
    yield int8.name, int8
    for name in ("kltprior", "hyperprior", "elic"):
        for reach in reached(ours, name, OTHER_QUALITIES):
            yield name, codec_method(name, ours, name, reach)


def curves(split: int) -> dict[str, list[tuple[float, float]]]:
    """(BPFP, IoU) of each codec at its rates."""
    model = Vit.load(load_profile(NAME, split))
    images = [image for _, photo in photos("test") for image in (square(photo), photo)][:NUM_TEST]
    samples = vit_samples(model, images)
    found: dict[str, list[tuple[float, float]]] = {}
    for label, method in track(list(methods(split)), description=f"split {split}"):
        found.setdefault(label, []).append(_point(method, samples))
    return found


def _point(method: Method, samples: Sequence[Sample]) -> tuple[float, float]:
    bits, ious = [], []
    for sample in samples:
        data = method.encode(sample.features)
        bits.append(8 * len(data) / sample.features.size)
        ious.append(sample.agreement(method.decode(data, sample.features.shape)))
    return float(np.mean(bits)), float(np.mean(ious))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--splits", type=int, nargs="+", default=[6, 12])
    arguments = parser.parse_args()
    lines = [
        f"# A vision transformer: {NAME}",
        "",
        f"Fitted on {NUM_FIT // 2} photographs, each whole and as a square, of 518 x 518 pixels, and measured on",
        f"{NUM_TEST // 2} others. BPFP of whole frames at an IoU of the saliency mask with the uncompressed model's,",
        "linear between measured rates.",
        "`python -m dtufc_research.evaluation.vision` writes this page.",
    ]
    for split in arguments.splits:
        lines += ["", f"## Cut after layer {split} of 12", ""]
        lines += ["| BPFP at an IoU of | " + " | ".join(f"{iou}" for iou in IOUS) + " | measured (BPFP: IoU) |"]
        lines += ["|---|" + "---:|" * len(IOUS) + "---|"]
        for label, curve in curves(split).items():
            cells = " | ".join(bits_at(curve, iou, digits=4) for iou in IOUS)
            measured = ", ".join(f"{bits:.4f}: {iou:.3f}" for bits, iou in curve)
            lines.append(f"| {label} | {cells} | {measured} |")
        PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
