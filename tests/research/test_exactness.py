"""References for learned codecs: the floating-point network's ideal code length, and a codec without a network."""

import numpy as np
import pytest

from dtufc.coding.codecs.learned import shipped_network
from dtufc.coding.codecs.learned.network_file import load_network
from dtufc_research.paper.exactness import rate_overhead
from dtufc_research.paper.scalar import ScalarCodec
from dtufc_research.training.networks import load_trainable
from dtufc_research.training.plane_transforms import PlaneTransformKind, fit_plane_transform
from tests.coding.contract import SAMPLES, features, fitted_profile


@pytest.mark.parametrize("name", ["hyperprior", "elic"])
def test_streams_are_within_a_percent_of_the_float_networks_ideal(name: str, rng: np.random.Generator) -> None:
    walk = np.cumsum(rng.standard_normal((512, 256)), axis=0)
    plane = np.clip(127.5 + 6 * walk, 0, 255).astype(np.float32)
    trained, network = load_network(shipped_network(name)), load_trainable(shipped_network(name))
    for quality in (0.4, 0.7, 1.0):
        cost = rate_overhead(trained, network, [plane], quality)
        assert cost.share < 0.01  # below zero: the tables have wider tails than normal
        assert 0 < cost.end_bytes < 12  # two words, and how many bytes of escapes there are


@pytest.mark.parametrize("kind", ["paper", "truncate"])
def test_a_scalar_codec_decodes_within_its_step(kind: PlaneTransformKind, rng: np.random.Generator) -> None:
    samples = [features(rng, SAMPLES["llm"]) for _ in range(10)]
    plane_transform = fit_plane_transform(kind, fitted_profile("llm"), samples)
    errors, sizes = [], []
    for step in (2.0, 8.0, 32.0):
        codec = ScalarCodec(plane_transform, samples, step)
        data = codec.encode(samples[0])
        sizes.append(len(data))
        plane, again = (
            plane_transform.to_plane(values)[0] for values in (samples[0], codec.decode(data, samples[0].shape))
        )
        errors.append(np.abs(again - plane).max())
    assert sizes == sorted(sizes, reverse=True)
    assert errors[0] <= 3
    assert errors == sorted(errors)
