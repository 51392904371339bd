"""Ways to compress features that are compared, each as encode and decode: baselines, and codecs of a profile."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import zstandard

from dtufc.coding.arrays import Array
from dtufc.coding.codecs.klt import KltCodec
from dtufc.coding.feature_codec import FeatureCodec, fit_calibration
from dtufc.models.profile import Profile

_BLOCK = 4096
_ZSTD_LEVEL = 3


@dataclass(frozen=True, slots=True)
class Method:
    """One way to code a float32 feature tensor.

    Attributes:
        name: in the tables.
        encode: features -> bytes; a codec's takes a focus (`FeatureCodec.encode`).
        decode: bytes and shape -> features.
        overhead_bytes: bytes of header and checksum in the result of `encode`.
    """

    name: str
    encode: Callable[..., bytes]
    decode: Callable[[bytes, tuple[int, ...]], Array]
    overhead_bytes: int = 0


def baselines() -> list[Method]:
    """float32, float16, zstd on byte-shuffled float16, and blockwise 8 bits, without and with zstd."""
    return [
        Method("float32", lambda x: x.tobytes(), lambda b, s: np.frombuffer(b, np.float32).reshape(s)),
        Method("float16", _to_half, _from_half),
        Method("float16, shuffled, zstd", _to_shuffled, _from_shuffled),
        Method("blockwise 8 bit", _to_blockwise, _from_blockwise),
        Method(
            "blockwise 8 bit, zstd",
            lambda x: _compress(_to_blockwise(x)),
            lambda b, s: _from_blockwise(_decompress(b), s),
        ),
    ]


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


def codec_method(label: str, codec: FeatureCodec, name: str, quality: float | None) -> Method:
    """A codec of a profile at one quality; its `encode` takes a focus."""

    def encode(features: Array, focus: Sequence[int] = ()) -> bytes:
        return codec.encode(features, codec=name, quality=quality, focus=focus)

    return Method(label, encode, lambda data, shape: codec.decode(data))


def reached(codec: FeatureCodec, name: str, qualities: Sequence[float]) -> list[float | None]:
    """Those of the qualities that a codec of a profile reaches, and its highest; [None] if it has no rate."""
    if not codec.has_rate(name):
        return [None]
    low, high = codec.quality_ranges[name]
    inside = [quality for quality in qualities if low <= quality <= high]
    return [*inside, high] if high < max(qualities) else [*inside]


def bits_at(curve: Sequence[Sequence[float]], agreement: float, digits: int = 2) -> str:
    """Bits at an agreement, linear between two measured points; a bound where it lies outside them."""
    ordered = sorted((row[0], row[1]) for row in curve)
    if ordered[0][1] >= agreement:
        return f"< {ordered[0][0]:.{digits}f}"
    for (low_bits, low), (high_bits, high) in pairwise(ordered):
        if low <= agreement <= high:
            return f"{low_bits + (high_bits - low_bits) * (agreement - low) / max(high - low, 1e-9):.{digits}f}"
    return f"> {ordered[-1][0]:.{digits}f}"


def _compress(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(data)


def _decompress(data: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompress(data)


def _to_half(features: Array) -> bytes:
    with np.errstate(over="ignore"):  # a massive activation may be out of the range of float16
        return features.astype(np.float16).tobytes()


def _from_half(data: bytes, shape: tuple[int, ...]) -> Array:
    return np.frombuffer(data, np.float16).astype(np.float32).reshape(shape)


def _to_shuffled(features: Array) -> bytes:
    pairs = np.frombuffer(_to_half(features), np.uint8).reshape(-1, 2)
    return _compress(pairs.T.tobytes())


def _from_shuffled(data: bytes, shape: tuple[int, ...]) -> Array:
    planes = np.frombuffer(_decompress(data), np.uint8).reshape(2, -1)
    return _from_half(planes.T.tobytes(), shape)


def _dynamic_map() -> Array:
    """The 256 values of 8-bit dynamic quantization: a decimal exponent and a fraction (Dettmers, arXiv 1511.04561).

    Exponent 10^(i - 6) has 2^i values of either sign, the middles of equal parts of [0.1, 1].
    """
    positive = []
    for i in range(7):
        edges = np.linspace(0.1, 1.0, 2**i + 1)
        positive.append(10.0 ** (i - 6) * (edges[:-1] + edges[1:]) / 2)
    values = np.concatenate(positive)
    return np.sort(np.concatenate([values, -values, [0.0, 1.0]])).astype(np.float32)


_MAP = _dynamic_map()
_MAP_BORDERS = (_MAP[:-1] + _MAP[1:]) / 2


def _to_blockwise(features: Array) -> bytes:
    """As hivemind's BLOCKWISE_8BIT: 4096 values share their largest magnitude; each is a value of the dynamic map."""
    flat = np.pad(features.ravel(), (0, -features.size % _BLOCK)).reshape(-1, _BLOCK)
    scale = np.maximum(np.abs(flat).max(axis=1, keepdims=True), np.float32(1e-30))
    codes = np.searchsorted(_MAP_BORDERS, flat / scale).astype(np.uint8).ravel()[: features.size]
    return scale.astype(np.float32).tobytes() + codes.tobytes()


def _from_blockwise(data: bytes, shape: tuple[int, ...]) -> Array:
    num_values = int(np.prod(shape))
    num_blocks = -(-num_values // _BLOCK)
    scale = np.frombuffer(data, np.float32, num_blocks)
    codes = np.frombuffer(data, np.uint8, num_values, 4 * num_blocks)
    return (_MAP[codes] * np.repeat(scale, _BLOCK)[:num_values]).reshape(shape)
