"""The preparations that ablations try: each gives back what it was given, and does what its name says."""

import numpy as np
import pytest

from dtufc.coding.transform import PeakyToBalanced
from dtufc_research.paper.histograms import entropy
from dtufc_research.training.plane_transforms import ChannelMapped, Kind, prepare, sparing_levels
from tests.coding.contract import OTHER_SHAPES, SAMPLES, features, fitted
from tests.coding.test_learned import there_and_back


@pytest.mark.parametrize("family", sorted(SAMPLES))
@pytest.mark.parametrize("kind", ["affine", "affine-grid", "arranged", "arranged-lloyd"])
def test_every_value_comes_back_as_its_level(kind: Kind, family: str, rng: np.random.Generator) -> None:
    preparation = prepare(kind, fitted(family).profile, [features(rng, SAMPLES[family]) for _ in range(10)])
    for shape in (SAMPLES[family], *OTHER_SHAPES[family]):
        sent = features(rng, shape)
        plane, once = there_and_back(preparation, sent)
        is_level = plane != 127.5
        again, _ = there_and_back(preparation, once)
        assert np.mean(again[is_level] == plane[is_level]) > 0.999  # but for values halfway, and float32
        assert np.median(np.abs(once - sent)) < 0.05 * np.abs(sent).max()


def test_channels_have_one_scale(rng: np.random.Generator) -> None:
    samples = [features(rng, SAMPLES["llm"]) for _ in range(10)]
    scaled = prepare("affine", fitted("llm").profile, samples)
    assert isinstance(scaled, ChannelMapped)
    rows = (np.concatenate(samples) - scaled.mean) @ scaled.forward
    spreads = np.quantile(np.abs(rows), 0.5, axis=0)
    assert spreads.max() < 3 * spreads.min()


@pytest.mark.parametrize("family", ["llm", "vit", "latent"])
def test_channels_come_by_falling_variance(family: str, rng: np.random.Generator) -> None:
    layout = fitted(family).profile.layout
    samples = [features(rng, SAMPLES[family]) for _ in range(10)]
    for sample in samples:  # channels that move together
        rows = layout.to_rows(sample)
        sample[:] = layout.from_rows(rows + rows.mean(axis=-1, keepdims=True) * 4, sample.shape)
    arranged = prepare("arranged", fitted(family).profile, samples)
    assert isinstance(arranged, ChannelMapped)
    sent = features(rng, SAMPLES[family])
    for far in (3e3, 30.0):
        sent.flat[sent.size // 2] = far
        _, got = there_and_back(arranged, sent)
        assert got.flat[sent.size // 2] == pytest.approx(far, rel=0.02)  # apart, or near a level: not clipped
    rows = np.concatenate([arranged.layout.to_rows(sample).reshape(-1, len(arranged.mean)) for sample in samples])
    variances = ((rows - arranged.mean) @ arranged.forward).var(axis=0)
    assert (np.diff(np.log(variances)) < 0.3).all()
    if family != "vit":  # turned, not ordered alone
        correlation = np.corrcoef((rows @ arranged.forward).T) - np.eye(len(arranged.mean))
        assert np.abs(correlation).max() < 0.3


def test_sparing_levels_cost_an_entropy_coder_less_than_lloyds(rng: np.random.Generator) -> None:
    """At a given entropy the squared error falls by four a bit: D 4^H says which levels are better."""
    fitted_to, values = rng.laplace(size=(2, 200_000)).astype(np.float32)
    costs = []
    for transform in (sparing_levels(fitted_to, 0.1), PeakyToBalanced.fit(fitted_to)):
        levels = transform.forward(values)
        error = np.mean((transform.inverse(levels) - values) ** 2)
        costs.append(error * 4 ** entropy(np.bincount(levels)))
    assert costs[0] < 0.7 * costs[1]


@pytest.mark.parametrize("step", [0.04, 0.08, 0.5])
def test_sparing_levels_are_even_where_values_are_many(step: float, rng: np.random.Generator) -> None:
    values = np.append(rng.normal(size=100_000), [-40, 60]).astype(np.float32)
    levels = sparing_levels(values, step).centroids
    steps = np.diff(levels[np.abs(levels) < 2])
    np.testing.assert_allclose(steps, step, rtol=0.1)
    assert levels[0] < -38
    assert levels[-1] > 58


def test_a_grid_of_tokens_becomes_pictures() -> None:
    """Neighbours on the grid are neighbours on the plane, channel by channel."""
    values = np.zeros((50, 24), np.float32)
    values[1:] = np.arange(49)[:, None] * np.ones(24)
    plane, _ = prepare("affine-grid", fitted("vit").profile, [values]).to_plane(values)
    assert plane.shape == (4 * 7 + 1, 6 * 7)
    assert (np.diff(plane[:7, :7], axis=1) > 0).all()
    np.testing.assert_array_equal(plane[:7, :7], plane[7:14, 35:42])
