"""Fit and evaluation of a profile from inputs of its model: `dtufc fit` and `dtufc evaluate`."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Final, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from dtufc.coding.arrays import Array
from dtufc.coding.evaluation import QUALITIES, Evaluation, Sample, evaluate
from dtufc.coding.feature_codec import FeatureCodec
from dtufc.coding.features import as_array, as_tensor, read_npy
from dtufc.errors import InputError
from dtufc.files import read_file
from dtufc.models.capabilities import TokenFeatures
from dtufc.models.fitting import NUM_HELD_OUT, NUM_SAMPLES, fit
from dtufc.models.inputs import Item
from dtufc.models.measuring import Feed, Pair

_SCRATCH: Final = ".fit"
_MAX_KEPT_BYTES: Final = 1 << 27
_MIN_FITTED_TOKENS: Final = 16  # of an excerpt
_EVERY: Final = 4  # source is held out, and excerpt put as a user's turn
T = TypeVar("T")


class Progress(Protocol):
    """Shows how far work is; `dtufc.cli.progress.Bars` does."""

    def steps(self, of: Iterable[T], total: int, description: str) -> Iterable[T]:
        """The same, shown as it is taken."""

    def share(self, description: str) -> Callable[[float], None]:
        """Is told a share of work that is done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """A codec fitted to inputs.

    Attributes:
        codec: of the profile.
        evaluation: on samples that it was not fitted to.
        num_samples: that it was fitted to.
    """

    codec: FeatureCodec
    evaluation: Evaluation
    num_samples: int


@dataclass(slots=True)
class _Kept:
    """Features and gradients in a folder, so that a fit that was interrupted goes on."""

    folder: Path
    of: str  # what they depend on beside the input
    paths: list[Path] = field(default_factory=list)

    def get(self, key: str, kind: str, compute: Callable[[], Array]) -> Array:
        name = hashlib.sha256(f"{self.of} {key} {kind}".encode()).hexdigest()[:32]
        path = self.folder / f"{name}.npy"
        self.paths.append(path)
        try:
            return read_npy(read_file(path, _MAX_KEPT_BYTES), str(path))
        except InputError:  # not there, or cut short
            array = compute()
        scratch = path.with_suffix(".part")
        with scratch.open("wb") as file:
            np.save(file, array)
        scratch.replace(path)
        return array

    def remove(self) -> None:
        """What was asked for, and the folder where nothing else is in it."""
        for path in self.paths:
            path.unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()


def fit_to_inputs(
    pair: Pair,
    sources: Sequence[Sequence[Item]],
    output: Path,
    progress: Progress,
    *,
    num_samples: int = NUM_SAMPLES,
    num_held_out: int = NUM_HELD_OUT,
    gradients: bool = True,
    qualities: Sequence[float] = QUALITIES,
) -> Fitted:
    """Fits a profile to inputs of its model, and evaluates it on others.

    Every fourth source is held out, and of fewer than four the last quarter of each. Of both parts every fourth
    excerpt of a text is put as a user's turn of a chat.

    Args:
        pair: of the model.
        sources: inputs, one list for each file.
        output: a folder for the profile. Features and gradients are kept in its folder `.fit`, and removed in the end:
            a fit that was interrupted goes on with them.
        progress: shows it.
        num_samples: to fit to, at most.
        num_held_out: to evaluate on, at most.
        gradients: spend bits where the model's result depends on them; a backward pass for each sample.
        qualities: to evaluate.

    Raises:
        InputError: too few inputs to fit and to evaluate, or of a kind that the model does not take.
    """
    chosen, held_out = choose(pair, sources, num_samples, num_held_out)
    scratch = output / _SCRATCH
    scratch.mkdir(parents=True, exist_ok=True)
    bare = hashlib.sha256(repr((pair.fingerprint, pair.profile.split, pair.dtype)).encode()).hexdigest()
    kept = _Kept(scratch, bare)

    def features(feed: Feed) -> Array:
        return kept.get(feed.key, "features", lambda: feed.features().float().numpy())

    both = [*chosen, *held_out]
    every = [features(feed) for feed in progress.steps(both, len(both), "features")]
    if isinstance(pair.backbone, TokenFeatures):
        pair.drop_backbone()  # its memory is the head's now
    samples = every[: len(chosen)]
    slopes = None
    if gradients:
        pairs = zip(chosen, samples, strict=True)
        slopes = [
            kept.get(feed.key, "gradient", lambda sample=sample: _gradient(pair, sample))  # type: ignore[misc]
            for feed, sample in progress.steps(pairs, len(chosen), "gradients")
        ]
    codec = fit(samples, profile=pair.profile, gradients=slopes, progress=progress.share("fit"))
    codec.save(output)
    others = zip(held_out, every[len(chosen) :], strict=True)
    of_others = (_sample(feed, as_tensor(one).to(pair.dtype)) for feed, one in others)
    shown = progress.steps(of_others, len(held_out), "held-out samples")
    evaluation = evaluate(codec, shown, codecs=[codec.default_codec], qualities=qualities)
    kept.remove()
    return Fitted(codec=codec, evaluation=evaluation, num_samples=len(samples))


def evaluate_on_inputs(
    pair: Pair,
    sources: Sequence[Sequence[Item]],
    progress: Progress,
    *,
    limit: int | None = None,
    codecs: Sequence[str] = (),
    qualities: Sequence[float] = QUALITIES,
    noise_floor: bool = False,
) -> Evaluation:
    """Evaluates a profile's codecs on inputs, with what is known of them: `dtufc.models.measuring`.

    Args:
        pair: of the model.
        sources: inputs, one list for each file.
        progress: shows it.
        limit: of samples; all by default.
        codecs: of the profile; its default one by default.
        qualities: to evaluate.
        noise_floor: a row of the same model in float32, which is loaded beside the pair.

    Raises:
        InputError: inputs that the model does not take, a codec that the profile does not have, or a noise floor of a
            pair that runs in float32 itself.
    """
    if noise_floor and pair.dtype == torch.float32:
        remedy = "Give --dtype bfloat16 or float16, or no --noise-floor"
        raise InputError(field="noise floor", problem="the model runs in float32 already", remedy=remedy)
    listed = _listed(pair, sources, limit)
    if not listed:
        raise InputError(field="inputs", problem="no sample", remedy="Give texts of two tokens or more, or images")
    shown = progress.steps(listed, len(listed), "samples")
    exact = _listed(Pair(pair.profile, "float32"), sources, limit) if noise_floor else [None] * len(listed)
    samples = (_sample(feed, feed.features(), other) for feed, other in zip(shown, exact, strict=True))
    return evaluate(FeatureCodec(pair.profile), samples, codecs=codecs, qualities=qualities)


def _listed(pair: Pair, sources: Sequence[Sequence[Item]], limit: int | None) -> list[Feed]:
    return list(islice((feed for source in sources for item in source for feed in pair.feeds(item)), limit))


def _sample(feed: Feed, features: Tensor, exact: Feed | None = None) -> Sample:
    judge = feed.judge(features)
    floor = judge.compare(exact.judge(exact.features())) if exact else None
    return Sample(features=as_array(features), judge=judge, focus=feed.focus, noise_floor=floor)


def _gradient(pair: Pair, sample: Array) -> Array:
    seed = int.from_bytes(hashlib.sha256(sample.tobytes()).digest()[:4])  # one of its own: a fit may go on elsewhere
    return pair.gradient(sample, torch.Generator().manual_seed(seed))


def choose(
    pair: Pair, sources: Sequence[Sequence[Item]], num_samples: int, num_held_out: int
) -> tuple[list[Feed], list[Feed]]:
    """(feeds to fit to, feeds held out), in turn from each source, and none twice."""
    parts = [_feeds(pair, source) for source in sources]
    if len(parts) >= _EVERY:
        first = [part for number, part in enumerate(parts) if number % _EVERY < _EVERY - 1]
        last = parts[_EVERY - 1 :: _EVERY]
    else:
        listed = [list(islice(part, num_samples + num_held_out)) for part in parts]
        if all(len(one) == 1 for one in listed):  # as two images
            first, last = [iter(one) for one in listed[:-1]], [iter(listed[-1])]
        else:
            ends = [max(1, len(one) - max(1, len(one) // _EVERY)) for one in listed]
            first = [iter(one[:end]) for one, end in zip(listed, ends, strict=True)]
            last = [iter(one[end:]) for one, end in zip(listed, ends, strict=True)]
    chosen = list(islice(_unique(_in_turn(first), set()), num_samples))
    seen = {feed.key for feed in chosen}
    held_out = list(islice(_unique(_in_turn(last), seen), num_held_out))
    if not chosen or not held_out:
        problem = f"{len(chosen)} to fit to and {len(held_out)} to evaluate on"
        remedy = "Give about twenty: images, or texts of some thousand words"
        raise InputError(field="inputs", problem=problem, remedy=remedy)
    return _with_turns(chosen), _with_turns(held_out)


def _with_turns(feeds: Sequence[Feed]) -> list[Feed]:
    """Every fourth as a user's turn, if it is an excerpt of a text."""
    return [
        feed.as_turn() if feed.as_turn and number % _EVERY == _EVERY - 1 else feed for number, feed in enumerate(feeds)
    ]


def _feeds(pair: Pair, source: Sequence[Item]) -> Iterator[Feed]:
    return (feed for item in source for feed in pair.feeds(item, _MIN_FITTED_TOKENS))


def _unique(feeds: Iterable[Feed], seen: set[str]) -> Iterator[Feed]:
    for feed in feeds:
        if feed.key not in seen:
            seen.add(feed.key)
            yield feed


def _in_turn(parts: Iterable[Iterator[Feed]]) -> Iterator[Feed]:
    """One of each, then the next of each; none is taken before it is its turn."""
    left = list(parts)
    while left:
        for part in list(left):
            feed = next(part, None)
            if feed is None:
                left.remove(part)
            else:
                yield feed
