"""The rate of a frame: a quality, or a limit of bytes and the search for the quality that keeps it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from dtufc.coding import bitstream
from dtufc.coding.quality import DEFAULT_QUALITY
from dtufc.errors import InputError
from dtufc.interruption import checkpoint

_Encoded = TypeVar("_Encoded", bound=bytes)
_QUALITY_STEPS: Final = 1024  # how finely a rate target is searched
_USED: Final = 0.9  # of a byte limit, at least
_NEARLY: Final = 0.97  # of it, for less than so many encodes:
_ENCODES: Final = 3
_BITS_PER_QUALITY: Final = 7  # a value, between quality 0 and 1 at high rates
_BEND: Final = 1.25  # how much faster the logarithm grows at low rates
_MIN_SHARE: Final = 1 / 16  # of an interval that a step of the search cuts off


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """The rate of a frame; at most one of the three is set.

    Attributes:
        quality: from 0, the fewest bytes, to 1, the most exact. In every codec of a profile the same quality loses as
            much; not every codec reaches all (`FeatureCodec.quality_ranges`).
        target_bpfp: at most this many bits a feature value, of the whole frame.
        max_bytes: at most this many bytes a frame.
    """

    quality: float | None = None
    target_bpfp: float | None = None
    max_bytes: int | None = None

    def __post_init__(self) -> None:
        given = [name for name in self.__slots__ if getattr(self, name) is not None]
        if len(given) > 1:
            raise InputError(field="rate", problem=f"{' and '.join(given)} together", remedy="Give one of them")
        if self.quality is not None and not 0 <= self.quality <= 1:
            raise InputError(field="quality", problem=f"{self.quality}", remedy="Give a number from 0 to 1")
        if self.target_bpfp is not None and not 0 < self.target_bpfp < math.inf:
            raise InputError(field="target_bpfp", problem=f"{self.target_bpfp}", remedy="Give a positive number")
        if self.max_bytes is not None and not 1 <= self.max_bytes < 1 << 32:
            raise InputError(field="max_bytes", problem=f"{self.max_bytes}", remedy="Give 1 to 4294967295")

    @property
    def label(self) -> str:
        """The label of a metric, with few values: the quality to a tenth, "default", or the kind of the limit."""
        if self.target_bpfp is not None:
            return "target_bpfp"
        if self.max_bytes is not None:
            return "max_bytes"
        return "default" if self.quality is None else f"{self.quality:.1f}"

    def byte_limit(self, num_values: int) -> int | None:
        """The largest size of a frame of this many values, or None if the quality decides."""
        if self.target_bpfp is not None:
            return int(min(self.target_bpfp * num_values / 8, bitstream.MAX_PAYLOAD_BYTES))
        return self.max_bytes


def within(limit: int, num_values: int, at: Callable[[float], _Encoded], has_rate: bool) -> _Encoded:
    """A frame of at most `limit` bytes, and at least nine tenths of that where a quality has so many.

    Bits are taken to grow linearly with quality where they are many, and exponentially where they are few, until two
    frames say how they grow; three frames are enough, as a rule.

    Args:
        limit: in bytes.
        num_values: in a frame.
        at: a frame, or several in one container, at a setting from 0 to 1.
        has_rate: whether the setting makes a difference.

    Raises:
        InputError: the smallest possible frame is larger; it names that size.
    """
    low: _Tried[_Encoded] = _Tried(-1, None)  # the largest that fits
    high: _Tried[_Encoded] = _Tried(_QUALITY_STEPS + 1, None)  # the smallest that does not
    tried: list[_Tried[_Encoded]] = []
    step = round(DEFAULT_QUALITY * _QUALITY_STEPS)
    while True:
        checkpoint()
        try:
            frame = at(step / _QUALITY_STEPS)
        except InputError:  # symbols too large at so fine a step
            frame = None
        tried.append(_Tried(step, frame))
        if frame is not None and len(frame) <= limit:
            low = tried[-1]
        else:
            high = tried[-1]
        reached = len(low.frame) if low.frame else 0
        enough = (_USED if len(tried) >= _ENCODES else _NEARLY) * limit
        if (low.frame and reached >= enough) or high.step - low.step == 1 or not has_rate:
            break
        step = min(max(_next_step(low, high, tried, limit, num_values), low.step + 1), high.step - 1)
    if low.frame is None:
        smallest = len(high.frame) if high.frame else len(at(0.0))
        raise InputError(
            field="rate",
            problem=f"at most {limit} bytes asked for, and the smallest frame has {smallest}",
            remedy=f"Allow {smallest} bytes, or choose another codec",
        )
    return low.frame


@dataclass(frozen=True, slots=True)
class _Tried(Generic[_Encoded]):
    step: int
    frame: _Encoded | None  # none at an end that was not tried, or where there is none


def _next_step(
    low: _Tried[_Encoded], high: _Tried[_Encoded], tried: Sequence[_Tried[_Encoded]], limit: int, num_values: int
) -> int:
    def level(size: float) -> float:
        bits = _BEND * 8 * size / num_values
        return bits + math.log(-math.expm1(-bits))

    aim = level(max(limit, 1) * (1 + _NEARLY) / 2)
    if low.frame and high.frame:
        ends = level(len(low.frame)), level(len(high.frame))
        share = (aim - ends[0]) / max(ends[1] - ends[0], 1e-9)
        return low.step + round(min(max(share, _MIN_SHARE), 1 - _MIN_SHARE) * (high.step - low.step))
    known = low if low.frame else high
    if known.frame is None:
        return (low.step + high.step) // 2
    per_level = _QUALITY_STEPS / (_BEND * _BITS_PER_QUALITY)
    before = tried[-2] if len(tried) > 1 else None
    if before and before.frame:
        gone = level(len(before.frame)) - level(len(known.frame))
        per_level = max(per_level, (before.step - known.step) / gone if gone else _QUALITY_STEPS)
    return known.step + round((aim - level(len(known.frame))) * per_level)
