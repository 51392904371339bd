"""`python -m dtufc_research.evaluation.language`: a large language model, cut in several places, fitted on ten texts.

For each cut and codec: bits per feature value (whole frames) against the share of next tokens that equal the
uncompressed model's, on excerpts of other files; and, of four-choice questions that the uncompressed model answers
rightly, the share that stays right. Written to docs/results/language.json as it goes, so that it goes on where it
stopped, and to docs/results/language.md.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from rich.progress import track

from dtufc.coding.arrays import Array
from dtufc.coding.codecs.klt import KltCodec
from dtufc.coding.codecs.learned import can_run
from dtufc.coding.feature_codec import FeatureCodec, fit_calibration
from dtufc.models.profile import Profile, load_profile
from dtufc_edge.tasks.answer import choice_prompt
from dtufc_research.data.extract import Decoder
from dtufc_research.data.sources import Question, exam_questions
from dtufc_research.evaluation.baselines import Method, baselines

RESULTS: Final = Path(__file__).parents[3] / "docs" / "results"
NUM_FIT, NUM_TEST = 10, 12
QUALITIES: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
OTHER_QUALITIES: Final = (0.2, 0.4, 0.6)
AGREEMENTS: Final = (0.80, 0.90, 0.95)
_LETTERS: Final = "ABCD"


@dataclass(frozen=True, slots=True)
class Point:
    """One codec at one rate."""

    method: str
    bpfp: float
    agreement: float
    question_bpfp: float
    kept: float


@dataclass(frozen=True, slots=True)
class Text:
    """An excerpt: its features, and the uncompressed model's next token after each of its tokens."""

    features: Array
    tops: Array


@dataclass(frozen=True, slots=True)
class Asked:
    """A question that the uncompressed model answers rightly: its features, and the letters' tokens."""

    features: Array
    letter_ids: list[int]
    right: int


def codecs_of(profile: Profile, samples: Sequence[Array], gradients: Sequence[Array]) -> dict[str, FeatureCodec]:
    """`klt` fitted in three ways, and the other codecs, which need no gradients."""
    layout = profile.layout
    whole, _ = fit_calibration(samples, layout, gradients)

    def with_klt(codec: KltCodec) -> FeatureCodec:
        arrays = {f"klt.{key}": value for key, value in codec.arrays().items()}
        return FeatureCodec(replace(profile, calibration={**whole, **arrays}))

    return {
        "klt": FeatureCodec(replace(profile, calibration=whole)),
        "klt without gradients": with_klt(KltCodec.fit(samples, layout)),
        "channels alone, without gradients": with_klt(KltCodec.fit(samples, layout, max_rank=0)),
    }


def methods(codecs: dict[str, FeatureCodec]) -> Iterator[tuple[Method, bool]]:
    """(a method, whether its frames take a focus on the last row)"""
    ours = codecs["klt"]
    for label, codec in codecs.items():
        for quality in QUALITIES if codec is ours else OTHER_QUALITIES:
            yield _method(f"{label}, quality {quality}", codec, "klt", quality), True
    yield next(method for method in baselines() if method.name == "blockwise 8 bit, zstd"), False
    yield _method("levels", ours, "levels", None), False
    for name in ("kltprior", "hyperprior", "elic") if can_run() else ():
        for quality in OTHER_QUALITIES:
            yield _method(f"{name}, quality {quality}", ours, name, quality), False


def _method(label: str, codec: FeatureCodec, name: str, quality: float | None) -> Method:
    def encode(features: Array, focus: Sequence[int] = ()) -> bytes:
        return codec.encode(features, codec=name, quality=quality, focus=focus)

    return Method(label, encode, lambda data, shape: codec.decode(data))


def measure(model: Decoder, method: Method, has_focus: bool, texts: Sequence[Text], asked: Sequence[Asked]) -> Point:
    """Codes all inputs and runs the rest of the model on what was decoded."""
    bits, same = [], []
    for text in texts:
        data = method.encode(text.features)
        bits.append(8 * len(data) / text.features.size)
        same.append(np.mean(_tops(model, method.decode(data, text.features.shape)) == text.tops))
    spent, kept = [], []
    for question in asked:
        last = {"focus": [-1]} if has_focus else {}
        data = method.encode(question.features, **last)
        decoded = method.decode(data, question.features.shape)
        spent.append(8 * len(data) / question.features.size)
        kept.append(_letter(model, decoded, question.letter_ids) == question.right)
    means = (float(np.mean(part)) if part else float("nan") for part in (bits, same, spent, kept))
    return Point(method.name, *means)


def _tops(model: Decoder, features: Array) -> Array:
    return model.head.logits(torch.from_numpy(np.array(features))).argmax(dim=-1).numpy()


def _letter(model: Decoder, features: Array, letter_ids: Sequence[int]) -> int:
    return int(np.argmax(model.head.answer(torch.from_numpy(np.array(features)), letter_ids)))


def read(model: Decoder, token_ids: list[int]) -> Text:
    """An excerpt through the uncompressed model."""
    features = model.features(token_ids).float().numpy()
    return Text(features, _tops(model, features))


def ask(model: Decoder, questions: Sequence[Question]) -> list[Asked]:
    """Those that the uncompressed model answers rightly."""
    letter_ids = [model.backbone.token_id(letter) for letter in _LETTERS]
    right = []
    for question in track(questions, description="questions"):
        features = model.features(model.backbone.chat_ids(choice_prompt(question.text, question.choices)))
        if int(np.argmax(model.head.answer(features, letter_ids))) == question.right:
            right.append(Asked(features.float().numpy(), letter_ids, question.right))
    return right


def evaluate(
    name: str, split: int, questions: Sequence[Question], points: dict[str, Any], save: Callable[[], None]
) -> None:
    """Adds to `points` what is not there yet, and saves after each."""
    profile = load_profile(name, split)
    model = Decoder.load(profile, torch.bfloat16)
    generator = torch.Generator().manual_seed(0)
    samples = [model.features(ids).float() for ids in model.rows("fit", NUM_FIT)]
    gradients = [
        model.head.gradient(x, generator).numpy() for x in track(samples, description=f"gradients, split {split}")
    ]
    codecs = codecs_of(profile, [x.numpy() for x in samples], gradients)
    texts = [read(model, ids) for ids in model.rows("test", NUM_TEST)]
    asked = ask(model, questions)
    measured = [codecs["klt"].profile.digest.hex(), len(questions), len(asked)]
    if points.setdefault("measured", {}).get(str(split)) != measured:  # of another fit, or other questions
        points["measured"][str(split)] = measured
        points.setdefault("rows", {})[str(split)] = {}
    rows = points["rows"][str(split)]
    for method, has_focus in methods(codecs):
        if method.name not in rows:
            point = measure(model, method, has_focus, texts, asked)
            rows[method.name] = [point.bpfp, point.agreement, point.question_bpfp, point.kept]
            print(f"split {split}: {point}", flush=True)
            save()


def _write(path: Path, profile: str, points: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(points, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(page(profile, points), encoding="utf-8")


def page(profile: str, points: Mapping[str, Any]) -> str:
    """docs/results/language.md."""
    lines = [
        f"# A large language model: {profile}",
        "",
        f"Fitted on {NUM_FIT} excerpts of 256 tokens, measured on {NUM_TEST} excerpts of other files and four-choice",
        "questions written for this repository, of which those count that the uncompressed model answers rightly. The",
        "model runs in bfloat16. Agreement: the share of next tokens, after every token, that are the uncompressed",
        "model's. BPFP is of whole frames. Kept: the share of the right answers that stay right; frames of `klt` focus",
        "on the last row, as the service sends them, and only that row is read at the last layer.",
        "`python -m dtufc_research.evaluation.language` measures this and writes this page.",
    ]
    for split, rows in points["rows"].items():
        _, asked, right = points["measured"][split]
        lines += ["", f"## Cut after layer {split}", "", f"{right} of {asked} questions are answered rightly.", ""]
        labels = dict.fromkeys(name.partition(", quality")[0] for name in rows)
        lines += ["| BPFP at an agreement of | " + " | ".join(f"{a:.2f}" for a in AGREEMENTS) + " |"]
        lines += ["|---|" + "---:|" * len(AGREEMENTS)]
        for label in labels:
            curve = [row for name, row in rows.items() if name.partition(", quality")[0] == label]
            cells = " | ".join(_bits_at(curve, agreement) for agreement in AGREEMENTS)
            lines.append(f"| {label} | {cells} |")
        lines += ["", "| codec | BPFP of texts | agreement | BPFP of questions | kept |", "|---|" + "---:|" * 4]
        for name, (bits, agreement, spent, kept) in rows.items():
            lines.append(f"| {name} | {bits:.3f} | {agreement:.3f} | {spent:.3f} | {kept:.3f} |")
    return "\n".join(lines) + "\n"


def _bits_at(curve: Sequence[Sequence[float]], agreement: float) -> str:
    """Bits at an agreement, linear between two measured points; a bound where it lies outside them."""
    ordered = sorted((row[0], row[1]) for row in curve)
    if ordered[0][1] >= agreement:
        return f"< {ordered[0][0]:.2f}"
    for (low_bits, low), (high_bits, high) in pairwise(ordered):
        if low <= agreement <= high:
            return f"{low_bits + (high_bits - low_bits) * (agreement - low) / max(high - low, 1e-9):.2f}"
    return f"> {ordered[-1][0]:.2f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profile", nargs="?", default="qwen2.5-coder-1.5b")
    parser.add_argument("--splits", type=int, nargs="+", default=[14, 28, 7, 21])
    parser.add_argument("--questions", type=int, default=340, help="how many, of the four topics in turn")
    parser.add_argument("--output", type=Path, default=RESULTS / "language.json")
    arguments = parser.parse_args()
    path: Path = arguments.output
    points = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for split in arguments.splits:
        evaluate(
            arguments.profile,
            split,
            exam_questions()[: arguments.questions],
            points,
            lambda: _write(path, arguments.profile, points),
        )
    _write(path, arguments.profile, points)
    return 0


if __name__ == "__main__":
    sys.exit(main())
