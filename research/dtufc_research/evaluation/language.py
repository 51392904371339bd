"""`python -m dtufc_research.evaluation.language`: a large language model, cut in several places, fitted on ten texts.

For each cut and codec: bits per feature value (whole frames) against the share of next tokens that equal the
uncompressed model's, on excerpts of other files; and, of four-choice questions that the uncompressed model answers
rightly, the share that stays right: asked alone, and behind examples. Written to docs/results/language.json as it goes,
so that it goes on where it stopped, and to docs/results/language.md.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from rich.progress import track

from dtufc.coding.arrays import Array
from dtufc.coding.feature_codec import FeatureCodec
from dtufc.models.inputs import choice_prompt
from dtufc.models.profile import load_profile
from dtufc_research.data.extract import Decoder
from dtufc_research.data.sources import Question, questions
from dtufc_research.evaluation.methods import Method, baselines, bits_at, codec_method, codecs_of, reached

RESULTS: Final = Path(__file__).parents[3] / "docs" / "results"
NUM_FIT, NUM_TEST = 10, 12
QUALITIES: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
OTHER_QUALITIES: Final = (0.2, 0.4, 0.6)
AGREEMENTS: Final = (0.80, 0.90, 0.95)
_LETTERS: Final = "ABCD"
_ALL, _FIRST = "all", "first 100"


@dataclass(frozen=True, slots=True)
class Exam:
    """Questions asked in one way.

    Attributes:
        count: of the questions, from the first on.
        examples: how many others, with their answers, stand before each.
    """

    count: int
    examples: int = 0


EXAMS: Final = {_ALL: Exam(340), _FIRST: Exam(100), "5 examples": Exam(40, 5), "20 examples": Exam(12, 20)}


@dataclass(frozen=True, slots=True)
class Setting:
    """One codec at one rate, and what it is measured on."""

    method: Method
    exams: tuple[str, ...]
    has_focus: bool = False
    reads_texts: bool = True


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


def settings(codecs: dict[str, FeatureCodec], exams: Sequence[str], *, all_codecs: bool) -> Iterator[Setting]:
    """`klt` as it is used; then it without a focus, the other fits, and the other codecs, on the first questions."""
    ours = codecs["klt"]
    for quality in QUALITIES:
        asked = tuple(exam for exam in exams if quality in OTHER_QUALITIES or not EXAMS[exam].examples)
        yield Setting(codec_method(f"klt, quality {quality}", ours, "klt", quality), asked, has_focus=True)
    if not all_codecs:
        return
    for quality in OTHER_QUALITIES:
        yield Setting(
            codec_method(f"klt without focus, quality {quality}", ours, "klt", quality), (exams[0],), reads_texts=False
        )
    for label, codec in codecs.items():
        for quality in OTHER_QUALITIES if codec is not ours else ():
            yield Setting(codec_method(f"{label}, quality {quality}", codec, "klt", quality), (_FIRST,), has_focus=True)
    yield Setting(next(method for method in baselines() if method.name == "blockwise 8 bit, zstd"), (_FIRST,))
    yield Setting(codec_method("levels", ours, "levels", None), (_FIRST,))
    for name in ("kltprior", "hyperprior", "elic"):
        for reach in reached(ours, name, OTHER_QUALITIES):
            yield Setting(codec_method(f"{name}, quality {reach:g}", ours, name, reach), (_FIRST,))


def measure(
    model: Decoder, setting: Setting, texts: Sequence[Text], asked: Mapping[str, Sequence[Asked]]
) -> dict[str, list[float]]:
    """Codes all inputs and runs the rest of the model on what was decoded.

    Returns:
        "texts": [BPFP, agreement], and of each exam [BPFP, share kept, questions].
    """
    found = {}
    if setting.reads_texts:
        bits, same = [], []
        for text in texts:
            data = setting.method.encode(text.features)
            bits.append(8 * len(data) / text.features.size)
            same.append(np.mean(_tops(model, setting.method.decode(data, text.features.shape)) == text.tops))
        found["texts"] = [float(np.mean(bits)), float(np.mean(same))]
    last = {"focus": [-1]} if setting.has_focus else {}
    for exam in setting.exams:
        spent, kept = [], []
        for question in asked[exam]:
            data = setting.method.encode(question.features, **last)
            decoded = setting.method.decode(data, question.features.shape)
            spent.append(8 * len(data) / question.features.size)
            kept.append(_letter(model, decoded, question.letter_ids) == question.right)
        for label, count in ((exam, len(kept)), (_FIRST, len(asked[_FIRST]) if exam == _ALL else 0)):  # which begins so
            if count:
                found[label] = [float(np.mean(spent[:count])), float(np.mean(kept[:count])), count]
    return found


def _tops(model: Decoder, features: Array) -> Array:
    return model.head.logits(torch.from_numpy(np.array(features))).argmax(dim=-1).numpy()


def _letter(model: Decoder, features: Array, letter_ids: Sequence[int]) -> int:
    return int(np.argmax(model.head.answer(torch.from_numpy(np.array(features)), letter_ids)))


def read(model: Decoder, token_ids: list[int]) -> Text:
    """An excerpt through the uncompressed model."""
    features = model.features(token_ids).float().numpy()
    return Text(features, _tops(model, features))


def prompt_ids(model: Decoder, every: Sequence[Question], number: int, examples: int) -> list[int]:
    """A chat: so many questions from the end of the list with their answers, and then one question."""
    turns = []
    for one in [*every[len(every) - examples :], every[number]]:
        turns += [{"role": "user", "content": choice_prompt(one.text, one.choices)}]
        turns += [{"role": "assistant", "content": _LETTERS[one.right]}]
    chat = model.backbone.tokenizer.apply_chat_template(turns[:-1], add_generation_prompt=True, return_dict=False)
    return list(chat)


def ask(model: Decoder, exam: Exam, right: list[int] | None) -> tuple[list[Asked], list[int]]:
    """The questions that the uncompressed model answers rightly, and their numbers, which are found if not known."""
    every = questions()
    letter_ids = [model.backbone.token_id(letter) for letter in _LETTERS]
    asked, numbers = [], []
    for number in track(range(exam.count) if right is None else right, description="questions"):
        features = model.features(prompt_ids(model, every, number, exam.examples))
        answer = every[number].right
        if right is not None or int(np.argmax(model.head.answer(features, letter_ids))) == answer:
            asked.append(Asked(features.float().numpy(), letter_ids, answer))
            numbers.append(number)
    return asked, numbers


def evaluate(
    name: str, split: int, points: dict[str, Any], save: Callable[[], None], exams: Sequence[str], *, all_codecs: bool
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
    digest = codecs["klt"].profile.digest.hex()
    if points.setdefault("fits", {}).get(str(split)) != digest:
        points["fits"][str(split)] = digest
        points.setdefault("rows", {})[str(split)] = {}
    texts = [read(model, ids) for ids in model.rows("test", NUM_TEST)]
    right, asked = points.setdefault("right", {}), {}
    for label in exams:
        asked[label], right[label] = ask(model, EXAMS[label], right.get(label))
        save()
    if _ALL in exams:
        right[_FIRST] = [number for number in right[_ALL] if number < EXAMS[_FIRST].count]
        asked[_FIRST] = asked[_ALL][: len(right[_FIRST])]
    rows = points["rows"][str(split)]
    for setting in settings(codecs, exams, all_codecs=all_codecs):
        label = setting.method.name
        if label not in rows:
            rows[label] = measure(model, setting, texts, asked)
            print(f"split {split}: {label}: {rows[label]}", flush=True)
            save()


def _write(path: Path, profile: str, points: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(points, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(page(profile, points), encoding="utf-8")


def page(profile: str, points: Mapping[str, Any]) -> str:
    """docs/results/language.md."""
    counts = [f"{len(points['right'].get(label, []))} of {exam.count} ({label})" for label, exam in EXAMS.items()]
    lines = [
        f"# A large language model: {profile}",
        "",
        f"Fitted on {NUM_FIT} excerpts of 256 tokens, measured on {NUM_TEST} excerpts of other files and four-choice",
        "questions written for this repository, of which those count that the uncompressed model answers rightly:",
        ", ".join(counts) + ". Examples: other questions with their answers, before the question.",
        "The model runs in bfloat16. Agreement: the share of next tokens, after every token, that are the uncompressed",
        "model's. BPFP is of whole frames. Kept: the share of the right answers that stay right; frames of `klt` focus",
        "on the last row, as the service sends them, and only that row is read at the last layer.",
        "`python -m dtufc_research.evaluation.language` measures this and writes this page.",
    ]
    for split, rows in points.get("rows", {}).items():
        lines += ["", f"## Cut after layer {split}", ""]
        labels = list(dict.fromkeys(name.partition(", quality")[0] for name in rows))
        order = sorted(rows, key=lambda name: (labels.index(name.partition(", quality")[0]), name))
        lines += ["| BPFP at an agreement of | " + " | ".join(f"{a:.2f}" for a in AGREEMENTS) + " |"]
        lines += ["|---|" + "---:|" * len(AGREEMENTS)]
        for label in labels:
            curve = [
                row["texts"] for name, row in rows.items() if name.split(", quality")[0] == label and "texts" in row
            ]
            if curve:
                cells = " | ".join(bits_at(curve, agreement) for agreement in AGREEMENTS)
                lines.append(f"| {label} | {cells} |")
        lines += [
            "",
            "| codec | BPFP of texts | agreement | questions | BPFP | kept |",
            "|---|---:|---:|---|---:|---:|",
        ]
        for name, row in ((name, rows[name]) for name in order):
            of_texts = " | ".join(f"{value:.3f}" for value in row["texts"]) if "texts" in row else "|"
            for exam, values in row.items():
                if exam != "texts":
                    lines.append(f"| {name} | {of_texts} | {exam} | {values[0]:.3f} | {values[1]:.3f} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profile", nargs="?", default="qwen2.5-coder-1.5b")
    parser.add_argument("--splits", type=int, nargs="+", default=[14, 28, 7, 21])
    parser.add_argument(
        "--exams", nargs="+", choices=list(EXAMS), default=list(EXAMS), help=f"for klt; {_ALL!r} or {_FIRST!r} first"
    )
    parser.add_argument("--klt-only", action="store_true", help="leave out the other codecs and fits")
    parser.add_argument("--output", type=Path, default=RESULTS / "language.json")
    arguments = parser.parse_args()
    path: Path = arguments.output
    points = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    of = [arguments.profile, sha256("".join(one.text for one in questions()).encode()).hexdigest()[:16]]
    if points.setdefault("of", of) != of:
        parser.error(f"{path} has points of another model or of other questions; name another --output")
    if arguments.exams[0] not in (_ALL, _FIRST):
        parser.error(f"--exams begins with {_ALL!r} or {_FIRST!r}")
    for split in arguments.splits:
        evaluate(
            arguments.profile,
            split,
            points,
            lambda: _write(path, arguments.profile, points),
            [exam for exam in arguments.exams if exam != _FIRST or _ALL not in arguments.exams],
            all_codecs=not arguments.klt_only,
        )
    _write(path, arguments.profile, points)
    return 0


if __name__ == "__main__":
    sys.exit(main())
