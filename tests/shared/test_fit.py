"""Fitting: from ten features of any model, in seconds; and what gradients buy."""

import time

import numpy as np
import pytest

import dtufc
from dtufc.arrays import Array
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
    """A model reads one direction alone: at the same bytes, a fit with its gradients keeps that direction better."""
    rng = np.random.default_rng(1)
    direction = np.ones(32) / np.sqrt(32)
    samples = [rng.standard_normal((64, 32)).astype(np.float32) for _ in range(10)]
    gradients = [np.tile(direction, (64, 1)).astype(np.float32) * rng.standard_normal((64, 1)) for _ in range(10)]
    gradients = [gradient.astype(np.float32) for gradient in gradients]
    plain, aware = dtufc.fit(samples), dtufc.fit(samples, gradients=gradients)
    features = rng.standard_normal((64, 32)).astype(np.float32)
    num_bytes = len(plain.encode(features, quality=0.3))

    def error(decoded: Array) -> float:
        return float(np.mean(((decoded - features) @ direction) ** 2))

    assert error(aware.decode(aware.encode(features, max_bytes=num_bytes))) < 0.5 * error(
        plain.decode(plain.encode(features, max_bytes=num_bytes))
    )


@pytest.mark.parametrize(
    ("samples", "match"),
    [
        ([], "none"),
        ([np.zeros((1, 8), np.float32)], "two rows"),
        ([np.zeros((4, 8), np.float32), np.zeros((4, 9), np.float32)], "channels"),
    ],
)
def test_samples_that_cannot_be_fitted_are_refused(samples: list[Array], match: str) -> None:
    with pytest.raises(InputError, match=match):
        dtufc.fit(samples)


def test_constant_features_can_be_fitted_and_come_back() -> None:
    codec = dtufc.fit([np.full((6, 8), 2.5, np.float32)] * 3)
    decoded = codec.decode(codec.encode(np.full((6, 8), 2.5, np.float32)))
    np.testing.assert_allclose(decoded, 2.5, atol=1e-3)
