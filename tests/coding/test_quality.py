"""One meaning of quality: in every codec of a profile the same quality loses as much."""

from dataclasses import replace

import numpy as np
import pytest

from dtufc.coding.codecs.klt_transform import KltTransform
from dtufc.coding.codecs.learned import VARIANTS
from dtufc.coding.feature_codec import FeatureCodec, Rate
from dtufc.coding.layout import Family, Layout
from dtufc.coding.quality import SETTINGS, range_of, relative_loss, setting_for
from dtufc.errors import InputError
from tests.coding.contract import SAMPLES, features, fitted, fitted_profile

LAYOUTS = sorted(SAMPLES)


@pytest.fixture(scope="module", params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def codec(layout: str) -> FeatureCodec:
    return fitted(layout)


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_the_same_quality_loses_as_much_on_features_that_were_not_fitted(
    codec: FeatureCodec, layout: str, name: str
) -> None:
    transform = KltTransform.from_arrays(codec.profile.of_codec("klt"), codec.profile.layout)
    others = [features(np.random.default_rng(seed), SAMPLES[layout]) for seed in range(100, 106)]
    low, high = codec.quality_range(name)
    for share in (0.3, 0.6, 0.9):
        quality = low + share * (high - low)
        ours, theirs = (
            np.mean(
                [relative_loss(transform, x, codec.decode(codec.encode(x, codec=c, quality=quality))) for x in others]
            )
            for c in ("klt", name)
        )
        assert 0.5 < theirs / ours < 2, (quality, ours, theirs)  # a step of 0.1 is a factor of 2.3 to 4


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_a_quality_out_of_reach_is_rejected_with_those_in_reach(codec: FeatureCodec, layout: str, name: str) -> None:
    sent = features(np.random.default_rng(1), SAMPLES[layout])
    _, high = codec.quality_range(name)
    assert high < 1
    with pytest.raises(InputError, match=f"{name} reaches 0.[0-9]+ to {high:.2f} of this profile"):
        codec.encode(sent, codec=name, quality=1.0)
    with pytest.raises(InputError, match=f"{name} reaches"):
        codec.check_rate(name, Rate(quality=1.0))
    codec.check_rate(name, Rate(max_bytes=1))


def test_without_a_quality_it_is_the_default_or_the_nearest_in_reach() -> None:
    qualities = np.linspace(-0.2, 0.4, len(SETTINGS))
    assert range_of(qualities) == (0, 0.4)
    assert setting_for(None, qualities, "elic") == 1
    assert setting_for(0.4, qualities, "elic") == 1
    assert setting_for(0.0, qualities, "elic") == pytest.approx(np.interp(0.0, qualities, SETTINGS))
    assert setting_for(None, qualities + 1.2, "elic") == 0


def test_what_quality_means_is_the_encoders_alone() -> None:
    profile = fitted_profile("llm")
    kept = {key: array for key, array in profile.calibration.items() if not key.startswith("quality.")}
    assert len(kept) == len(profile.calibration) - len(VARIANTS)
    without = FeatureCodec(replace(profile, calibration=kept))
    assert without.profile.digest == profile.digest
    sent = features(np.random.default_rng(1), SAMPLES["llm"])
    frame = FeatureCodec(profile).encode(sent, codec="kltprior", quality=0.3)
    assert without.decode(frame).shape == sent.shape
    assert set(without.quality_ranges) == {"klt"}
    with pytest.raises(InputError, match="does not say what quality means for kltprior"):
        without.encode(sent, codec="kltprior")
    assert len(without.encode(sent, codec="kltprior", max_bytes=len(frame))) <= len(frame)


def test_a_damaged_table_is_rejected() -> None:
    profile = fitted_profile("llm")
    for damaged in (np.zeros(3), np.full(len(SETTINGS), np.nan), np.arange(len(SETTINGS))[::-1] / 10.0):
        broken = FeatureCodec(replace(profile, calibration={**profile.calibration, "quality.elic": damaged}))
        with pytest.raises(InputError, match=r"quality\.elic is damaged"):
            broken.encode(np.ones((4, 24), np.float32), codec="elic", quality=0.2)


@pytest.mark.parametrize(
    ("family", "shape", "expected"),
    [
        ("llm", (300, 8), (300, 8)),
        ("llm", (1, 3000, 8), (512, 8)),
        ("llm", (300, 4096), (64, 4096)),
        ("vit", (2, 1 + 37 * 37, 16), (1 + 16 * 16, 16)),
        ("vit", (1 + 5 * 5, 4096), (1 + 5 * 5, 4096)),
        ("vit", (1 + 20, 16), (1 + 20, 16)),
        ("cnn", (4096, 20, 9), (4096, 8, 8)),
        ("latent", (16, 64, 30), (16, 16, 16)),
    ],
)
def test_the_middle_of_features_is_features(family: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    layout = Layout(family=Family(family), prefix=int(family == "vit"))
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    part = layout.cropped(values, 4096)
    assert part.shape == expected
    layout.check(part.shape)
    assert np.isin(part, values).all()
