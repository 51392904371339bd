"""Both halves of a profile's model in one process, and how its results are judged.

An input becomes a `Feed`: what computes its features, and what judges decoded ones against them, by the capabilities
of backbone and head.

| input | scores |
|---|---|
| text, in excerpts | agreement of the next token after every token; perplexity |
| question | accuracy; kept: of those answered rightly without a codec, the share that still is; agreement |
| image for a head of labels | agreement; with a label, accuracy |
| image for a dense head | agreement: mean IoU with the label map without a codec; with a mask, with that; by image |
| prompt of an image | PSNR against the image without a codec, in dB |
"""

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from string import ascii_uppercase
from typing import Any, Final, Generic, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import cross_entropy

from dtufc.coding.arrays import Array
from dtufc.coding.evaluation import LOG, Scores
from dtufc.coding.features import as_tensor
from dtufc.errors import InputError
from dtufc.models import plugins
from dtufc.models.capabilities import (
    DenseLabels,
    Differentiable,
    Generation,
    ImageDecoder,
    ImageFeatures,
    Labels,
    LatentFeatures,
    NextTokenLogits,
    PatchFeatures,
    TokenFeatures,
    Turn,
)
from dtufc.models.fingerprint import fingerprint
from dtufc.models.inputs import ImageFile, Item, Prompt, Question, Text, choice_prompt
from dtufc.models.profile import Profile
from dtufc.models.zoo import weights_folder

EXCERPT_TOKENS: Final = 256
_CHARACTERS: Final = 1 << 16  # of a text, tokenized at a time
_MASK_MODES: Final = ("1", "L", "P", "I;16")
_EXACT_DB: Final = 99.0  # what stands for no error at all
_CPU: Final = torch.device("cpu")

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge(Generic[Result]):
    """Scores what the head makes of decoded features against what it makes of them without a codec.

    Attributes:
        result: runs the head.
        score: of a result, against `before`.
        before: the result without a codec.
    """

    result: Callable[[Tensor], Result]
    score: Callable[[Result, Result], Scores]
    before: Result

    def __call__(self, decoded: Array) -> Scores:
        return self.score(self.result(as_tensor(decoded)), self.before)

    def compare(self, other: "Judge[Result]") -> Scores:
        """Scores the result that another pair has without a codec."""
        return self.score(other.before, self.before)


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """One input, ready for the backbone.

    Attributes:
        key: SHA-256 of what is fed.
        features: runs the backbone.
        judge: of the features without a codec makes what judges decoded ones.
        focus: rows that the result depends on most, as the service names them.
        as_turn: of an excerpt of a text: the same as a user's turn of a chat.
    """

    key: str
    features: Callable[[], Tensor]
    judge: Callable[[Tensor], Judge[Any]]
    focus: Sequence[int] = ()
    as_turn: "Callable[[], Feed] | None" = None


class Pair:
    """A profile's backbone and head, each loaded when it is first used, on the CPU.

    Attributes:
        profile: complete with what the model says of it.
        fingerprint: of its weights.
        dtype: that the model runs in.
    """

    def __init__(self, profile: Profile, dtype: str = "auto") -> None:
        """Proves the cut, once.

        Args:
            profile: of the model, at its split.
            dtype: float32, float16 or bfloat16; auto: bfloat16 where the weights have 16 bits.

        Raises:
            InputError: split and whole differ, or the weights are not available.
        """
        plugins.prove_cut(profile)
        self.profile = plugins.completed(profile)
        self._folder = weights_folder(profile.spec)
        self.fingerprint = fingerprint(self._folder)
        self.dtype: torch.dtype = getattr(torch, _dtype_of(self._folder) if dtype == "auto" else dtype)

    @cached_property
    def backbone(self) -> Any:
        return plugins.built(plugins.BACKBONES, self.profile, _CPU, self.dtype)

    @cached_property
    def head(self) -> Any:
        family = plugins.load(plugins.HEADS, self.profile.spec.family)
        return family(self._folder, self.profile, _CPU, self.dtype)

    def gradient(self, sample: Array, generator: torch.Generator) -> Array:
        """The gradient of what the head makes of a sample, or of each of its crops; of its shape, float32.

        Raises:
            InputError: the head tells none, or does not take such a sample.
        """
        if not isinstance(self.head, Differentiable):
            problem = f"the head of family {self.profile.spec.family} tells none"
            raise InputError(field="gradients", problem=problem, remedy="Fit without gradients")
        layout = self.profile.layout
        layout.check(sample.shape)
        single = layout.single(sample.shape)
        self.head.check(single)
        crops = sample.astype(np.float32).reshape(-1, *single)
        return np.stack([self.head.gradient(as_tensor(one), generator).numpy() for one in crops]).reshape(sample.shape)

    def drop_backbone(self) -> None:
        """Frees the backbone's memory."""
        self.__dict__.pop("backbone", None)

    def feeds(self, item: Item, shortest: int = 2) -> Iterator[Feed]:
        """What one input gives: a text its excerpts, any other one feed.

        Args:
            item: the input.
            shortest: excerpt of a text, in tokens; one token has no next one.

        Raises:
            InputError: a model of this family does not take such an input.
        """
        if isinstance(item, Text) and isinstance(self.backbone, TokenFeatures):
            yield from (self._excerpt(ids) for ids in self._excerpts(item.text) if len(ids) >= shortest)
        elif isinstance(item, Question) and isinstance(self.backbone, TokenFeatures):
            yield self._question(item)
        elif isinstance(item, ImageFile) and isinstance(self.backbone, PatchFeatures | ImageFeatures):
            yield self._image(item)
        elif isinstance(item, Prompt | Text) and isinstance(self.backbone, LatentFeatures):
            lines = item.prompt if isinstance(item, Prompt) else item.text
            yield from (self._prompt(line.strip()) for line in lines.splitlines() if line.strip())
        else:
            problem = f"a model of family {self.profile.spec.family} takes no {item.kind}"
            raise InputError(field="inputs", problem=problem, remedy="Give inputs of the kind that it takes")

    def _excerpts(self, text: str) -> Iterator[list[int]]:
        """Each begins as the tokenizer begins a text."""
        start = self.backbone.plain_ids("")
        for part in _parts(text):
            ids = self.backbone.plain_ids(part)
            begins = start if ids[: len(start)] == start else []
            step = EXCERPT_TOKENS - len(begins)
            yield from (begins + ids[at : at + step] for at in range(len(begins), len(ids), step))

    def _excerpt(self, ids: list[int]) -> Feed:
        def turn() -> Feed:
            start = self.backbone.plain_ids("")
            words = ids[len(start) :] if ids[: len(start)] == start else ids  # a turn does not begin as a text does
            room = EXCERPT_TOKENS - len(self._turn_ids(""))
            return self._tokens(self._turn_ids(self.backbone.decode(words[:room])))

        return replace(self._tokens(ids), as_turn=turn)

    def _turn_ids(self, text: str) -> list[int]:
        """A user's turn of a chat."""
        return self.backbone.chat_ids([Turn(role="user", content=text)])

    def _tokens(self, ids: list[int]) -> Feed:
        return Feed(
            key=_key(ids),
            features=lambda: self.backbone.features(self.backbone.start(), ids),
            judge=lambda features: self._judge_tokens(features, torch.tensor(ids)),
        )

    def _judge_tokens(self, features: Tensor, ids: Tensor) -> Judge[tuple[Tensor, float]]:
        head: NextTokenLogits = self.head

        def result(features: Tensor) -> tuple[Tensor, float]:
            logits = head.logits(features)
            return logits.argmax(dim=-1), float(cross_entropy(logits[:-1], ids[1:]))

        def score(found: tuple[Tensor, float], before: tuple[Tensor, float]) -> Scores:
            agreement = float((found[0] == before[0]).float().mean())
            return {"agreement": (agreement, len(ids)), f"{LOG}perplexity": (found[1], len(ids) - 1)}

        return Judge(result=result, score=score, before=result(features))

    def _question(self, question: Question) -> Feed:
        ids = self._turn_ids(choice_prompt(question.text, question.choices))
        letters = [self.backbone.token_id(letter) for letter in ascii_uppercase[: len(question.choices)]]
        return Feed(
            key=_key(ids),
            features=lambda: self.backbone.features(self.backbone.start(), ids),
            judge=lambda features: self._judge_answer(features, letters, question.right),
            focus=(-1,),
        )

    def _judge_answer(self, features: Tensor, letters: list[int], right: int) -> Judge[int]:
        head: NextTokenLogits = self.head

        def result(features: Tensor) -> int:
            return int(np.argmax(head.answer(features, letters)))

        def score(choice: int, before: int) -> Scores:
            is_right = float(choice == right)
            return {
                "accuracy": (is_right, 1),
                "kept": (is_right, float(before == right)),
                "agreement": (float(choice == before), 1),
            }

        return Judge(result=result, score=score, before=result(features))

    def _image(self, image: ImageFile) -> Feed:
        key = hashlib.sha256(image.read()).hexdigest()
        if not isinstance(self.head, DenseLabels):
            return Feed(
                key=key,
                features=lambda: self.backbone.features(self.backbone.crop(image.open())),
                judge=lambda features: self._judge_label(features, image.label),
            )
        return Feed(
            key=key,
            features=lambda: self.backbone.features(self.backbone.fit(image.open())[0]),
            judge=lambda features: self._judge_map(features, image),
        )

    def _judge_label(self, features: Tensor, label: int | str | None) -> Judge[int]:
        head: Labels = self.head
        every = head.labels(features, sys.maxsize)
        wanted = {one.index for one in every if label in (one.index, None) or _is_name(label, one.name)}
        if not wanted:
            problem = f"{label!r} is none of the model's {len(every)} labels"
            raise InputError(field="label", problem=problem, remedy="Give a number from 0, or a name of its id2label")

        def result(features: Tensor) -> int:
            return head.labels(features, 1)[0].index

        def score(found: int, before: int) -> Scores:
            scores = {"agreement": (float(found == before), 1.0)}
            return scores if label is None else {"accuracy": (float(found in wanted), 1.0), **scores}

        return Judge(result=result, score=score, before=every[0].index)

    def _judge_map(self, features: Tensor, image: ImageFile) -> Judge[Array]:
        head: DenseLabels = self.head
        opened = image.open()
        box = self.backbone.fit(opened)[1]
        place = (box.left, box.top, box.right, box.bottom), (opened.height, opened.width)
        mask = None if image.mask is None else _read_mask(image.mask, opened.size)

        def result(features: Tensor) -> Array:
            return head.label_map(features, *place)

        def score(found: Array, before: Array) -> Scores:
            scores = {"agreement": (_mean_iou(found, before), 1.0)}
            return scores if mask is None else {"mean IoU": _iou_with_mask(found, mask, head.num_labels), **scores}

        return Judge(result=result, score=score, before=result(features))

    def _prompt(self, prompt: str) -> Feed:
        backbone: LatentFeatures = self.backbone
        spec, side = self.profile.spec.generation, backbone.default_pixels
        wanted = Generation(prompt=prompt, seed=0, steps=spec.steps, guidance=spec.guidance, width=side, height=side)
        backbone.check(wanted, spec.steps)
        return Feed(
            key=_key(prompt),
            features=lambda: backbone.latent(wanted, spec, lambda _: None).clone(),
            judge=self._judge_image,
        )

    def _judge_image(self, features: Tensor) -> Judge[Array]:
        head: ImageDecoder = self.head

        def result(features: Tensor) -> Array:
            return head.image(features).astype(np.float64)

        def score(found: Array, before: Array) -> Scores:
            error = float(np.mean((found - before) ** 2))
            return {"PSNR": (min(10 * np.log10(255**2 / max(error, 1e-12)), _EXACT_DB), 1.0)}

        return Judge(result=result, score=score, before=result(features))


def _dtype_of(folder: Path) -> str:
    """bfloat16 where a folder's configuration says that its weights have 16 bits, else float32."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        named = str(config.get("dtype") or config.get("torch_dtype"))
    except (OSError, ValueError, AttributeError):
        return "float32"
    return "bfloat16" if named.removeprefix("torch.") in ("bfloat16", "float16") else "float32"


def _parts(text: str) -> Iterator[str]:
    """A long text in parts, cut at the ends of lines as far as there are any."""
    while len(text) > _CHARACTERS:
        end = text.rfind("\n", _CHARACTERS // 2, _CHARACTERS) + 1 or _CHARACTERS
        yield text[:end]
        text = text[end:]
    yield text


def _key(fed: list[int] | str) -> str:
    return hashlib.sha256(json.dumps(fed).encode()).hexdigest()


def _is_name(label: int | str | None, name: str) -> bool:
    """Whether a label is a class's name, or one of several between commas."""
    names = [one.strip().lower() for one in (name, *name.split(","))]
    return isinstance(label, str) and label.strip().lower() in names


def _read_mask(path: Path, size: tuple[int, int]) -> Array:
    """[H, W] integers. Raises InputError for a file of another kind or size, before it is unpacked."""
    try:
        with Image.open(path) as mask:
            if mask.mode not in _MASK_MODES:
                problem = f"a mask of mode {mask.mode}: colours are no labels"
                raise InputError(field=str(path), problem=problem, remedy="Give a PNG of grey levels or a palette")
            if mask.size != size:
                problem = f"a mask of {mask.width} x {mask.height}, and its image has {size[0]} x {size[1]} pixels"
                raise InputError(field=str(path), problem=problem, remedy="Give one of the image's size")
            return np.asarray(mask).astype(np.int64)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(field=str(path), problem=f"is no mask: {error}", remedy="Give a PNG of labels") from error


def _iou_with_mask(found: Array, mask: Array, num_labels: int) -> tuple[float, float]:
    """(mean IoU, its weight). Of one label, foreground is what is not 0; of several, 255 in a mask is unknown."""
    if num_labels == 1:
        return _mean_iou(found > 0, mask > 0), 1.0
    known = mask != 255
    return (_mean_iou(found[known], mask[known]), 1.0) if known.any() else (0.0, 0.0)


def _mean_iou(first: Array, second: Array) -> float:
    """Mean over the labels of either map of intersection over union."""
    labels = np.union1d(first, second)
    return float(np.mean([np.sum((first == x) & (second == x)) / np.sum((first == x) | (second == x)) for x in labels]))
