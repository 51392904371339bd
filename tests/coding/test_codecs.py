"""The one contract that every codec passes, on every layout, type and shape."""

import contextlib
import tracemalloc
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dtufc
from dtufc.coding import bitstream
from dtufc.coding.arrays import Array
from dtufc.coding.codecs import Payload
from dtufc.coding.codecs.klt import KltCodec
from dtufc.coding.codecs.learned import VARIANTS
from dtufc.coding.feature_codec import FeatureCodec
from dtufc.errors import BitstreamError, Desync, InputError, ProfileMismatch
from tests.coding.contract import DTYPES, OTHER_SHAPES, SAMPLES, features, fitted, hostile

LEARNED = tuple(VARIANTS)
CODECS = ("raw", "levels", "klt", *LEARNED)


def relative_error(a: Array, b: Array) -> float:
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    return float(np.linalg.norm(wide_a - wide_b)) / max(float(np.linalg.norm(wide_b)), 1e-30)


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_shape_and_type_come_back_on_every_shape(
    codec: FeatureCodec, layout: str, name: str, dtype: type, rng: np.random.Generator
) -> None:
    quality = min(0.9, codec.quality_ranges.get(name, (0, 1))[1])
    for shape in (SAMPLES[layout], *OTHER_SHAPES[layout]):
        sent: Array = features(rng, shape).astype(dtype)
        got = codec.decode(codec.encode(sent, codec=name, quality=quality))
        assert got.shape == shape
        assert got.dtype == sent.dtype
        assert np.isfinite(got.astype(np.float32)).all()
        if name == "raw":
            np.testing.assert_array_equal(got, sent)


def test_levels_lose_nothing_after_the_transform(codec: FeatureCodec, layout: str, rng: np.random.Generator) -> None:
    sent = features(rng, SAMPLES[layout])
    once = codec.decode(codec.encode(sent, codec="levels"))
    again = codec.decode(codec.encode(once, codec="levels"))
    np.testing.assert_array_equal(once, again)
    assert relative_error(once, sent) < 0.1


def test_klt_is_as_exact_as_quality_asks(codec: FeatureCodec, layout: str, rng: np.random.Generator) -> None:
    sent = features(rng, SAMPLES[layout])
    errors = [relative_error(codec.decode(codec.encode(sent, quality=q)), sent) for q in (0.0, 0.5, 1.0)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.03


@pytest.mark.parametrize("name", [name for name in LEARNED if not VARIANTS[name].uses_klt])
def test_a_codec_of_levels_keeps_features_or_rejects_them(
    codec: FeatureCodec, layout: str, name: str, rng: np.random.Generator
) -> None:
    rejected: dict[str, str] = {}
    for kind, sent in hostile(rng, SAMPLES[layout]).items():
        try:
            data = codec.encode(sent, codec=name, quality=codec.quality_ranges[name][1])
        except InputError as error:
            rejected[kind] = str(error)
            continue
        got = codec.decode(data)
        usual = np.abs(sent) < 1000
        assert np.median(np.abs(got - sent)[usual]) <= 0.1 * np.abs(sent[usual]).max() + 1.0, kind
        np.testing.assert_array_equal(got[~usual], sent[~usual])
    assert {"huge"} <= set(rejected) <= {"huge", "noise"}  # a thousand times, and several times what was fitted
    assert all("out of the range" in text for text in rejected.values())


@pytest.mark.parametrize("name", LEARNED)
def test_a_learned_codec_spends_more_for_more_quality(
    codec: FeatureCodec, layout: str, name: str, rng: np.random.Generator
) -> None:
    sent = features(rng, SAMPLES[layout])
    sizes = [len(codec.encode(sent, codec=name, quality=q)) for q in np.linspace(*codec.quality_ranges[name], 5)]
    assert sizes == sorted(sizes)
    limit = (sizes[1] + sizes[2]) // 2
    data = codec.encode(sent, codec=name, max_bytes=limit)
    assert sizes[1] <= len(data) <= limit


@pytest.mark.parametrize("name", ["klt", *(name for name in LEARNED if VARIANTS[name].uses_klt)])
def test_features_unlike_any_that_were_fitted_are_kept(
    codec: FeatureCodec, layout: str, name: str, rng: np.random.Generator
) -> None:
    for kind, sent in hostile(rng, SAMPLES[layout]).items():
        got = codec.decode(codec.encode(sent, codec=name, quality=codec.quality_ranges[name][1]))
        share = 0.05 if name == "klt" else 0.15  # through a network that was trained on other planes
        assert np.abs(got - sent).max() <= share * np.abs(sent).max() + 1.0, kind


@pytest.mark.parametrize("quality", [0.0, 0.5])
def test_no_outlier_is_clipped_at_any_quality(
    codec: FeatureCodec, layout: str, rng: np.random.Generator, quality: float
) -> None:
    sent = hostile(rng, SAMPLES[layout])["outliers"]
    got = codec.decode(codec.encode(sent, codec="klt", quality=quality))
    at = sent == sent.max()
    assert np.abs(got[at] - sent[at]).max() <= (0.5 if quality == 0 else 0.25) * sent.max()


def test_rate_is_monotone_in_quality(codec: FeatureCodec, layout: str, rng: np.random.Generator) -> None:
    sent = features(rng, SAMPLES[layout])
    sizes = [len(codec.encode(sent, quality=q)) for q in np.linspace(0, 1, 21)]
    assert sizes == sorted(sizes)
    assert sizes[-1] > 2 * sizes[0]


@pytest.mark.parametrize("fraction", [0.05, 0.3, 0.7])
def test_a_byte_limit_is_kept_and_used(
    codec: FeatureCodec, layout: str, rng: np.random.Generator, fraction: float
) -> None:
    sent = features(rng, SAMPLES[layout])
    smallest, largest = (len(codec.encode(sent, quality=q)) for q in (0.0, 1.0))
    limit = int(smallest + fraction * (largest - smallest))
    data = codec.encode(sent, max_bytes=limit)
    assert 0.9 * limit - 8 <= len(data) <= limit
    target = 8 * limit / prod(SAMPLES[layout])
    assert len(codec.encode(sent, target_bpfp=target)) <= limit


def test_a_byte_limit_costs_three_encodes_as_a_rule(
    codec: FeatureCodec, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, calls, costs = KltCodec._encode, [0], []

    def counted(*args: Any) -> Payload:
        calls[0] += 1
        return encode(*args)

    for seed in range(4):
        sent = features(np.random.default_rng(50 + seed), SAMPLES[layout])
        smallest, largest = (len(codec.encode(sent, quality=q)) for q in (0.0, 1.0))
        with monkeypatch.context() as patch:
            patch.setattr(KltCodec, "_encode", counted)
            for limit in np.linspace(smallest, largest, 13)[1:-1].astype(int):
                calls[0] = 0
                codec.encode(sent, max_bytes=int(limit))
                costs.append(calls[0])
    assert np.mean(np.array(costs) <= 3) > 0.8
    assert max(costs) <= 6


def test_a_limit_that_cannot_be_kept_names_one_that_can(codec: FeatureCodec, layout: str) -> None:
    sent = features(np.random.default_rng(3), SAMPLES[layout])
    smallest = len(codec.encode(sent, quality=0.0))
    with pytest.raises(InputError, match=f"Allow {smallest} bytes"):
        codec.encode(sent, max_bytes=smallest - 1)
    for rate in ({"max_bytes": 1}, {"target_bpfp": 1e-9}):
        with pytest.raises(InputError, match=f"Allow {smallest} bytes"):
            codec.encode(sent, **rate)


@pytest.mark.parametrize("name", CODECS)
def test_torch_and_numpy_make_the_same_frame(codec: FeatureCodec, layout: str, name: str) -> None:
    torch = pytest.importorskip("torch")
    sent = features(np.random.default_rng(5), SAMPLES[layout])
    tensor = torch.from_numpy(sent)
    assert codec.encode(tensor, codec=name) == codec.encode(sent, codec=name)
    half = tensor.to(torch.bfloat16)
    back = codec.decode_tensor(codec.encode(half, codec="raw"))
    assert back.dtype == torch.bfloat16
    assert torch.equal(back, half)


def test_a_profile_comes_back_from_its_folder(codec: FeatureCodec, layout: str, tmp_path: Path) -> None:
    codec.save(tmp_path)
    loaded = dtufc.load(tmp_path)
    assert loaded.profile.digest == codec.profile.digest
    sent = features(np.random.default_rng(9), SAMPLES[layout])
    for name in CODECS:
        data = codec.encode(sent, codec=name)
        assert loaded.encode(sent, codec=name) == data
        np.testing.assert_array_equal(loaded.decode(data), codec.decode(data))


def test_another_profile_is_rejected_by_name(codec: FeatureCodec, layout: str) -> None:
    other = dtufc.fit(
        [features(np.random.default_rng(k), SAMPLES[layout]) for k in range(3)],
        layout=layout,
        prefix=int(layout == "vit"),
    )
    data = codec.encode(features(np.random.default_rng(1), SAMPLES[layout]))
    with pytest.raises(ProfileMismatch, match="custom"):
        other.decode(data)


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        (np.full((4, 24), np.nan, np.float32), "NaN"),
        (np.full((4, 24), np.inf, np.float16), "infinite"),
        (np.zeros((4, 25), np.float32), "channels"),
        (np.zeros((0, 24), np.float32), "features"),
        (np.zeros(24, np.float32), "does not fit"),
        (np.zeros((4, 24), np.float64), "float64"),
        (np.zeros((4, 24), np.int32), "int32"),
        ([[1.0] * 24], "list"),
    ],
)
def test_invalid_features_are_rejected_with_a_remedy(bad: Array, match: str) -> None:
    llm = fitted("llm")
    for name in CODECS:
        with pytest.raises(InputError, match=match) as error:
            llm.encode(bad, codec=name)
        assert ". Give " in str(error.value)


@pytest.mark.parametrize(
    "rate",
    [{"quality": 1.01}, {"quality": -0.1}, {"quality": float("nan")}, {"target_bpfp": 0.0}, {"max_bytes": 0},
     {"quality": 0.5, "max_bytes": 10}, {"target_bpfp": float("nan")}],
)  # fmt: skip
def test_an_invalid_rate_is_rejected(rate: dict[str, float]) -> None:
    with pytest.raises(InputError):
        fitted("llm").encode(np.zeros((4, 24), np.float32), **rate)  # type: ignore[arg-type]


def test_an_unknown_codec_is_rejected_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=", ".join(CODECS)):
        fitted("llm").encode(np.zeros((4, 24), np.float32), codec="jpeg")


@pytest.mark.parametrize("name", [name for name in CODECS if name not in LEARNED])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(st.data())
def test_a_forged_payload_gives_an_error_of_ours_and_nothing_else(
    codec: FeatureCodec, layout: str, name: str, data: st.DataObject
) -> None:
    """Checksums that fit do not help: whatever the payload, decoding ends in features or in an error of the tree."""
    forge_and_decode(codec, layout, name, data)


@pytest.mark.parametrize("name", LEARNED)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=20)
@given(st.data())
def test_nor_does_one_of_a_learned_codec(codec: FeatureCodec, layout: str, name: str, data: st.DataObject) -> None:
    forge_and_decode(codec, layout, name, data)


def forge_and_decode(codec: FeatureCodec, layout: str, name: str, data: st.DataObject) -> None:
    sent = features(np.random.default_rng(11), SAMPLES[layout])
    frame = bitstream.parse(codec.encode(sent, codec=name, quality=sum(codec.quality_ranges.get(name, (0, 1))) / 2))
    payload = bytearray(frame.payload)
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, min(len(payload) - 1, 200)))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del payload[data.draw(st.integers(0, len(payload))) :]
    forged = Payload(data=bytes(payload), symbol_crc=frame.symbol_crc)
    try:
        got = codec._codec(name).decode(forged, frame.shape, np.dtype(np.float32))
    except (BitstreamError, Desync):
        return
    assert got.shape == frame.shape
    assert np.isfinite(got).all()


@given(st.binary(max_size=300))
def test_random_payloads_give_an_error_of_ours(data: bytes) -> None:
    for layout in ("llm", "cnn"):
        codec = FITTED[layout]
        for name in CODECS:
            with contextlib.suppress(BitstreamError, Desync):
                codec._codec(name).decode(Payload(data=data, symbol_crc=0), SAMPLES[layout], np.dtype(np.float32))


@pytest.mark.parametrize("name", ["levels", "klt"])
def test_a_tiny_frame_that_claims_many_values_costs_no_more_than_they_would(name: str) -> None:
    """Memory is bounded by the values a frame claims, which `bitstream.MAX_VALUES` bounds, whatever the payload."""
    codec = FITTED["llm"]
    tokens = (1 << 20) // 24
    payload = b"\x00" if name == "levels" else bytes([0x80, 0x08, 0, 0, 0])  # step 1, no outliers, residuals or words
    tracemalloc.start()
    with contextlib.suppress(BitstreamError, Desync):
        codec._codec(name).decode(Payload(data=payload, symbol_crc=0), (tokens, 24), np.dtype(np.float32))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 * tokens * 24


FITTED = {layout: fitted(layout) for layout in ("llm", "cnn")}
