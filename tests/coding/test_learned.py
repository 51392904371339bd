"""What the learned codecs are made of: the plane, the integer networks, the tiles, the network's file."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import dtufc
from dtufc.coding.arrays import Array
from dtufc.coding.codecs import Payload
from dtufc.coding.codecs.klt_transform import KltTransform
from dtufc.coding.codecs.learned import VARIANTS, shipped_network
from dtufc.coding.codecs.learned.codec import LearnedCodec
from dtufc.coding.codecs.learned.integers import ONE, Layer, layers_of, run
from dtufc.coding.codecs.learned.latents import Writer
from dtufc.coding.codecs.learned.network_file import load_network
from dtufc.coding.codecs.learned.networks import KINDS, Widths, in_strips
from dtufc.coding.codecs.learned.plane import Coefficients, PlaneTransform, fit_levels
from dtufc.coding.entropy import Encoder
from dtufc.coding.layout import Family, Layout
from dtufc.errors import Corrupt, InputError
from tests.coding.contract import OTHER_SHAPES, SAMPLES, features, fitted, fitted_profile

LIMIT = (1 << 23) - 1  # of an activation


@pytest.mark.parametrize("family", sorted(SAMPLES))
def test_a_plane_of_levels_holds_every_value_once(family: str, rng: np.random.Generator) -> None:
    """What comes back is what the levels keep, so a second way round changes nothing."""
    layout = Layout(family=Family(family), prefix=int(family == "vit"))
    plane_transform = fit_levels([features(rng, SAMPLES[family]) for _ in range(3)], layout)
    for shape in (SAMPLES[family], *OTHER_SHAPES[family]):
        sent = features(rng, shape)
        plane, once = there_and_back(plane_transform, sent)
        is_level = plane != 127.5  # which replaces an outlier
        assert (plane[is_level] % 1 == 0).all()
        again, _ = there_and_back(plane_transform, once)
        np.testing.assert_array_equal(again[is_level], plane[is_level])
        assert np.median(np.abs(once - sent)) < 0.05 * np.abs(sent).max()


@pytest.mark.parametrize("family", sorted(SAMPLES))
def test_a_plane_of_coefficients_loses_nothing(family: str, rng: np.random.Generator) -> None:
    """Nor are outliers clipped: their integer parts are stored in the head."""
    codec = fitted(family)._codec("kltprior")
    assert isinstance(codec, LearnedCodec)
    for shape in (SAMPLES[family], *OTHER_SHAPES[family]):
        sent = features(rng, shape)
        sent.flat[sent.size // 2] = 3e4
        plane, once = there_and_back(codec.plane_transform, sent)
        assert np.abs(plane - 127.5).max() <= 256 * 64
        np.testing.assert_allclose(once, sent, rtol=1e-3, atol=0.1)


def there_and_back(plane_transform: PlaneTransform, sent: Array) -> tuple[Array, Array]:
    """(the plane, what is made of it again)."""
    plane, head = plane_transform.to_plane(sent)
    read, offset = plane_transform.read_head(head + b"rest", 0, sent.shape)
    assert offset == len(head)
    assert read.plane_shape == plane.shape
    got = read.features(plane)
    assert got.shape == sent.shape
    return plane, got


def test_coefficients_are_large_at_the_top_left(rng: np.random.Generator) -> None:
    """Components of falling variance across; behind the prefix, rising frequencies down."""
    plane_transform = fitted("vit")._codec("kltprior").plane_transform  # type: ignore[attr-defined]
    planes = [plane_transform.to_plane(features(rng, (50, 24)))[0] - 127.5 for _ in range(20)]
    power = np.mean(np.square(planes), axis=0)
    assert power.shape == (50, 24)
    assert power[1:9, :8].mean() > 10 * power[-8:, -8:].mean()


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv2d(6, 5, 5, padding=2),
        nn.Conv2d(6, 5, 1),
        nn.ConvTranspose2d(6, 5, 5, stride=2, padding=2, output_padding=1),
        nn.ConvTranspose2d(6, 5, 3, stride=1, padding=1),
    ],
    ids=["conv", "pointwise", "transposed", "transposed, stride 1"],
)
def test_integer_layers_do_what_the_float_ones_do(module: nn.Module, rng: np.random.Generator) -> None:
    x = torch.from_numpy(np.rint(rng.standard_normal((7, 9, 6)) * 3 * ONE))
    modules = nn.Sequential(module, nn.ReLU())
    with torch.no_grad():
        expected = modules((x / ONE).permute(2, 0, 1)[None].float())[0].permute(1, 2, 0)
    got = run(layers_of(modules), x)
    assert (got == got.round()).all()
    np.testing.assert_allclose(got / ONE, expected, atol=0.01)


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (6, 1), (5, 3)])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_integer_layers_add_up_what_lies_under_the_kernel(
    kernel: int, size: tuple[int, int], rng: np.random.Generator
) -> None:
    (layer,) = layers_of(nn.Conv2d(3, 4, kernel, padding=kernel // 2))
    x = rng.integers(-LIMIT, LIMIT, (*size, 3))
    padded = np.pad(x, ((kernel // 2,) * 2, (kernel // 2,) * 2, (0, 0)))
    expected = np.array([unbounded(layer, padded[r : r + kernel, c : c + kernel]) for r, c in np.ndindex(size)])
    assert np.mean(np.abs(expected) < LIMIT) > 0.5
    got = layer(torch.from_numpy(x).double())
    np.testing.assert_array_equal(got.reshape(-1, 4), expected)
    wanted = torch.arange(0, len(expected), 2)
    np.testing.assert_array_equal(layer.at(wanted, torch.from_numpy(x).double()), expected[::2])


def test_the_largest_activations_add_up_exactly() -> None:
    """At the limits every product and sum is the integer that unbounded arithmetic gives."""
    conv = nn.Conv2d(600, 2, 5, padding=2)
    with torch.no_grad():
        conv.weight.uniform_(0.4, 0.999)
        conv.weight[:, 300:] = conv.weight[:, :300]
    (layer,) = layers_of(conv)
    x = torch.full((5, 5, 600), 1e300, dtype=torch.float64)
    x[..., 300:] = -1e300  # so that sums rise to their limit, and fall again to where they are not clipped
    x[0, 0, 0] = 12345
    expected = unbounded(layer, x.clamp(-LIMIT, LIMIT).numpy().astype(np.int64))
    assert (np.abs(expected) < LIMIT).all()
    np.testing.assert_array_equal(layer(x)[2, 2], expected)


def unbounded(layer: Layer, under: Array) -> Array:
    """[out] by the specification, in int64, from the [k, k, in] inputs under a kernel of weights below 1."""
    taps, bias = ((array.numpy() * 2**14).astype(np.int64) for array in (layer.taps, layer.bias))
    total = np.einsum("ijc,ijco->o", under, taps) + bias
    return np.clip([round(Fraction(int(one), 2**14)) for one in total], -LIMIT, LIMIT)


@pytest.mark.parametrize("half", ["g_a", "g_s"])
def test_strips_make_what_the_whole_plane_makes(half: str, rng: np.random.Generator) -> None:
    network = load_network(shipped_network("elic")).network
    transform = getattr(network, half)
    shape = (1, 1, 1024, 384) if half == "g_a" else (1, 256, 64, 24)  # inside, [64, 512, 192]
    x = torch.from_numpy(rng.standard_normal(shape).astype(np.float32))
    with torch.inference_mode():
        whole, strips = transform(x), in_strips(transform, x)
    torch.testing.assert_close(strips, whole, rtol=1e-4, atol=1e-4)


def test_weights_out_of_the_exact_range_are_rejected() -> None:
    with pytest.raises(ValueError, match="too many"):
        layers_of(nn.Conv2d(700, 1, 5))


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_a_plane_too_large_for_one_piece_is_tiled(name: str) -> None:
    codec = fitted("llm")
    sent = np.concatenate([features(np.random.default_rng(seed), SAMPLES["llm"]) for seed in range(55)])  # [2200, 24]
    got = codec.decode(codec.encode(sent, codec=name, quality=codec.quality_ranges[name][1]))
    assert np.median(np.abs(got - sent)) < 0.25 * np.median(np.abs(sent))


def test_a_profile_fitted_for_another_network_is_rejected_by_name(tmp_path: Path) -> None:
    profile = fitted_profile("llm")
    other = {**profile.calibration, "elic.network": np.zeros(32, np.uint8)}
    replace(profile, calibration=other).save(tmp_path)
    sent: Array = features(np.random.default_rng(2), SAMPLES["llm"])
    loaded = dtufc.load(tmp_path)
    assert loaded.decode(loaded.encode(sent, codec="klt")).shape == sent.shape
    with pytest.raises(InputError, match="another network of elic"):
        loaded.encode(sent, codec="elic")


def test_a_damaged_network_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "network.safetensors"
    path.write_bytes(shipped_network("hyperprior").read_bytes()[:-1000])
    with pytest.raises(InputError, match="Restore the file"):
        load_network(path)


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_the_wildest_symbols_decode_to_finite_features(name: str) -> None:
    """A forged stream may hold any symbol. The synthesis may then overflow, and the head must not get the result."""
    codec = fitted("llm")._codec(name)
    assert isinstance(codec, LearnedCodec)
    shape = (40, 24)
    encoder = Encoder()
    coding = Forger(encoder, codec.trained.tables)
    codec.trained.latents.transcode(coding, (4, 4), None, None)
    no_outliers = b"\x00\x00" if name == "kltprior" else b"\x00"
    payload = Payload(data=b"\x00" + no_outliers + encoder.finish(), symbol_crc=encoder.crc)
    got = codec.decode(payload, shape, np.dtype(np.float32))
    assert np.isfinite(got).all()


class Forger(Writer):
    """Writes the largest symbols that an escape can hold, of either sign."""

    def side(self, z: Array | None, shape: tuple[int, int, int]) -> Array:
        return super().side(np.full((shape[0], shape[1], shape[2]), 1e9), shape)

    def latents(self, classes: Array, y: Array | None) -> Array:
        wild = np.where(np.arange(len(classes)) % 2, 1, -1) * ((1 << 31) - 1)
        for row in np.unique(classes):
            self._encoder.write(self._tables.latent, int(row), wild[classes == row].astype(np.int32))
        return wild.astype(np.int32)


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_a_few_bytes_cannot_claim_a_plane_of_padding(name: str) -> None:
    narrow = [np.arange(64, dtype=np.float32)[:, None] for _ in range(3)]
    codec = dtufc.fit(narrow, layout="llm")._codec(name)
    with pytest.raises(Corrupt, match="padding"):
        codec.decode(Payload(data=bytes(8), symbol_crc=0), (1 << 24, 1), np.dtype(np.float32))
    with pytest.raises(InputError, match="padding"):
        codec.encoder(np.zeros((1 << 20, 1), np.float32))


def test_another_number_of_channels_is_rejected_where_the_layout_takes_any() -> None:
    fitted_codec = fitted("llm")._codec("kltprior")
    assert isinstance(fitted_codec, LearnedCodec)
    assert isinstance(fitted_codec.plane_transform, Coefficients)
    any_width = KltTransform(fitted_codec.plane_transform.transform.c, Layout(family=Family.llm))
    plane_transform = replace(fitted_codec.plane_transform, transform=any_width)
    codec = LearnedCodec(fitted_codec.id, fitted_codec.trained, plane_transform)
    with pytest.raises(InputError, match="25 channels"):
        codec.encoder(np.zeros((8, 25), np.float32))
    with pytest.raises(Corrupt, match="25 channels"):
        codec.decode(Payload(data=bytes(8), symbol_crc=0), (8, 25), np.dtype(np.float32))


def test_coefficients_out_of_range_are_rejected() -> None:
    sent = features(np.random.default_rng(2), SAMPLES["llm"])
    sent[3] = 1e30
    with pytest.raises(InputError, match="out of the range"):
        fitted("llm").encode(sent, codec="kltprior")


def test_a_prior_holds_a_block_and_nothing_else() -> None:
    with pytest.raises(ValueError, match="256 latents, not 32"):
        KINDS["prior"](Widths(num_latents=32), (0.1,))
