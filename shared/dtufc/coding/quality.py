"""One meaning of quality for all codecs of a profile: the loss that `klt` has at it.

The loss is the squared error of a feature's ordinary rows as the profile's `klt` transform weighs it, relative to their
energy. `klt` needs no table: its quality is its step. A learned codec has a setting of its own, from 0 to 1; what it
loses at some of them is measured when a profile is fitted, and the profile keeps the qualities at which `klt` loses as
much. Only an encoder reads them.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from dtufc.coding.arrays import Array
from dtufc.coding.codecs import Codec
from dtufc.coding.codecs.klt import KltCodec
from dtufc.coding.codecs.klt_transform import KltTransform
from dtufc.errors import InputError

DEFAULT_QUALITY: Final = 0.6  # at which 97 of 100 answers, labels and masks are as without a codec (decision 0015)
SETTINGS: Final = np.array([0, 0.2, 0.35, 0.5, 0.65, 0.8, 1])
_QUALITIES: Final = np.linspace(0, 1, 9)
_TINY: Final = 1e-12  # of the energy: a smaller loss is none
_FURTHEST: Final = (-1.0, 2.0)


def measured_qualities(codec: Codec, klt: KltCodec, samples: Sequence[Array]) -> Array:
    """[7] float64, ascending: the quality at which `klt` loses as much as another codec does at each of SETTINGS.

    Args:
        codec: with a rate.
        klt: of the same profile.
        samples: of what the profile was fitted to, float32.
    """
    known, found = (
        np.mean([_log_losses(coder, klt.transform, features, settings) for features in samples], axis=0)
        for coder, settings in ((klt, _QUALITIES), (codec, SETTINGS))
    )
    gained = np.maximum.accumulate(known[0] - known) + 1e-9 * _QUALITIES  # from quality 0 on
    reached = np.maximum.accumulate(known[0] - found)
    beyond = np.minimum(reached, 0) + np.maximum(reached - gained[-1], 0)
    return np.clip(np.interp(reached, gained, _QUALITIES) + beyond / gained[-1], *_FURTHEST)


def is_sound(qualities: Array) -> bool:
    """Whether an array of a profile can be the result of `measured_qualities`."""
    if qualities.shape != SETTINGS.shape or qualities.dtype != np.float64:
        return False
    return bool(
        (qualities >= _FURTHEST[0]).all() and (qualities <= _FURTHEST[1]).all() and (np.diff(qualities) >= 0).all()
    )


def range_of(qualities: Array) -> tuple[float, float]:
    """The lowest and the highest quality of a codec, from the result of `measured_qualities`."""
    return max(0.0, float(qualities[0])), min(1.0, float(qualities[-1]))


def setting_for(quality: float | None, qualities: Array, codec: str) -> float:
    """The setting of a codec at a quality; without one at the default, or the nearest that it reaches.

    Raises:
        InputError: the codec does not reach it.
    """
    low, high = range_of(qualities)
    if quality is None:
        quality = max(low, min(DEFAULT_QUALITY, high))
    elif not low <= quality <= high:
        problem = f"{quality}, and {codec} reaches {low:.2f} to {high:.2f} of this profile"
        raise InputError(field="quality", problem=problem, remedy="Give one of these, a target, or use codec 'klt'")
    return float(np.interp(quality, qualities, SETTINGS))


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


def _log_losses(codec: Codec, transform: KltTransform, features: Array, settings: Array) -> Array:
    encode = codec.encoder(features)
    payloads = [encode(float(setting)) for setting in settings]
    decoded = [codec.decode(payload, features.shape, features.dtype) for payload in payloads]
    return np.log(np.maximum([relative_loss(transform, features, one) for one in decoded], _TINY))
