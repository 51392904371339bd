"""A decoder of the learned codecs, written from the specification, agrees with the product."""

import json
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from dtufc.coding.arrays import Array
from dtufc.coding.bitstream import CodecId
from dtufc.coding.codecs.klt_transform import KltTransform
from dtufc.coding.codecs.learned.codec import LearnedCodec
from dtufc.coding.codecs.learned.network_file import load_network
from dtufc.coding.codecs.learned.plane import Coefficients
from tests.coding import contract, reference_learned
from tests.coding.test_golden import SHAPES
from tests.coding.test_golden_learned import (
    CASES,
    GOLDEN,
    QUALITIES,
    TOLERANCE,
    codec_of,
    klt_of,
    layout_of,
    network_path,
)


def decoded(name: str, family: str, payload: bytes, symbol_crc: int, shape: tuple[int, ...]) -> Array:
    return reference_learned.decode(
        reference_learned.Network.load(network_path(name)),
        load_file(GOLDEN / f"{family}.{name}.safetensors"),
        payload,
        symbol_crc,
        shape,
        layout_of(family),
        klt_of(family) if name == "kltprior" else None,
    )


def assert_alike(found: Array, expected: Array) -> None:
    """Equal within the tolerance of floating-point arithmetic."""
    is_outlier = np.abs(expected) >= 1e5
    np.testing.assert_allclose(found[is_outlier], expected[is_outlier], rtol=1e-5)
    tolerance = max(TOLERANCE * float(np.std(expected[~is_outlier])), 1e-6 * float(np.abs(expected).max()))
    np.testing.assert_allclose(found[~is_outlier], expected[~is_outlier], atol=tolerance, rtol=0)


@pytest.mark.parametrize("quality", QUALITIES)
@pytest.mark.parametrize("name", sorted(CASES))
@pytest.mark.parametrize("family", sorted(SHAPES))
def test_a_decoder_written_from_the_specification_agrees_on_golden_payloads(
    family: str, name: str, quality: float
) -> None:
    """It raises Desync if the CRC of its symbols differs."""
    kept: dict[str, Any] = json.loads((GOLDEN / "payloads.json").read_text(encoding="utf-8"))[
        f"{family}.{name}.{quality}"
    ]
    expected = np.array(kept["features"]).reshape(SHAPES[family])
    found = decoded(name, family, bytes.fromhex(kept["payload"]), kept["symbol_crc"], expected.shape)
    assert_alike(found, expected)


@pytest.mark.parametrize(
    ("family", "sampled", "shape"),
    [
        ("llm", (53, 40, 24), (1, 2120, 24)),
        ("vit", (3, 13, 24), (3, 13, 24)),
        ("cnn", (24, 20, 31), (1, 24, 20, 31)),
    ],
    ids=["two tiles", "tokens without a grid", "a latent of more than 4 x 4"],
)
@pytest.mark.parametrize("name", sorted(CASES))
def test_it_agrees_with_the_product_on_other_shapes(
    family: str, sampled: tuple[int, ...], shape: tuple[int, ...], name: str
) -> None:
    codec = codec_of(name, family)
    sent = contract.features(np.random.default_rng(2), sampled).reshape(shape)
    sent.flat[sent.size // 2] = 1e6
    payload = codec.encoder(sent)(0.6)
    expected = codec.decode(payload, shape, np.dtype(np.float32))
    assert_alike(decoded(name, family, payload.data, payload.symbol_crc, shape), expected)


@pytest.mark.parametrize("num_rows", [11, 17])
@pytest.mark.parametrize("kind", sorted(contract.WIDE))
def test_it_agrees_on_coefficients_of_few_directions(kind: str, num_rows: int) -> None:
    """Without blocks, whatever the profile has."""
    profile = contract.wide_profile(kind)
    klt, layout, path = profile.of_codec("klt"), profile.layout, network_path("kltprior")
    plane = Coefficients(transform=KltTransform.from_arrays(klt, layout), scale=1.0)
    codec = LearnedCodec(CodecId.kltprior, load_network(path), plane)
    sent = contract.wide(20, num_rows)
    payload = codec.encoder(sent)(0.6)
    arrays = {"scale": np.ones(1, np.float32)}
    network = reference_learned.Network.load(path)
    found = reference_learned.decode(network, arrays, payload.data, payload.symbol_crc, sent.shape, layout, klt)
    assert_alike(found, codec.decode(payload, sent.shape, np.dtype(np.float32)))
