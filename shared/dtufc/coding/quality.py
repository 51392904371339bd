"""One meaning of quality for all codecs of a profile: the loss that `klt` has at it.

The loss is the squared error of a feature's ordinary rows as the profile's `klt` transform weighs it, relative to their
energy. `klt` needs no table: its quality is its step. A learned codec has a setting of its own, from 0 to 1; what it
loses at some of them is measured when a profile is fitted, and the profile keeps the qualities at which `klt` loses as
much. Only an encoder reads them.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final

import numpy as np

from dtufc.coding.arrays import Array
from dtufc.coding.codecs import Codec
from dtufc.coding.codecs.klt import KltCodec
from dtufc.coding.codecs.klt_transform import KltTransform
from dtufc.errors import InputError

PREFIX: Final = "quality."  # of these arrays' names in a profile
TOKENS: Final = "fit.tokens"  # [2] int32: the fewest and the most tokens of a sample that a profile was fitted to
FOR_ENCODERS: Final = (PREFIX, TOKENS)  # begin the names of arrays that a decoder does not need
DEFAULT_QUALITY: Final = 0.6  # at which 97 of 100 answers, labels and masks are as without a codec (decision 0015)
SETTINGS: Final = np.array([0, 0.2, 0.35, 0.5, 0.65, 0.8, 1])
_QUALITIES: Final = np.linspace(0, 1, 9)
_TINY: Final = 1e-12  # of the energy: a smaller loss is none
_FURTHEST: Final = (-1.0, 2.0)


def measured_qualities(
    klt: KltCodec, codecs: Mapping[str, Codec], samples: Sequence[Array], progress: Callable[[float], None]
) -> dict[str, Array]:
    """By codec [7] float64, ascending: the quality at which `klt` loses as much as the codec does at each of SETTINGS.

    A codec that cannot encode the samples at all of its settings is left out.

    Args:
        klt: of the same profile.
        codecs: others, with a rate.
        samples: of what the profile was fitted to, float32.
        progress: is told the share of the work that is done.
    """
    known = _log_losses(klt, klt.transform, samples, _QUALITIES)
    usable = np.isfinite(known)  # not so fine that symbols are too large
    if not usable[:2].all():
        return {}
    known, qualities = known[usable], _QUALITIES[usable]
    gained = np.maximum.accumulate(known[0] - known) + 1e-9 * qualities  # from quality 0 on
    measured = {}
    for done, (name, codec) in enumerate(codecs.items(), start=1):
        found = _log_losses(codec, klt.transform, samples, SETTINGS)
        progress(done / len(codecs))
        if np.isfinite(found).all():
            reached = np.maximum.accumulate(known[0] - found)
            beyond = np.minimum(reached, 0) + np.maximum(reached - gained[-1], 0)
            measured[name] = np.clip(np.interp(reached, gained, qualities) + beyond / gained[-1], *_FURTHEST)
    return measured


def is_sound(qualities: Array) -> bool:
    """Whether an array of a profile can be the result of `measured_qualities`."""
    if qualities.shape != SETTINGS.shape or qualities.dtype != np.float64:
        return False
    return bool(
        (qualities >= _FURTHEST[0]).all() and (qualities <= _FURTHEST[1]).all() and (np.diff(qualities) >= 0).all()
    )


def range_of(qualities: Array) -> tuple[float, float] | None:
    """The lowest and the highest quality of a codec, in hundredths, from a result of `measured_qualities`; or none."""
    low = math.ceil(100 * max(0.0, float(qualities[0]))) / 100
    high = math.floor(100 * min(1.0, float(qualities[-1]))) / 100
    return (low, high) if low <= high else None


def setting_for(quality: float | None, qualities: Array, codec: str) -> float:
    """The setting of a codec at a quality; without one at the default, or the nearest that it reaches.

    Raises:
        InputError: the codec does not reach it.
    """
    reached = range_of(qualities)
    if reached is None:
        problem = f"{codec} reaches none of this profile"
        raise InputError(field="quality", problem=problem, remedy="Give max_bytes or target_bpfp, or use codec 'klt'")
    low, high = reached
    if quality is None:
        quality = max(low, min(DEFAULT_QUALITY, high))
    elif not low <= quality <= high:
        problem = f"{quality}, and {codec} reaches {low:.2f} to {high:.2f} of this profile"
        raise InputError(field="quality", problem=problem, remedy="Give one of these, a target, or use codec 'klt'")
    different, first = np.unique(qualities, return_index=True)  # of settings that lose as much, the cheapest
    return float(np.interp(quality, different, SETTINGS[first]))


def relative_loss(transform: KltTransform, features: Array, decoded: Array) -> float:
    """The squared error of decoded features as `klt` of their profile weighs it, relative to their energy.

    Args:
        transform: of `klt`.
        features: float32.
        decoded: of the same shape.
    """
    rows = transform.rows(features)
    partition = transform.split(rows, features.shape)
    is_ordinary = ~np.isin(partition.isolated, partition.outliers)

    def coefficients(of: Array) -> Array:
        isolated = transform.isolated(of, partition, 1.0)[is_ordinary]
        return np.concatenate([isolated, transform.spectrum(of, partition)]).astype(np.float64)

    sent = coefficients(rows)
    lost = np.sum((coefficients(transform.rows(decoded)) - sent) ** 2)
    return float(lost / max(np.sum(sent**2), 1e-300))


def _log_losses(codec: Codec, transform: KltTransform, samples: Sequence[Array], settings: Array) -> Array:
    """Means over the samples; not a number where a setting cannot encode one."""
    losses = np.full((len(samples), len(settings)), np.nan)
    for row, features in zip(losses, samples, strict=True):
        with suppress(InputError):  # out of the codec's range
            encode = codec.encoder(features)
            for index, setting in enumerate(settings):
                decoded = codec.decode(encode(float(setting)), features.shape, features.dtype)
                row[index] = relative_loss(transform, features, decoded)
    return np.log(np.maximum(losses, _TINY)).mean(axis=0)
