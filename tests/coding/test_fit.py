"""Fitting: from ten features of any model, in seconds; and what gradients buy."""

import time

import numpy as np
import pytest

import dtufc
from dtufc.coding.arrays import Array
from dtufc.coding.bitstream import parse, read_varint
from dtufc.errors import InputError


def test_ten_features_of_real_size_are_fitted_in_seconds() -> None:
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((384, 384)) * np.geomspace(3, 0.01, 384)
    samples = [(rng.standard_normal((1370, 384)) @ mixing).astype(np.float32) for _ in range(10)]
    start = time.perf_counter()
    codec = dtufc.fit(samples, layout="vit", prefix=1)
    assert time.perf_counter() - start < 60
    frame = codec.encode(samples[0], quality=0.5)
    assert len(frame) < samples[0].nbytes / 8


def test_the_fit_is_the_same_on_every_run() -> None:
    samples = [np.random.default_rng(k).standard_normal((30, 12)).astype(np.float32) for k in range(10)]
    assert dtufc.fit(samples).profile.digest == dtufc.fit(samples).profile.digest


def test_gradients_move_the_error_to_where_it_does_not_count() -> None:
    """A model depends on one direction only: at equal size, a fit with its gradients keeps that direction better."""
    rng = np.random.default_rng(1)
    direction = np.ones(32) / np.sqrt(32)
    samples = [rng.standard_normal((64, 32)).astype(np.float32) for _ in range(10)]
    gradients = [np.tile(direction, (64, 1)).astype(np.float32) * rng.standard_normal((64, 1)) for _ in range(10)]
    gradients = [gradient.astype(np.float32) for gradient in gradients]
    unweighted, aware = dtufc.fit(samples), dtufc.fit(samples, gradients=gradients)
    features = rng.standard_normal((64, 32)).astype(np.float32)
    num_bytes = len(unweighted.encode(features, quality=0.3))

    def error(decoded: Array) -> float:
        return float(np.mean(((decoded - features) @ direction) ** 2))

    assert error(aware.decode(aware.encode(features, max_bytes=num_bytes))) < 0.5 * error(
        unweighted.decode(unweighted.encode(features, max_bytes=num_bytes))
    )


@pytest.mark.parametrize(
    ("samples", "match"),
    [
        ([], "none"),
        ([np.zeros((1, 8), np.float32)], "two rows"),
        ([np.zeros((4, 8), np.float32), np.zeros((4, 9), np.float32)], "channels"),
    ],
)
def test_invalid_samples_are_rejected(samples: list[Array], match: str) -> None:
    with pytest.raises(InputError, match=match):
        dtufc.fit(samples)


def test_constant_features_can_be_fitted_and_come_back() -> None:
    codec = dtufc.fit([np.full((6, 8), 2.5, np.float32)] * 3)
    decoded = codec.decode(codec.encode(np.full((6, 8), 2.5, np.float32)))
    np.testing.assert_allclose(decoded, 2.5, atol=1e-3)


def feature_maps(seed: int, channels: int, side: int) -> Array:
    """What a rectified convolution leaves: mostly zeros, and channels that go together."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).standard_normal((channels, channels)) * np.geomspace(2, 0.05, channels)
    return np.maximum(np.tensordot(mixing, rng.standard_normal((channels, side, side)), 1) - 1, 0).astype(np.float32)


@pytest.mark.parametrize(("side", "alone"), [(3, True), (20, False)])
def test_channels_are_coded_independently_where_a_grid_has_too_few_positions_for_a_covariance(
    side: int, alone: bool
) -> None:
    codec = dtufc.fit([feature_maps(seed, 64, side) for seed in range(10)], layout="cnn")
    basis = codec.profile.calibration["klt.basis"]
    if alone:
        assert sorted(basis) == list(range(64))
    else:
        assert (np.count_nonzero(basis, axis=1) > 32).all()


def test_a_fit_of_few_positions_and_many_channels_generalizes_to_other_grids() -> None:
    codec = dtufc.fit([feature_maps(seed, 256, 4) for seed in range(10)], layout="cnn")
    fitted_to, others = (
        np.mean([len(codec.encode(feature_maps(seed, 256, 4), quality=0.6)) for seed in seeds])
        for seeds in (range(10), range(10, 20))
    )
    assert others < 1.1 * fitted_to


def test_on_a_grid_large_rows_are_outliers_and_small_ones_are_not() -> None:
    codec = dtufc.fit([feature_maps(seed, 24, 6) for seed in range(10)], layout="cnn")
    features = feature_maps(11, 24, 6)
    usual = float(np.sqrt(np.mean(features**2)))
    features[:, 2:] = usual / 100
    features[:, 5, 5] = usual * 20
    payload = parse(codec.encode(features)).payload
    _, offset = read_varint(payload, 0)  # the step
    num_outliers, offset = read_varint(payload, offset)
    skipped, _ = read_varint(payload, offset)
    assert (num_outliers, skipped) == (1, 35)
