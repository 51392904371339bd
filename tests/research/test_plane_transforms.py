"""The plane transforms of ablations: each is invertible, and does what its name says."""

import numpy as np
import pytest

from dtufc.coding.transform import PeakyToBalanced
from dtufc_research.paper.histograms import entropy
from dtufc_research.training.plane_transforms import (
    ChannelMapped,
    PlaneTransformKind,
    entropy_constrained_levels,
    fit_plane_transform,
)
from tests.coding.contract import OTHER_SHAPES, SAMPLES, features, fitted_profile
from tests.coding.test_learned import there_and_back


@pytest.mark.parametrize("family", sorted(SAMPLES))
@pytest.mark.parametrize("kind", ["affine", "affine-grid", "pca-arranged", "pca-arranged-lloyd"])
def test_every_value_comes_back_as_its_level(kind: PlaneTransformKind, family: str, rng: np.random.Generator) -> None:
    plane_transform = fit_plane_transform(
        kind, fitted_profile(family), [features(rng, SAMPLES[family]) for _ in range(10)]
    )
    for shape in (SAMPLES[family], *OTHER_SHAPES[family]):
        sent = features(rng, shape)
        plane, once = there_and_back(plane_transform, sent)
        is_level = plane != 127.5
        again, _ = there_and_back(plane_transform, once)
        assert np.mean(again[is_level] == plane[is_level]) > 0.999  # but for values halfway, and float32
        assert np.median(np.abs(once - sent)) < 0.05 * np.abs(sent).max()


def test_channels_have_one_scale(rng: np.random.Generator) -> None:
    samples = [features(rng, SAMPLES["llm"]) for _ in range(10)]
    scaled = fit_plane_transform("affine", fitted_profile("llm"), samples)
    assert isinstance(scaled, ChannelMapped)
    rows = (np.concatenate(samples) - scaled.mean) @ scaled.forward
    spreads = np.quantile(np.abs(rows), 0.5, axis=0)
    assert spreads.max() < 3 * spreads.min()


@pytest.mark.parametrize("family", ["llm", "vit", "latent"])
def test_channels_come_by_falling_variance(family: str, rng: np.random.Generator) -> None:
    layout = fitted_profile(family).layout
    samples = [features(rng, SAMPLES[family]) for _ in range(10)]
    for sample in samples:  # correlated channels
        rows = layout.to_rows(sample)
        sample[:] = layout.from_rows(rows + rows.mean(axis=-1, keepdims=True) * 4, sample.shape)
    pca_arranged = fit_plane_transform("pca-arranged", fitted_profile(family), samples)
    assert isinstance(pca_arranged, ChannelMapped)
    sent = features(rng, SAMPLES[family])
    for large in (3e3, 30.0):
        sent.flat[sent.size // 2] = large
        _, got = there_and_back(pca_arranged, sent)
        assert got.flat[sent.size // 2] == pytest.approx(large, rel=0.02)  # an outlier, or near a level: not clipped
    rows = np.concatenate(
        [pca_arranged.layout.to_rows(sample).reshape(-1, len(pca_arranged.mean)) for sample in samples]
    )
    variances = ((rows - pca_arranged.mean) @ pca_arranged.forward).var(axis=0)
    assert (np.diff(np.log(variances)) < 0.3).all()
    if family != "vit":  # rotated, not only ordered
        correlation = np.corrcoef((rows @ pca_arranged.forward).T) - np.eye(len(pca_arranged.mean))
        assert np.abs(correlation).max() < 0.3


def test_entropy_constrained_levels_cost_fewer_bits_than_lloyd_max_levels(rng: np.random.Generator) -> None:
    """At a given entropy the squared error falls by four a bit: D 4^H says which levels are better."""
    fitted_to, values = rng.laplace(size=(2, 200_000)).astype(np.float32)
    costs = []
    for transform in (entropy_constrained_levels(fitted_to, 0.1), PeakyToBalanced.fit(fitted_to)):
        levels = transform.forward(values)
        error = np.mean((transform.inverse(levels) - values) ** 2)
        costs.append(error * 4 ** entropy(np.bincount(levels)))
    assert costs[0] < 0.7 * costs[1]


@pytest.mark.parametrize("step", [0.04, 0.08, 0.5])
def test_entropy_constrained_levels_are_uniform_where_values_are_dense(step: float, rng: np.random.Generator) -> None:
    values = np.append(rng.normal(size=100_000), [-40, 60]).astype(np.float32)
    levels = entropy_constrained_levels(values, step).centroids
    steps = np.diff(levels[np.abs(levels) < 2])
    np.testing.assert_allclose(steps, step, rtol=0.1)
    assert levels[0] < -38
    assert levels[-1] > 58


def test_a_token_grid_becomes_a_mosaic_of_channels() -> None:
    """Neighbours on the grid are neighbours on the plane, channel by channel."""
    values = np.zeros((50, 24), np.float32)
    values[1:] = np.arange(49)[:, None] * np.ones(24)
    plane, _ = fit_plane_transform("affine-grid", fitted_profile("vit"), [values]).to_plane(values)
    assert plane.shape == (4 * 7 + 1, 6 * 7)
    assert (np.diff(plane[:7, :7], axis=1) > 0).all()
    np.testing.assert_array_equal(plane[:7, :7], plane[7:14, 35:42])
