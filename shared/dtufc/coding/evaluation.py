"""What codecs cost and what their loss does, on samples of features: bits a value beside any score of the result.

A sample is coded at every setting while its features are at hand, so they are computed once and not kept. Beside the
codecs stand rows without one: the features in the service's own type, in float16 (what rounding them alone costs), and
in 8 bits with one scale a row. Where samples bring it, a row of the model itself in float32 comes second: the noise
floor. A codec whose scores are as close to the first row's loses no more than the service's type does.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from dtufc.coding.arrays import Array
from dtufc.coding.feature_codec import FeatureCodec
from dtufc.coding.layout import Layout
from dtufc.coding.quality import TOKENS
from dtufc.coding.rate import Rate
from dtufc.errors import InputError

Scores = Mapping[str, tuple[float, float]]  # by name: a mean, and the weight that it has
LOG: Final = "log "  # begins the name of a score that is averaged as a logarithm, and reported without it
NO_CODEC: Final = "none"
NOISE_FLOOR: Final = "model in float32"
QUALITIES: Final = (0.2, 0.4, 0.5, 0.6, 0.8)
_FAR: Final = 2.0  # from the lengths of a fit
_LARGEST_FLOAT16: Final = float(np.finfo(np.float16).max)  # as float16, numpy 2 would round what it is compared with


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One feature, and how a result is judged.

    Attributes:
        features: of a shape that the profile's layout knows, in the type that the service sends.
        judge: scores what the rest of the model makes of decoded features.
        focus: as for `FeatureCodec.encode`.
        noise_floor: scores of what the model makes of the same input in float32, without a codec.
    """

    features: Array
    judge: Callable[[Array], Scores]
    focus: Sequence[int] = ()
    noise_floor: Scores | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One codec at one quality, over all samples.

    Attributes:
        codec: its name; "none", "model in float32", "float16" and "int8" are no codecs.
        quality: None where there is none to choose.
        bpfp: bits a feature value, of whole frames.
        scores: the weighted means.
    """

    codec: str
    quality: float | None
    bpfp: float
    scores: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What was found.

    Attributes:
        rows: without a codec first, then codec by codec, at rising qualities.
        num_samples: how many there were.
        warnings: what a reader should know of the numbers.
    """

    rows: list[Row]
    num_samples: int
    warnings: list[str]

    @property
    def score_names(self) -> list[str]:
        """Of all rows."""
        return list(dict.fromkeys(name for row in self.rows for name in row.scores))

    def __str__(self) -> str:
        """A table."""
        lines = [["codec", "quality", "BPFP", *self.score_names]]
        for row in self.rows:
            quality = "" if row.quality is None else f"{row.quality:g}"
            cells = [f"{row.scores[name]:.3f}" if name in row.scores else "" for name in self.score_names]
            lines.append([row.codec, quality, f"{row.bpfp:.3f}", *cells])
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join("  ".join(map(str.rjust, line, widths)) for line in lines)


@dataclass(slots=True)
class _Sums:
    bits: float = 0.0
    values: int = 0
    scores: dict[str, list[float]] = field(default_factory=lambda: defaultdict(lambda: [0.0, 0.0]))

    def add(self, num_bytes: float, num_values: int, scores: Scores) -> None:
        self.bits += 8 * num_bytes
        self.values += num_values
        for name, (mean, weight) in scores.items():
            self.scores[name][0] += mean * weight
            self.scores[name][1] += weight

    def row(self, codec: str, quality: float | None) -> Row:
        means: dict[str, float] = {}
        for name, (total, weight) in self.scores.items():
            if weight:
                is_log = name.startswith(LOG)
                means[name.removeprefix(LOG)] = math.exp(total / weight) if is_log else total / weight
        return Row(codec=codec, quality=quality, bpfp=self.bits / self.values, scores=means)


def evaluate(
    codec: FeatureCodec,
    samples: Iterable[Sample],
    *,
    codecs: Sequence[str] = (),
    qualities: Sequence[float] = QUALITIES,
) -> Evaluation:
    """Codes every sample with every codec at every quality that it reaches, and judges what comes back.

    Args:
        codec: of the profile.
        samples: one after the other; none is kept.
        codecs: of `codec.codecs`; by default the default one.
        qualities: from 0 to 1, for codecs with a rate.

    Raises:
        InputError: a sample, a codec or a quality that the profile does not take; no sample.
    """
    for wanted in qualities:
        Rate(quality=wanted)  # from 0 to 1
    settings, warnings = _settings(codec, codecs or [codec.default_codec], qualities)
    sums: dict[tuple[str, float | None], _Sums] = {}
    overflow, lengths, count = 0.0, set[int](), 0
    for sample in samples:
        count += 1
        lengths.add(codec.profile.layout.rows_shape(sample.features.shape)[1])
        for setting, num_bytes, scores in _scored(codec, sample, settings):
            sums.setdefault(setting, _Sums()).add(num_bytes, sample.features.size, scores)
        largest = float(np.abs(sample.features.astype(np.float32)).max())
        overflow = max(overflow, largest if largest > _LARGEST_FLOAT16 else 0.0)
    if not count:
        raise InputError(field="data", problem="no sample", remedy="Give about ten inputs")
    if overflow:
        sums.pop(("float16", None), None)
    rows = [one.row(*setting) for setting, one in sums.items()]
    return Evaluation(rows=rows, num_samples=count, warnings=[*warnings, *_warnings(codec, overflow, lengths)])


def _settings(
    codec: FeatureCodec, names: Sequence[str], qualities: Sequence[float]
) -> tuple[list[tuple[str, float | None]], list[str]]:
    """(codecs with the qualities that they reach, warnings of the others)."""
    settings: list[tuple[str, float | None]] = []
    warnings = []
    for name in names:
        codec.prepare(name)
        if not codec.has_rate(name):
            settings.append((name, None))
            continue
        low, high = codec.quality_ranges.get(name, (1.0, 0.0))
        settings += [(name, quality) for quality in qualities if low <= quality <= high]
        left = [f"{quality:g}" for quality in qualities if not low <= quality <= high]
        if left:
            reached = f"{name} reaches {low:g} to {high:g} of this profile" if low <= high else f"{name} reaches none"
            warnings.append(f"no row of {name} at quality {', '.join(left)}: {reached}")
    return settings, warnings


def _scored(
    codec: FeatureCodec, sample: Sample, settings: Sequence[tuple[str, float | None]]
) -> Iterable[tuple[tuple[str, float | None], float, Scores]]:
    for setting, (num_bytes, decoded) in _coded(codec, sample, settings):
        yield setting, num_bytes, sample.judge(decoded)
        if setting == (NO_CODEC, None) and sample.noise_floor is not None:
            yield (NOISE_FLOOR, None), 4 * sample.features.size, sample.noise_floor


def _coded(
    codec: FeatureCodec, sample: Sample, settings: Sequence[tuple[str, float | None]]
) -> Iterable[tuple[tuple[str, float | None], tuple[float, Array]]]:
    features = sample.features
    yield (NO_CODEC, None), (features.nbytes, features)
    with np.errstate(over="ignore"):  # what overflows is left out by the caller
        half = features.astype(np.float16).astype(features.dtype)
    if np.isfinite(half.astype(np.float32)).all():
        yield ("float16", None), (2 * features.size, half)
    yield ("int8", None), _by_row(features, codec.profile.layout)
    for name, quality in settings:
        frame = codec.encode(features, codec=name, quality=quality, focus=sample.focus)
        yield (name, quality), (len(frame), codec.decode(frame))


def _by_row(features: Array, layout: Layout) -> tuple[float, Array]:
    """8 bits a value, and for each row of channels one scale in float32."""
    rows = layout.to_rows(features).astype(np.float32)
    scale = np.maximum(np.abs(rows).max(axis=-1, keepdims=True) / 127, np.float32(1e-30))
    decoded = (np.rint(rows / scale) * scale).astype(features.dtype)
    return features.size + 4 * scale.size, layout.from_rows(decoded, features.shape)


def _warnings(codec: FeatureCodec, overflow: float, lengths: set[int]) -> list[str]:
    found = []
    if overflow:
        found.append(f"no row of float16: a value of {overflow:.0f} is beyond its range")
    fitted = codec.profile.calibration.get(TOKENS)
    if fitted is not None and (fitted.shape != (2,) or fitted.dtype != np.int32):
        raise InputError(field="profile", problem=f"the array {TOKENS} is damaged", remedy="Restore the profile")
    if fitted is not None and lengths:
        low, high = int(fitted[0]), int(fitted[1])
        if min(lengths) * _FAR < low or max(lengths) > high * _FAR:
            met, had = _span(min(lengths), max(lengths)), _span(low, high)
            found.append(f"inputs of {met} tokens, and the profile was fitted on {had}: fit it on such too")
    return found


def _span(low: int, high: int) -> str:
    return f"{low}" if low == high else f"{low} to {high}"
