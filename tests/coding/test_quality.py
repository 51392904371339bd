"""One meaning of quality: in every codec of a profile the same quality loses as much."""

from dataclasses import replace

import numpy as np
import pytest

import dtufc
from dtufc.coding.codecs.klt_transform import KltTransform
from dtufc.coding.codecs.learned import VARIANTS
from dtufc.coding.feature_codec import FeatureCodec, fit_calibration
from dtufc.coding.layout import Family, Layout
from dtufc.coding.quality import SETTINGS, range_of, relative_loss, setting_for
from dtufc.coding.rate import Rate
from dtufc.errors import InputError
from tests.coding.contract import SAMPLES, features, fitted_profile


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_the_same_quality_loses_as_much_on_features_that_were_not_fitted(
    codec: FeatureCodec, layout: str, name: str
) -> None:
    transform = KltTransform.from_arrays(codec.profile.of_codec("klt"), codec.profile.layout)
    others = [features(np.random.default_rng(seed), SAMPLES[layout]) for seed in range(100, 106)]
    low, high = codec.quality_ranges[name]
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
    _, high = codec.quality_ranges[name]
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


@pytest.mark.parametrize("name", ["klt", *sorted(VARIANTS)])
def test_an_encoder_goes_over_the_settings_of_a_codecs_own(codec: FeatureCodec, layout: str, name: str) -> None:
    sent = features(np.random.default_rng(3), SAMPLES[layout])
    encode = codec.encoder(sent, codec=name)
    sizes = [len(encode(setting)) for setting in (0.0, 0.5, 1.0)]
    assert sizes == sorted(sizes)
    if name == "klt":
        assert encode(0.3) == codec.encode(sent, quality=0.3)


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


@pytest.mark.parametrize(
    ("kind", "layout"),
    [
        ("whole", "llm"),
        ("binary", "llm"),
        ("constant", "llm"),
        ("zeros", "vit"),
        ("narrow", "llm"),
        ("flat grid", "vit"),
    ],
)
def test_features_that_a_codec_cannot_take_are_fitted_all_the_same(kind: str, layout: str) -> None:
    """As integers, of which a codec of levels makes outliers, or planes that are mostly padding."""
    rng = np.random.default_rng(4)
    shape = {"zeros": (17, 24), "flat grid": (17, 24), "narrow": (70_000, 1)}.get(kind, (40, 24))
    samples = []
    for _ in range(2 if kind == "narrow" else 6):
        values = rng.standard_normal(shape)
        values = {"whole": np.round(values), "binary": values > 0, "zeros": 0 * values}.get(kind, values)
        if kind in ("constant", "flat grid"):
            values[int(kind == "flat grid") :] = 3.25
        samples.append(values.astype(np.float32))
    codec = dtufc.fit(samples, layout=layout, prefix=int(layout == "vit"))
    for name, (low, high) in codec.quality_ranges.items():
        assert 0 <= low <= high <= 1, name
        if name in VARIANTS and kind != "narrow":
            assert codec.decode(codec.encode(samples[0], codec=name)).shape == shape


def test_progress_goes_on_until_the_end() -> None:
    shares: list[float] = []
    fit_calibration(
        [features(np.random.default_rng(k), SAMPLES["llm"]) for k in range(4)],
        Layout(family=Family.llm),
        progress=shares.append,
    )
    assert shares == sorted(shares)
    assert 0.8 < shares[-4] < shares[-3] < 1 == shares[-1]


def test_of_settings_that_lose_as_much_the_cheapest_is_taken() -> None:
    qualities = np.array([-0.2, 0.1, 0.2, 0.3, 0.4, 0.4, 0.4])
    assert setting_for(0.4, qualities, "elic") == SETTINGS[4]


def test_a_codec_that_reaches_no_quality_says_so_and_is_not_listed() -> None:
    profile = fitted_profile("llm")
    low = np.linspace(-0.9, -0.3, len(SETTINGS))
    codec = FeatureCodec(replace(profile, calibration={**profile.calibration, "quality.elic": low}))
    assert "elic" in codec.codecs
    assert "elic" not in codec.quality_ranges
    sent = features(np.random.default_rng(1), SAMPLES["llm"])
    for quality in (None, 0.0):
        with pytest.raises(InputError, match="elic reaches none of this profile"):
            codec.encode(sent, codec="elic", quality=quality)
    assert len(codec.encode(sent, codec="elic", max_bytes=1000)) <= 1000


def test_the_ends_of_a_range_are_in_reach_as_they_are_told() -> None:
    qualities = np.linspace(0.1237, 0.5963, len(SETTINGS))
    low, high = range_of(qualities) or (0, 0)
    assert (low, high) == (0.13, 0.59)
    assert setting_for(low, qualities, "elic") < setting_for(high, qualities, "elic")


def test_a_damaged_table_is_rejected() -> None:
    profile = fitted_profile("llm")
    for damaged in (np.zeros(3), np.full(len(SETTINGS), np.nan), np.arange(len(SETTINGS))[::-1] / 10.0):
        broken = FeatureCodec(replace(profile, calibration={**profile.calibration, "quality.elic": damaged}))
        with pytest.raises(InputError, match=r"quality\.elic is damaged"):
            broken.encode(np.ones((4, 24), np.float32), codec="elic", quality=0.2)
        assert "elic" not in broken.quality_ranges  # a cloud, which needs none, starts


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
        ("vit", (1 + 300, 1024), (1 + 63, 1024)),
    ],
)
def test_the_middle_of_features_is_features(family: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    layout = Layout(family=Family(family), prefix=int(family == "vit"))
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    part = layout.cropped(values, 4096)
    assert part.shape == expected
    layout.check(part.shape)
    assert np.isin(part, values).all()
    assert (layout.grid(part.shape) is None) == (layout.grid(shape) is None)


def test_the_middle_of_a_latent_keeps_its_patches() -> None:
    layout = Layout(family=Family.latent, patch=2)
    values = np.arange(16 * 38 * 38, dtype=np.float32).reshape(16, 38, 38)
    part = layout.cropped(values, 16 * 16 * 16)  # 16 of 38: from 11, were it not for the patches
    assert part[0, 0, 0] == values[0, 10, 10]
