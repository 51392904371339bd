"""The preparations that ablations try: each gives back what it was given, and does what its name says."""

import numpy as np
import pytest

from dtufc_lab.preparations import ChannelScaled, Kind, prepare
from tests.shared.contract import OTHER_SHAPES, SAMPLES, features, fitted
from tests.shared.test_learned import there_and_back


@pytest.mark.parametrize("family", sorted(SAMPLES))
@pytest.mark.parametrize("kind", ["affine", "affine-grid"])
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
    assert isinstance(scaled, ChannelScaled)
    rows = (np.concatenate(samples) - scaled.mean) / scaled.scale
    spreads = np.quantile(np.abs(rows), 0.5, axis=0)
    assert spreads.max() < 3 * spreads.min()


def test_a_grid_of_tokens_becomes_pictures() -> None:
    """Neighbours on the grid are neighbours on the plane, channel by channel."""
    values = np.zeros((50, 24), np.float32)
    values[1:] = np.arange(49)[:, None] * np.ones(24)
    plane, _ = prepare("affine-grid", fitted("vit").profile, [values]).to_plane(values)
    assert plane.shape == (4 * 7 + 1, 6 * 7)
    assert (np.diff(plane[:7, :7], axis=1) > 0).all()
    np.testing.assert_array_equal(plane[:7, :7], plane[7:14, 35:42])
