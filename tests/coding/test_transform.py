"""The peaky-to-balanced transform: nearest level, converged, the same on every run."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtufc.coding.arrays import Array
from dtufc.coding.transform import PeakyToBalanced
from dtufc.errors import InputError


def peaky(rng: np.random.Generator, size: int = 200_000) -> Array:
    """Heavy tails and a few values a thousand standard deviations out, as in a decoder's last layer."""
    values = rng.standard_t(2.5, size=size).astype(np.float32)
    values[:: size // 10] = 8000.0
    return values


@pytest.fixture
def transform(rng: np.random.Generator) -> PeakyToBalanced:
    return PeakyToBalanced.fit(peaky(rng))


def test_every_value_goes_to_its_nearest_level(transform: PeakyToBalanced, rng: np.random.Generator) -> None:
    values = peaky(rng, 5000)
    distances = np.abs(values[:, None].astype(np.float64) - transform.centroids.astype(np.float64))
    chosen = np.take_along_axis(distances, transform.forward(values)[:, None].astype(int), axis=1)[:, 0]
    np.testing.assert_allclose(chosen, distances.min(axis=1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_sixteen_bit_values_take_the_level_of_the_same_float(
    transform: PeakyToBalanced, rng: np.random.Generator, dtype: type
) -> None:
    values: Array = (rng.standard_normal((30, 40)) * 20).astype(dtype)
    np.testing.assert_array_equal(transform.forward(values), transform.forward(values.astype(np.float32)))


@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=60))
def test_any_finite_value_finds_the_level_that_a_binary_search_finds(values: list[float]) -> None:
    transform = PeakyToBalanced(np.linspace(-3, 3, 256, dtype=np.float32) ** 3)
    array = np.array(values, dtype=np.float32)
    np.testing.assert_array_equal(transform.forward(array), np.digitize(array, transform.borders))


def test_a_crowd_of_levels_far_from_zero_falls_back_to_the_binary_search() -> None:
    transform = PeakyToBalanced(np.linspace(1000, 1001, 256, dtype=np.float32))
    values = np.linspace(999, 1002, 999, dtype=np.float32)
    np.testing.assert_array_equal(transform.forward(values), np.digitize(values, transform.borders))


def test_levels_are_means_of_their_regions_once_converged(rng: np.random.Generator) -> None:
    values = peaky(rng)
    transform = PeakyToBalanced.fit(values, tolerance=1e-9, max_iterations=20_000)
    levels = transform.forward(values)
    count = np.bincount(levels, minlength=256)
    mean = np.bincount(levels, values.astype(np.float64), minlength=256) / np.maximum(count, 1)
    spread = np.diff(transform.borders, prepend=transform.borders[0] - 1, append=transform.borders[-1] + 1)
    assert (np.abs(mean - transform.centroids)[count > 0] < 0.05 * spread[count > 0] + 1e-3).all()


def test_the_fit_is_the_same_on_every_run_and_in_every_order(rng: np.random.Generator) -> None:
    values = peaky(rng, 20_000)
    first = PeakyToBalanced.fit(values)
    again = PeakyToBalanced.fit([values[7000:], values[:7000]])
    np.testing.assert_array_equal(first.centroids, again.centroids)


def test_it_beats_uniform_levels_by_far(rng: np.random.Generator) -> None:
    values = peaky(rng)
    transform = PeakyToBalanced.fit(values)
    uniform = PeakyToBalanced(np.linspace(values.min(), values.max(), 256, dtype=np.float32))

    def error(t: PeakyToBalanced) -> float:
        return float(np.mean((t.inverse(t.forward(values)) - values) ** 2))

    assert error(transform) < error(uniform) / 100


@pytest.mark.parametrize(
    "values", [np.zeros(10, np.float32), np.array([1.5], np.float32), np.arange(3, dtype=np.float32)]
)
def test_fewer_values_than_levels_are_kept_exactly(values: Array) -> None:
    transform = PeakyToBalanced.fit(values)
    np.testing.assert_allclose(transform.inverse(transform.forward(values)), values, atol=1e-6)


@pytest.mark.parametrize("samples", [[], np.empty(0, np.float32), np.array([np.nan], np.float32)])
def test_invalid_samples_are_rejected(samples: object) -> None:
    with pytest.raises(InputError, match="samples"):
        PeakyToBalanced.fit(samples)  # type: ignore[arg-type]


def test_unsorted_levels_are_rejected() -> None:
    with pytest.raises(InputError, match="centroids"):
        PeakyToBalanced(np.linspace(1, 0, 256, dtype=np.float32))
