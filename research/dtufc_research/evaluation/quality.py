"""`python -m dtufc_research.evaluation.quality`: what a quality means, to docs/results/quality.md.

For each shipped profile and each quality, the loss of every codec that reaches it, as the profile's `klt` weighs it;
its bits; and the head's agreement with the features as they were. The profiles measured their learned codecs' losses on
one feature when they were fitted; these are features of other files.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from rich.progress import track
from threadpoolctl import threadpool_limits

import dtufc
from dtufc.coding.codecs.klt_transform import KltTransform
from dtufc.coding.quality import DEFAULT_QUALITY, relative_loss
from dtufc_research.evaluation.samples import Sample
from dtufc_research.paper.measure import PROFILES, samples

PAGE: Final = Path(__file__).parents[3] / "docs" / "results" / "quality.md"
QUALITIES: Final = (0.2, 0.4, 0.6, 0.8)
_CODECS: Final = ("klt", "kltprior", "hyperprior", "elic")
_NUM_SAMPLES: Final = {"cnn": 70}  # each has one label only; of the others:
_USUAL_SAMPLES: Final = 12


def rows_of(task: str) -> list[str]:
    """Markdown, one row a quality: of each codec loss, BPFP and agreement."""
    name, split = PROFILES[task]
    codec = dtufc.load(name, split=split)
    every = samples(task)
    chosen = every[:: max(1, len(every) // _NUM_SAMPLES.get(task, _USUAL_SAMPLES))]
    transform = KltTransform.from_arrays(codec.profile.of_codec("klt"), codec.profile.layout)
    lines = []
    for quality in track(QUALITIES, description=task):
        cells = []
        for each in _CODECS:
            low, high = codec.quality_ranges[each]
            cells += _measured(codec, transform, chosen, each, quality) if low <= quality <= high else [""] * 3
        lines.append(f"| {name}, split {split} | {quality} | {' | '.join(cells)} |")
    return lines


def _measured(
    codec: dtufc.FeatureCodec, transform: KltTransform, chosen: Sequence[Sample], name: str, quality: float
) -> list[str]:
    losses, bits, agreements = [], [], []
    for sample in chosen:
        frame = codec.encode(sample.features, codec=name, quality=quality)
        decoded = codec.decode(frame)
        losses.append(relative_loss(transform, sample.features, decoded))
        bits.append(8 * len(frame) / sample.features.size)
        agreements.append(sample.agreement(decoded))
    loss, rate, agreement = (float(np.mean(part)) for part in (losses, bits, agreements))
    return [f"{loss:.3g}", f"{rate:.3f}", f"{agreement:.3f}"]


def main() -> int:
    columns = [f"{name}: loss | BPFP | agreement" for name in _CODECS]
    with threadpool_limits(limits=1):
        rows = [row for task in PROFILES for row in rows_of(task)]
    lines = [
        "# What a quality means",
        "",
        f"In every codec of a profile the same quality loses as much; the default is {DEFAULT_QUALITY}. Loss: the",
        "squared error as the profile's `klt` weighs it, relative to the features' energy. Agreement: next tokens; IoU",
        "of the mask; similarity of the images (SSIM); labels. A cell is empty where a codec does not reach a quality.",
        "Agreement at equal loss may differ: `klt` spends its error where the fit's gradients allow it, and a network",
        "elsewhere. Means over features of files that were not fitted to.",
        "`python -m dtufc_research.evaluation.quality` writes this page.",
        "",
        f"| profile | quality | {' | '.join(columns)} |",
        "|---|" + "---:|" * (1 + 3 * len(columns)),
        *rows,
    ]
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
