"""What every codec keeps, on every layout, type and shape: the cases that test_codecs.py runs."""

from collections.abc import Mapping

import ml_dtypes
import numpy as np

import dtufc
from dtufc.coding.arrays import Array
from dtufc.coding.feature_codec import FeatureCodec

DTYPES = (np.float32, np.float16, ml_dtypes.bfloat16)
SAMPLES: Mapping[str, tuple[int, ...]] = {"llm": (40, 24), "vit": (2, 50, 24), "latent": (16, 9, 12), "cnn": (24, 7, 5)}
OTHER_SHAPES: Mapping[str, tuple[tuple[int, ...], ...]] = {
    "llm": ((1, 24), (3, 24), (1, 70, 24)),
    "vit": ((2, 24), (5, 24), (17, 24), (3, 37, 24)),
    "latent": ((16, 1, 1), (1, 16, 4, 7)),
    "cnn": ((24, 1, 1), (1, 24, 3, 8)),
}


def features(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Peaky values with a mean and a scale of their own in each channel, and neighbours that are alike."""
    channels_last = shape[-1] == 24
    values: Array = np.cumsum(rng.standard_t(3, size=shape), axis=-2 if channels_last else -1) * 0.3
    per_channel = np.linspace(0.2, 5, 24 if 24 in shape else 16)
    scale = per_channel if channels_last else per_channel[:, None, None]
    return (values * scale + 2 * np.sin(scale)).astype(np.float32)


def fitted(layout: str) -> FeatureCodec:
    """A profile fitted from ten features of that layout."""
    rng = np.random.default_rng(7)
    return dtufc.fit([features(rng, SAMPLES[layout]) for _ in range(10)], layout=layout, prefix=int(layout == "vit"))


def hostile(rng: np.random.Generator, shape: tuple[int, ...]) -> Mapping[str, Array]:
    """Features that no fit has seen."""
    outliers = features(rng, shape)
    outliers.flat[:: max(1, outliers.size // 7)] = 30_000.0
    return {
        "zeros": np.zeros(shape, np.float32),
        "constant": np.full(shape, 3.25, np.float32),
        "tiny": np.full(shape, 1e-6, np.float32),
        "huge": features(rng, shape) * np.float32(1000),
        "outliers": outliers,
        "noise": rng.standard_normal(shape).astype(np.float32) * 20,
    }
