"""Fitting: from ten features of any model, in seconds; and what gradients buy."""

import time
from typing import Any

import numpy as np
import pytest

import dtufc
from dtufc.coding.arrays import Array
from dtufc.coding.bitstream import parse, read_varint
from dtufc.coding.codecs import directions, klt_fit
from dtufc.coding.codecs.klt import KltCodec
from dtufc.coding.layout import Family, Layout
from dtufc.errors import InputError
from tests.coding.contract import wide


def test_ten_features_of_real_size_are_fitted_in_seconds() -> None:
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((384, 384)) * np.geomspace(3, 0.01, 384)
    samples = [(rng.standard_normal((1370, 384)) @ mixing).astype(np.float32) for _ in range(10)]
    start = time.process_time()  # a busy machine is no failure
    codec = dtufc.fit(samples, layout="vit", prefix=1)
    assert time.process_time() - start < 60
    frame = codec.encode(samples[0], quality=0.5)
    assert len(frame) < samples[0].nbytes / 8


@pytest.mark.parametrize(
    ("layout", "shape"),
    [("llm", (30, 12)), ("vit", (35, 12)), ("vit", (36, 12)), ("cnn", (12, 5, 5)), ("latent", (16, 8, 8))],
)
def test_the_fit_is_the_same_on_every_run(layout: str, shape: tuple[int, ...]) -> None:
    samples = [np.random.default_rng(k).standard_normal(shape).astype(np.float32) for k in range(10)]
    np.full((64, 1 << 14), np.nan)  # what an array without values would find in its place
    assert dtufc.fit(samples, layout=layout).profile.digest == dtufc.fit(samples, layout=layout).profile.digest


def test_gradients_move_the_error_to_where_it_does_not_count() -> None:
    """A model depends on one direction only: at equal size, a fit with its gradients keeps that direction better."""
    rng = np.random.default_rng(1)
    direction = np.ones(32) / np.sqrt(32)
    samples = [rng.standard_normal((64, 32)).astype(np.float32) for _ in range(10)]
    gradients = [np.tile(direction, (64, 1)).astype(np.float32) * rng.standard_normal((64, 1)) for _ in range(10)]
    gradients = [gradient.astype(np.float32) for gradient in gradients]
    unweighted, aware = dtufc.fit(samples), dtufc.fit(samples, gradients=gradients)
    features = rng.standard_normal((64, 32)).astype(np.float32)
    num_bytes = len(unweighted.encode(features, quality=0.3))

    def error(decoded: Array) -> float:
        return float(np.mean(((decoded - features) @ direction) ** 2))

    assert error(aware.decode(aware.encode(features, max_bytes=num_bytes))) < 0.5 * error(
        unweighted.decode(unweighted.encode(features, max_bytes=num_bytes))
    )


@pytest.mark.parametrize(
    ("samples", "match"),
    [
        ([], "none"),
        ([np.zeros((1, 8), np.float32)], "two rows"),
        ([np.zeros((4, 8), np.float32), np.zeros((4, 9), np.float32)], "channels"),
    ],
)
def test_invalid_samples_are_rejected(samples: list[Array], match: str) -> None:
    with pytest.raises(InputError, match=match):
        dtufc.fit(samples)


def test_constant_features_can_be_fitted_and_come_back() -> None:
    codec = dtufc.fit([np.full((6, 8), 2.5, np.float32)] * 3)
    decoded = codec.decode(codec.encode(np.full((6, 8), 2.5, np.float32)))
    np.testing.assert_allclose(decoded, 2.5, atol=1e-3)


def feature_maps(seed: int, channels: int, side: int) -> Array:
    """What a rectified convolution leaves: mostly zeros, and channels that go together."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).standard_normal((channels, channels)) * np.geomspace(2, 0.05, channels)
    return np.maximum(np.tensordot(mixing, rng.standard_normal((channels, side, side)), 1) - 1, 0).astype(np.float32)


@pytest.mark.parametrize(("channels", "side"), [(64, 3), (256, 4), (128, 8), (64, 20)])
def test_directions_of_however_few_positions_beat_the_channels_alone_on_other_feature_maps(
    channels: int, side: int
) -> None:
    samples, others = ([feature_maps(seed, channels, side) for seed in seeds] for seeds in (range(10), range(10, 20)))
    layout = Layout(family=Family.cnn)
    ours, alone = (KltCodec.fit(samples, layout, max_rank=rank) for rank in (None, 0))
    for quality in (0.5, 0.7):
        (size, error), (size_alone, error_alone) = (cost(codec, others, quality) for codec in (ours, alone))
        assert size < size_alone
        assert error < 1.05 * error_alone


def cost(codec: KltCodec, features: list[Array], quality: float) -> tuple[float, float]:
    """(bytes, mean squared error), means over the features."""
    payloads = [codec.encoder(one)(quality) for one in features]
    decoded = [codec.decode(p, one.shape, np.dtype(np.float32)) for p, one in zip(payloads, features, strict=True)]
    errors = [np.mean((a - b) ** 2) for a, b in zip(decoded, features, strict=True)]
    return float(np.mean([len(payload.data) for payload in payloads])), float(np.mean(errors))


def rows_of_few_directions(seed: int, num_rows: int, channels: int, num_directions: int) -> Array:
    """Tokens that vary along a few directions, and a little in every channel; the first row is massive."""
    rng, mixing = np.random.default_rng(seed), np.random.default_rng(99)
    directions = mixing.standard_normal((num_directions, channels)) * np.geomspace(3, 1, num_directions)[:, None]
    rows = rng.standard_normal((num_rows, num_directions)) @ directions + rng.standard_normal((num_rows, channels))
    rows[0] *= 40
    return rows.astype(np.float32)


@pytest.mark.parametrize("num_samples", [1, 2, 4, 10])
def test_fewer_rows_than_channels_are_fitted_without_loss_against_the_channels_alone(num_samples: int) -> None:
    """64 rows and less of 256 channels: a covariance has no full rank, and the fit must not believe it."""
    samples = [rows_of_few_directions(seed, 16, 256, 3) for seed in range(num_samples)]
    others = [rows_of_few_directions(seed, 40, 256, 3) for seed in range(100, 110)]
    layout = Layout(family=Family.llm)
    ours, alone = (KltCodec.fit(samples, layout, max_rank=rank) for rank in (None, 0))
    for quality in (0.3, 0.5):
        (size, error), (size_alone, error_alone) = (cost(codec, others, quality) for codec in (ours, alone))
        assert size < (0.95 if num_samples == 10 else 1.02) * size_alone
        assert error < 1.1 * error_alone


def test_rows_without_any_structure_get_the_channels_alone() -> None:
    """Directions of 80 independent rows describe those rows only: on others they would cost bits."""
    rng = np.random.default_rng(5)
    samples = [(rng.standard_normal((20, 256)) * np.geomspace(1, 4, 256)).astype(np.float32) for _ in range(4)]
    assert len(dtufc.fit(samples).profile.calibration["klt.basis"]) == 0


@pytest.mark.parametrize("channels", [64, 128, 256])
def test_tokens_that_resemble_their_neighbours_gain_from_blocks_and_lose_nothing_to_directions(channels: int) -> None:
    def text(seed: int, num_rows: int) -> Array:
        rng = np.random.default_rng(seed)
        rows = rng.standard_normal((num_rows, channels))
        for index in range(1, num_rows):
            rows[index] += 0.7 * rows[index - 1]
        return (rows + rng.standard_normal(channels)).astype(np.float32)

    samples, others = ([text(seed, 64) for seed in seeds] for seeds in (range(10), range(20, 26)))
    ours, alone = (KltCodec.fit(samples, Layout(family=Family.llm), max_rank=rank) for rank in (None, 0))
    (size, error), (size_alone, error_alone) = (cost(codec, others, 0.5) for codec in (ours, alone))
    assert size <= size_alone
    assert error <= error_alone
    isolated = np.mean([len(alone.encoder(row)(0.5).data) for one in others for row in np.split(one, 64)[:8]]) * 64
    assert size_alone < 0.9 * isolated


def test_one_sample_gives_the_directions_that_its_parts_agree_on() -> None:
    noise = np.random.default_rng(1).standard_normal((512, 256)).astype(np.float32)
    assert KltCodec.fit([noise], Layout(family=Family.llm)).transform.basis.rank == 0
    along_few = rows_of_few_directions(1, 512, 256, 3)
    assert KltCodec.fit([along_few], Layout(family=Family.llm)).transform.basis.rank > 0


@pytest.mark.parametrize(("channels", "lengths"), [(640, (1024, *[20] * 9)), (64, (900, 4, 5)), (256, (1024, 12, 10))])
def test_samples_of_very_different_lengths_are_fitted_with_gradients(channels: int, lengths: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    samples, gradients = ([rng.standard_normal((n, channels)).astype(np.float32) for n in lengths] for _ in range(2))
    codec = dtufc.fit(samples, gradients=gradients)
    np.testing.assert_allclose(codec.decode(codec.encode(samples[1], quality=1.0)), samples[1], atol=0.2)


def test_gradients_that_are_zero_are_rejected_and_one_sample_of_them_does_no_harm() -> None:
    samples = [rows_of_few_directions(seed, 60, 96, 3) for seed in range(5)]
    gradients = [np.random.default_rng(seed).standard_normal((60, 96)).astype(np.float32) for seed in range(5)]
    with pytest.raises(InputError, match="all are zero"):
        dtufc.fit(samples, gradients=[0 * gradient for gradient in gradients])
    report = dtufc.fit(samples, gradients=[*gradients[:4], 0 * gradients[4]]).report
    assert report is not None
    assert report.rank > 0


def test_a_row_at_the_border_to_an_outlier_is_seen_alike_by_fit_and_codec() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        row = rng.standard_normal(24).astype(np.float32)
        samples = [np.tile(row, (17, 1)) * rng.uniform(1, 1 + 1e-7) for _ in range(3)]
        samples = [sample.astype(np.float32) for sample in samples]
        samples[0][5] = 4 * row
        KltCodec.fit(samples, Layout(family=Family.vit, prefix=1))


def test_few_gradients_do_not_fit_themselves() -> None:
    """Gradients that carry over in two directions only must not cost what the other directions need."""
    rng = np.random.default_rng(6)
    read = np.linalg.qr(rng.standard_normal((192, 2)))[0].T
    samples = [rng.standard_normal((24, 192)).astype(np.float32) for _ in range(4)]
    gradients = [
        (rng.standard_normal((24, 2)) @ read * 8 + rng.standard_normal((24, 192))).astype(np.float32) for _ in range(4)
    ]
    plain, aware = (KltCodec.fit(samples, Layout(family=Family.llm), slopes) for slopes in (None, gradients))
    others = [rng.standard_normal((40, 192)).astype(np.float32) for _ in range(6)]

    def loss(codec: KltCodec, quality: float) -> tuple[float, float]:
        size, error = cost(codec, others, quality)
        decoded = [codec.decode(codec.encoder(x)(quality), x.shape, np.dtype(np.float32)) for x in others]
        along = np.mean(
            [np.mean(np.sum((((a - b) @ read.T) * 8) ** 2, axis=-1)) for a, b in zip(decoded, others, strict=True)]
        )
        return size, float(along + 192 * error)

    sizes, losses = zip(*(loss(plain, quality) for quality in (0.2, 0.35, 0.5, 0.65)), strict=True)
    for quality in (0.35, 0.5):
        size, found = loss(aware, quality)
        assert found < np.exp(np.interp(np.log(size), np.log(sizes), np.log(losses)))


def test_on_a_grid_large_rows_are_outliers_and_small_ones_are_not() -> None:
    codec = dtufc.fit([feature_maps(seed, 24, 6) for seed in range(10)], layout="cnn")
    features = feature_maps(11, 24, 6)
    usual = float(np.sqrt(np.mean(features**2)))
    features[:, 2:] = usual / 100
    features[:, 5, 5] = usual * 20
    payload = parse(codec.encode(features)).payload
    _, offset = read_varint(payload, 0)  # the step
    num_outliers, offset = read_varint(payload, offset)
    skipped, _ = read_varint(payload, offset)
    assert (num_outliers, skipped) == (1, 35)


def test_three_folds_are_enough_where_the_work_of_a_row_bounds_the_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directions, "_MAX_CELLS", 8 * 96)
    folds: list[int] = []
    tables = klt_fit._Fit._tables

    def counted(self: klt_fit._Fit, fitted: list[Any], *rest: Any) -> Any:
        folds.append(len(fitted))
        return tables(self, fitted, *rest)

    monkeypatch.setattr(klt_fit._Fit, "_tables", counted)
    for rows in (60, 3):  # of these, five folds allow more directions than three
        KltCodec.fit([wide(seed, rows, 96) for seed in range(10)], Layout(family=Family.llm))
    assert folds == [3, 5]
