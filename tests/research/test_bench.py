"""The benchmark's own arithmetic, and its baselines."""

import math

import numpy as np
import pytest

import dtufc
from dtufc_research.evaluation.agreement import mean_iou
from dtufc_research.evaluation.bench import Row, overhead, rate_at
from dtufc_research.evaluation.methods import Method, baselines
from dtufc_research.training.fit_profiles import FITS


def row(method: str, size: float, agreement: float) -> Row:
    return Row(
        method=method,
        bytes=size,
        bpfp_payload=size / 100,
        bpfp_wire=size / 100,
        mse=0.0,
        agreement=agreement,
        encode_ms=1.0,
        decode_ms=1.0,
        values_per_s=1.0,
    )


def test_mean_iou_is_one_for_equal_masks_and_counts_both_sides() -> None:
    mask = np.zeros((4, 4), bool)
    mask[:2] = True
    assert mean_iou(mask, mask) == 1.0
    assert mean_iou(mask, ~mask) == 0.0
    half = mask.copy()
    half[1] = False
    assert mean_iou(mask, half) == pytest.approx((4 / 8 + 8 / 12) / 2)
    assert mean_iou(np.zeros((2, 2), bool), np.zeros((2, 2), bool)) == 1.0


def test_the_rate_at_an_agreement_lies_between_its_neighbours() -> None:
    rows = [row("klt, a", 100, 0.8), row("klt, b", 400, 0.9), row("JPEG", 5, 1.0)]
    bpfp, size = rate_at(rows, "klt, ", 0.85)
    assert size == pytest.approx(200)
    assert bpfp == pytest.approx(2)
    assert rate_at(rows, "klt, ", 0.5) == (1.0, 100)
    assert math.isnan(rate_at(rows, "klt, ", 0.95)[0])


@pytest.mark.parametrize("method", baselines(), ids=lambda method: method.name)
def test_a_baseline_decodes_what_it_encoded(method: Method) -> None:
    features = np.random.default_rng(0).standard_t(4, size=(37, 300)).astype(np.float32)
    decoded = method.decode(method.encode(features), features.shape)
    exact = {"float32": 0.0, "float16": 1e-3, "float16, shuffled, zstd": 1e-3}
    assert np.abs(decoded - features).max() <= exact.get(method.name, 0.04) * np.abs(features).max()


@pytest.mark.parametrize(("name", "split"), [entry[:2] for entry in FITS])
def test_the_benchmark_knows_the_overhead_of_a_frame_of_every_profile_that_it_measures(name: str, split: int) -> None:
    assert 24 <= overhead(dtufc.load(name, split=split)) <= 40
