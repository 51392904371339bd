"""`python -m dtufc_research.paper.answers`: rate against chosen answers, to docs/results/answers.md.

The paper's measure on text is the letter that a model chooses. Questions: the capitals of the 64 most populous
countries, four choices each.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Final

import numpy as np
import torch
from rich.progress import track

import dtufc
from dtufc.coding.arrays import Array
from dtufc.models.profile import load_profile
from dtufc_edge.tasks.answer import choice_prompt
from dtufc_research.data.extract import Decoder
from dtufc_research.data.sources import NUM_CHOICES, Question, questions
from dtufc_research.paper.__main__ import RESULTS
from dtufc_research.paper.measure import every_setting

PROFILE: Final = "smollm2-135m"
_LETTERS: Final = ascii_uppercase[:NUM_CHOICES]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One codec at one quality, over all questions.

    Attributes:
        same: share of the questions with the uncompressed model's letter.
        distance: mean total variation between the letters' probabilities and the uncompressed model's.
        right: number of right answers.
    """

    codec: str
    quality: float | None
    bpfp: float
    same: float
    distance: float
    right: int


def main() -> int:
    argparse.ArgumentParser(description=__doc__).parse_args()
    torch.set_num_threads(1)
    model, codec, asked = Decoder.load(load_profile(PROFILE)), dtufc.load(PROFILE), questions()
    prompts = [choice_prompt(question.text, question.choices) for question in asked]
    features = [model.features(model.backbone.chat_ids(prompt)).numpy() for prompt in prompts]
    originals = probabilities(model, features)
    rows = []
    for name, quality in track(every_setting(codec), description="coding"):
        frames = [codec.encode(feature, codec=name, quality=quality) for feature in features]
        bpfp = 8 * sum(map(len, frames)) / sum(feature.size for feature in features)
        decoded = probabilities(model, [codec.decode(frame) for frame in frames])
        rows.append(row_of(name, quality, bpfp, asked, originals, decoded))
    (RESULTS / "answers.md").write_text(page(rows, asked, originals), encoding="utf-8")
    return 0


def probabilities(model: Decoder, features: Sequence[Array]) -> Array:
    """float64[questions, 4]: of each letter, among the four letters only."""
    ids = [model.backbone.token_id(letter) for letter in _LETTERS]
    return np.array([model.head.answer(torch.from_numpy(feature), ids) for feature in features])


def row_of(
    codec: str, quality: float | None, bpfp: float, asked: Sequence[Question], originals: Array, decoded: Array
) -> Row:
    """Compares the letters' probabilities [questions, 4] from decoded features with those from the originals."""
    chosen = decoded.argmax(axis=1)
    return Row(
        codec=codec,
        quality=quality,
        bpfp=bpfp,
        same=float(np.mean(chosen == originals.argmax(axis=1))),
        distance=float(np.abs(decoded - originals).sum(axis=1).mean() / 2),
        right=int(sum(choice == question.right for choice, question in zip(chosen, asked, strict=True))),
    )


def page(rows: Sequence[Row], asked: Sequence[Question], originals: Array) -> str:
    """The page of docs/results."""
    chosen = originals.argmax(axis=1)
    letter, count = Counter(_LETTERS[choice] for choice in chosen).most_common(1)[0]
    right = sum(choice == question.right for choice, question in zip(chosen, asked, strict=True))
    lines = [
        "# Rate against chosen answers",
        "",
        f"`python -m dtufc_research.paper.answers`. {len(asked)} questions for the capital of a country, {NUM_CHOICES} "
        f"choices each, to `{PROFILE}`. Uncompressed it is right in {right} of them, and says {letter} in {count}: it "
        "is too small for such questions, so the same letter alone says little "
        f"({letter} always would be the same in {count / len(asked):.2f}), and the distance between the letters' "
        "probabilities (total variation, mean over the questions) says more. BPFP is of whole frames.",
        "",
        "| codec | quality | BPFP | same letter | distance of probabilities | right |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        quality = "" if row.quality is None else f"{row.quality:g}"
        lines.append(
            f"| {row.codec} | {quality} | {row.bpfp:.3f} | {row.same:.3f} | {row.distance:.3f} | {row.right} |"
        )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.exit(main())
