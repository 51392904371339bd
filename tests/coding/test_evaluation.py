"""Bits beside scores: what is averaged, what stands beside the codecs, and what is warned of."""

import numpy as np
import pytest

import dtufc
from dtufc.coding.arrays import Array
from dtufc.coding.evaluation import LOG, NOISE_FLOOR, Sample, Scores, evaluate
from dtufc.coding.feature_codec import FeatureCodec
from dtufc.coding.quality import TOKENS
from dtufc.errors import InputError


def features(tokens: int, seed: int, scale: float = 1.0) -> Array:
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(0).normal(size=(16, 16))
    return (scale * rng.normal(size=(tokens, 16)) @ mixing).astype(np.float32)


@pytest.fixture(scope="module")
def codec() -> FeatureCodec:
    return dtufc.fit([features(tokens, seed) for seed, tokens in enumerate((40, 48, 64))])


def error_of(original: Array) -> "Sample":
    def judge(decoded: Array) -> Scores:
        return {"error": (float(np.mean((decoded - original) ** 2)), 1.0)}

    return Sample(features=original, judge=judge)


def test_every_codec_and_quality_has_its_row_and_rows_without_a_codec_come_first(codec: FeatureCodec) -> None:
    found = evaluate(codec, [error_of(features(50, 9))], codecs=["klt", "levels"], qualities=[0.2, 0.6])
    rows = [("none", None), ("float16", None), ("int8", None), ("klt", 0.2), ("klt", 0.6), ("levels", None)]
    assert [(row.codec, row.quality) for row in found.rows] == rows
    errors = {(row.codec, row.quality): row.scores["error"] for row in found.rows}
    assert errors["none", None] == 0 < errors["float16", None] < errors["int8", None] < errors["klt", 0.2]
    assert found.rows[0].bpfp == 32
    assert found.warnings == []


def test_samples_that_bring_a_noise_floor_give_a_row_of_their_own_scores(codec: FeatureCodec) -> None:
    samples = [
        Sample(features=features(50, seed), judge=lambda _: {"a": (1.0, 1)}, noise_floor={"a": (floor, 1)})
        for seed, floor in ((8, 0.5), (9, 1.0))
    ]
    found = evaluate(codec, samples, qualities=[0.4])
    assert [row.codec for row in found.rows] == ["none", NOISE_FLOOR, "float16", "int8", "klt"]
    assert (found.rows[1].bpfp, found.rows[1].scores) == (32, {"a": 0.75})


def test_bits_are_those_of_the_frames(codec: FeatureCodec) -> None:
    samples = [features(50, 9), features(60, 10)]
    row = evaluate(codec, map(error_of, samples), qualities=[0.4]).rows[-1]
    sizes = [len(codec.encode(sample, quality=0.4)) for sample in samples]
    assert row.bpfp == 8 * sum(sizes) / (110 * 16)


def test_scores_are_means_by_weight_and_logarithms_are_averaged_as_such(codec: FeatureCodec) -> None:
    first = Sample(features=features(50, 1), judge=lambda _: {"a": (1.0, 3), "b": (1.0, 0), f"{LOG}p": (0.0, 1)})
    second = Sample(features=features(50, 2), judge=lambda _: {"a": (0.0, 1), "b": (0.5, 2), f"{LOG}p": (2.0, 1)})
    scores = evaluate(codec, [first, second], qualities=[0.4]).rows[0].scores
    assert scores == {"a": 0.75, "b": 0.5, "p": pytest.approx(np.e)}


def test_a_quality_that_a_codec_does_not_reach_has_no_row(codec: FeatureCodec) -> None:
    low, high = codec.quality_ranges["hyperprior"]
    found = evaluate(codec, [error_of(features(50, 9))], codecs=["hyperprior"], qualities=[low, high, 1.0])
    assert [row.quality for row in found.rows if row.codec == "hyperprior"] == ([low, high] if high < 1 else [low, 1.0])


def test_a_quality_without_a_row_is_warned_of_and_one_out_of_range_is_an_error(codec: FeatureCodec) -> None:
    low, high = codec.quality_ranges["elic"]
    found = evaluate(codec, [error_of(features(50, 9))], codecs=["elic"], qualities=[high, 1.0])
    assert bool(found.warnings) == (high < 1)
    assert all(f"reaches {low:g} to {high:g}" in line and "at quality 1" in line for line in found.warnings)
    with pytest.raises(InputError, match="from 0 to 1"):
        evaluate(codec, [error_of(features(50, 9))], qualities=[0.4, 2.0])


def test_values_out_of_float16_leave_its_row_out_and_are_warned_of(codec: FeatureCodec) -> None:
    large = features(50, 9)
    large[0] *= 1e5 / np.abs(large[0]).max()
    found = evaluate(codec, [error_of(features(50, 8)), error_of(large)], qualities=[0.4])
    assert [row.codec for row in found.rows] == ["none", "int8", "klt"]
    assert "100000" in found.warnings[0]


@pytest.mark.parametrize(("tokens", "warns"), [(50, False), (21, False), (19, True), (127, False), (140, True)])
def test_other_lengths_than_the_fit_had_are_warned_of_with_numbers(
    codec: FeatureCodec, tokens: int, warns: bool
) -> None:
    assert codec.profile.calibration[TOKENS].tolist() == [40, 64]
    warnings = evaluate(codec, [error_of(features(tokens, 9))], qualities=[0.4]).warnings
    assert bool(warnings) == warns
    assert not warns or (str(tokens) in warnings[0] and "40 to 64" in warnings[0])


def test_what_only_encoders_and_readers_need_is_not_in_the_digest(codec: FeatureCodec) -> None:
    from dataclasses import replace

    from dtufc.models.profile import Profile

    assert isinstance(codec.profile, Profile)
    without = {name: array for name, array in codec.profile.calibration.items() if name != TOKENS}
    assert replace(codec.profile, calibration=without).digest == codec.profile.digest


def test_few_rows_are_warned_of_with_numbers() -> None:
    few = dtufc.fit([features(12, seed) for seed in range(4)]).report
    many = dtufc.fit([features(200, seed) for seed in range(4)]).report
    assert few is not None
    assert many is not None
    assert len(few.warnings) == 1
    assert "48 rows" in few.warnings[0]
    assert many.warnings == []


def test_no_sample_and_a_codec_that_is_not_there_are_errors(codec: FeatureCodec) -> None:
    with pytest.raises(InputError, match="no sample"):
        evaluate(codec, [])
    with pytest.raises(InputError, match="no codec zip"):
        evaluate(codec, [error_of(features(50, 9))], codecs=["zip"])
