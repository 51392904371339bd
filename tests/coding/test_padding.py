"""Samples as batches leave them: padded, constant, tiny, huge. A fit rejects them, or can code them."""

import numpy as np
import pytest

import dtufc
from dtufc.coding.arrays import Array
from dtufc.coding.codecs.levels import LevelsCodec
from dtufc.coding.layout import Family, Layout
from dtufc.errors import InputError

ROWS, CHANNELS = 100, 24


def padded(seed: int, share: float, value: float = 0.0) -> Array:
    """[100, 24], of which the last rows are padding."""
    rows = np.random.default_rng(seed).standard_normal((ROWS, CHANNELS)).astype(np.float32)
    rows[round(ROWS * (1 - share)) :] = value
    return rows


def codes_its_own(samples: list[Array], **options: object) -> None:
    """A fit, and the samples through every codec that computes exactly, from the coarsest to the finest."""
    codec = dtufc.fit(samples, learned=False, **options)  # type: ignore[arg-type]
    largest = max(np.abs(sample).max() for sample in samples)
    for sample in samples:
        codec.decode(codec.encode(sample, codec="levels"))
        coarse, fine = (codec.decode(codec.encode(sample, quality=quality)) for quality in (0.0, 1.0))
        assert np.isfinite(coarse).all()
        np.testing.assert_allclose(fine, sample, atol=0.05 * largest)


@pytest.mark.parametrize("share", [0.6, 0.9, 0.99])
@pytest.mark.parametrize(("value", "word"), [(0.0, "zero"), (1.7, "the same"), (1e-12, "the same")])
def test_samples_that_are_mostly_padding_are_rejected_with_the_number_of_rows(
    share: float, value: float, word: str
) -> None:
    with pytest.raises(InputError, match=rf"{round(share * 400)} of 400 rows are {word}, as padding is\. Give each"):
        dtufc.fit([padded(seed, share, value) for seed in range(4)])


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_a_little_padding_is_fitted(share: float) -> None:
    codes_its_own([padded(seed, share) for seed in range(4)])


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.99])
def test_maps_of_which_most_positions_are_zero_are_fitted(share: float) -> None:
    samples = [padded(seed, share) for seed in range(4)]
    codes_its_own(samples, layout="vit")
    codes_its_own([sample.T.reshape(CHANNELS, 10, 10).copy() for sample in samples], layout="cnn")


@pytest.mark.parametrize("value", [0.0, 0.1, 1.0])
def test_constant_features_of_every_layout_are_fitted(value: float) -> None:
    codes_its_own([np.full((ROWS, CHANNELS), value, np.float32)] * 3)
    codes_its_own([np.full((CHANNELS, 10, 10), value, np.float32)] * 3, layout="cnn")
    codes_its_own([np.full((ROWS + 1, CHANNELS), value, np.float32)] * 3, layout="vit", prefix=1)


def test_a_grid_of_constant_rows_behind_a_class_token_is_fitted() -> None:
    """Nothing varies but the class token, and what rounding leaves must not be the unit of every step."""
    samples = [np.tile(padded(9, 0)[0], (ROWS + 1, 1)) for _ in range(3)]
    for seed, sample in enumerate(samples):
        sample[0] = 7 * padded(seed, 0)[0]
    codes_its_own(samples, layout="vit", prefix=1)


@pytest.mark.parametrize("scale", [1e-42, 1e-36, 1e19, 1e30])
@pytest.mark.parametrize(("layout", "shape"), [("llm", (40, 24)), ("cnn", (24, 8, 8))])
def test_features_beyond_the_arithmetic_are_rejected_with_the_range(
    scale: float, layout: str, shape: tuple[int, ...], rng: np.random.Generator
) -> None:
    samples = [(rng.standard_normal(shape) * scale).astype(np.float32) for _ in range(4)]
    with pytest.raises(InputError, match=r"root mean square of .*\. Scale them, to between 1e-30 and 1e\+16"):
        dtufc.fit(samples, layout=layout)


@pytest.mark.parametrize("scale", [1e-25, 1e-15, 1e15, 1e25])
def test_only_the_relative_size_of_gradients_counts(scale: float, rng: np.random.Generator) -> None:
    samples, gradients = ([rng.standard_normal((40, 24)).astype(np.float32) for _ in range(4)] for _ in range(2))
    scaled = [(gradient * scale).astype(np.float32) for gradient in gradients]
    codes_its_own(samples, gradients=scaled)


@pytest.mark.parametrize("kind", ["normal", "heavy tails", "log-normal", "massive"])
def test_levels_reach_every_value_that_they_were_fitted_to(kind: str) -> None:
    for seed in range(10):
        rng = np.random.default_rng(seed)
        shape = (40, 24)
        values = {
            "normal": rng.standard_normal(shape),
            "heavy tails": rng.standard_t(1, shape),
            "log-normal": np.exp(3 * rng.standard_normal(shape)),
            "massive": np.where(rng.random(shape) < 0.01, 3000 * rng.random(shape), rng.standard_normal(shape)),
        }[kind].astype(np.float32)
        LevelsCodec.fit([values], Layout(family=Family.llm)).encoder(values)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("far", [-50.0, 30_000.0])
def test_levels_reject_what_they_would_clip_far_off_and_klt_keeps_it(dtype: type, far: float) -> None:
    codec = dtufc.fit([padded(seed, 0) for seed in range(4)], learned=False)
    sent: Array = padded(9, 0).astype(dtype)
    codec.encode(sent, codec="levels")
    sent[3, 2:5] = far
    with pytest.raises(
        InputError, match=r"3 of 2400 values out of the range of the levels, -\d.* to \d.*'klt' or 'raw'"
    ):
        codec.encode(sent, codec="levels")
    got = codec.decode(codec.encode(sent, codec="klt", quality=1.0))
    assert np.abs(got[3, 2:5].astype(np.float64) - far).max() < 0.05 * abs(far)
