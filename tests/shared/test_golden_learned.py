"""Golden payloads of the learned codecs: later releases read the same symbols out of them.

Below `tests/golden/v1/learned/` there are two small networks and, for each layout, a preparation and payloads. The
payload's CRC is of the symbols, and must fit; the features may differ in what float arithmetic leaves open.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from dtufc.arrays import Array
from dtufc.bitstream import CodecId
from dtufc.codecs import Payload
from dtufc.codecs.learned.codec import LearnedCodec
from dtufc.codecs.learned.network_file import build, load_network, save_network
from dtufc.codecs.learned.networks import KINDS, Widths
from dtufc.codecs.learned.plane import Preparation, fit_preparation
from dtufc.layout import Family, Layout
from dtufc.transform import PeakyToBalanced
from tests.shared import contract
from tests.shared.test_golden import SHAPES

GOLDEN = Path(__file__).parents[1] / "golden" / "v1" / "learned"
WIDTHS = Widths(num_channels=8, num_latents=32, groups=(4, 4, 8, 16), context=(8, 8))
LAMBDAS = (0.001, 0.01, 0.1)
QUALITIES = (0.25, 0.9)
CASES = {"hyperprior": (False, False), "elic": (False, False), "gridprior": (True, True)}  # per_channel, keeps_grid
TOLERANCE = 1e-3


def layout_of(family: str) -> Layout:
    return Layout(family=Family(family), channels=16 if family == "latent" else 24, prefix=int(family == "vit"))


def network_path(name: str) -> Path:
    return GOLDEN / f"{'elic' if name == 'elic' else 'hyperprior'}.safetensors"


def codec_of(name: str, family: str) -> LearnedCodec:
    arrays = load_file(GOLDEN / f"{family}.{name}.safetensors")
    preparation = Preparation(
        transform=PeakyToBalanced(arrays["centroids"]),
        mean=arrays["mean"],
        scale=arrays["scale"],
        range=arrays["range"],
        keeps_grid=CASES[name][1],
    )
    return LearnedCodec(CodecId[name], load_network(network_path(name)), preparation, layout_of(family))


def sent_features(family: str) -> Array:
    sent = contract.features(np.random.default_rng(41), SHAPES[family])
    sent.flat[5] = 1e6
    return sent


def write_golden() -> None:
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for kind in ("hyperprior", "elic"):
        torch.manual_seed(3)
        network = KINDS[kind](WIDTHS, LAMBDAS)
        weights = {name: value.detach().numpy() for name, value in network.named_parameters()}
        save_network(GOLDEN / f"{kind}.safetensors", kind, WIDTHS, LAMBDAS, build(kind, WIDTHS, LAMBDAS, weights), {})
    payloads = {}
    for family in SHAPES:
        samples = [contract.features(np.random.default_rng(k), contract.SAMPLES[family]) for k in range(10)]
        for name, (per_channel, keeps_grid) in CASES.items():
            fitted = fit_preparation(samples, layout_of(family), per_channel=per_channel, keeps_grid=keeps_grid)
            arrays = {"centroids": fitted.transform.centroids, "mean": fitted.mean, "scale": fitted.scale}
            save_file({**arrays, "range": fitted.range}, GOLDEN / f"{family}.{name}.safetensors")
            for quality in QUALITIES:
                sent = sent_features(family)
                payload = codec_of(name, family).encoder(sent)(quality)
                decoded = codec_of(name, family).decode(payload, sent.shape, np.dtype(np.float32))
                payloads[f"{family}.{name}.{quality}"] = {
                    "payload": payload.data.hex(),
                    "symbol_crc": payload.symbol_crc,
                    "features": [float(f"{value:.6g}") for value in decoded.ravel()],
                }
    (GOLDEN / "payloads.json").write_text(json.dumps(payloads, indent=0) + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def golden(request: pytest.FixtureRequest) -> dict[str, dict[str, object]]:
    if request.config.getoption("--write-golden"):
        write_golden()
    found: dict[str, dict[str, object]] = json.loads((GOLDEN / "payloads.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("name", sorted(CASES))
@pytest.mark.parametrize("family", sorted(SHAPES))
def test_golden_payloads_decode_to_the_same_symbols(
    golden: dict[str, dict[str, object]], family: str, name: str
) -> None:
    for quality in QUALITIES:
        kept = golden[f"{family}.{name}.{quality}"]
        payload = Payload(data=bytes.fromhex(str(kept["payload"])), symbol_crc=int(str(kept["symbol_crc"])))
        decoded = codec_of(name, family).decode(payload, SHAPES[family], np.dtype(np.float32))
        expected = np.array(kept["features"], np.float32).reshape(SHAPES[family])
        spread = float(np.std(expected[expected < 1e5]))
        assert decoded.flat[5] == np.float32(1e6)
        np.testing.assert_allclose(decoded, expected, atol=TOLERANCE * spread, rtol=1e-4)
