"""The cases of the contract test (test_codecs.py): layouts, types and shapes; and features wider than their samples."""

from collections.abc import Mapping
from dataclasses import replace

import ml_dtypes
import numpy as np

import dtufc
from dtufc.coding.arrays import Array
from dtufc.coding.codecs.klt import KltCodec
from dtufc.coding.feature_codec import FeatureCodec, fit_calibration
from dtufc.coding.layout import Family
from dtufc.models.profile import LayoutSpec, Profile, ProfileSpec

DTYPES = (np.float32, np.float16, ml_dtypes.bfloat16)
SAMPLES: Mapping[str, tuple[int, ...]] = {"llm": (40, 24), "vit": (2, 50, 24), "latent": (16, 9, 12), "cnn": (24, 7, 5)}
OTHER_SHAPES: Mapping[str, tuple[tuple[int, ...], ...]] = {
    "llm": ((1, 24), (3, 24), (1, 70, 24)),
    "vit": ((2, 24), (5, 24), (17, 24), (3, 37, 24)),
    "latent": ((16, 1, 1), (1, 16, 4, 7)),
    "cnn": ((24, 1, 1), (1, 24, 3, 8)),
}


def features(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Peaky values with a mean and a scale for each channel, and correlated neighbours."""
    channels_last = shape[-1] == 24
    values: Array = np.cumsum(rng.standard_t(3, size=shape), axis=-2 if channels_last else -1) * 0.3
    per_channel = np.linspace(0.2, 5, 24 if 24 in shape else 16)
    scale = per_channel if channels_last else per_channel[:, None, None]
    return (values * scale + 2 * np.sin(scale)).astype(np.float32)


def fitted(layout: str) -> FeatureCodec:
    """The codec of a profile fitted to ten features of that layout."""
    return dtufc.fit(_fitting_samples(layout), layout=layout, prefix=int(layout == "vit"))


def fitted_profile(layout: str) -> Profile:
    """The profile of `fitted`."""
    sizes = LayoutSpec(family=Family(layout), channels=16 if layout == "latent" else 24, prefix=int(layout == "vit"))
    profile = Profile(spec=ProfileSpec(name="custom", layout=sizes), split=0, calibration={})
    return replace(profile, calibration=fit_calibration(_fitting_samples(layout), profile.layout)[0])


def _fitting_samples(layout: str) -> list[Array]:
    rng = np.random.default_rng(7)
    return [features(rng, SAMPLES[layout]) for _ in range(10)]


WIDE_CHANNELS = 48
WIDE: Mapping[str, tuple[Family, int, bool]] = {  # layout, rows of a sample, whether they lie along few directions
    "directions": (Family.llm, 40, True),
    "channels": (Family.llm, 40, False),
    "grid": (Family.vit, 17, True),
}


def wide(seed: int, num_rows: int, channels: int = WIDE_CHANNELS, *, along_few: bool = True) -> Array:
    """[num_rows, channels] along a few directions and some noise, or noise alone; the first row is massive."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((num_rows, channels)) * 0.3
    if along_few:
        rows += rng.standard_normal((num_rows, 8)) @ np.random.default_rng(99).standard_normal((8, channels))
    rows[0] *= 60
    return rows.astype(np.float32)


def wide_profile(kind: str, num_rows: int | None = None, channels: int = WIDE_CHANNELS) -> Profile:
    """A profile of klt alone, fitted to too few rows for a whole basis."""
    family, usual_rows, along_few = WIDE[kind]
    layout = LayoutSpec(family=family, channels=channels, prefix=int(family == Family.vit))
    profile = Profile(spec=ProfileSpec(name="custom", layout=layout), split=0, calibration={})
    made = [wide(seed, num_rows or usual_rows, channels, along_few=along_few) for seed in range(8)]
    klt = KltCodec.fit(made[:4], profile.layout, gradients=made[4:] if along_few else None)
    return replace(profile, calibration={f"klt.{name}": array for name, array in klt.arrays().items()})


def hostile(rng: np.random.Generator, shape: tuple[int, ...]) -> Mapping[str, Array]:
    """Features that no codec was fitted to."""
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
