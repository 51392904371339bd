"""Golden payloads of the learned codecs: later releases decode the same symbols from them.

`tests/golden/v1/learned/` has three small networks and, for each layout, a plane transform and payloads. The CRC of the
symbols must match; the features may differ within the tolerance of floating-point arithmetic.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from dtufc.coding.arrays import Array
from dtufc.coding.bitstream import CodecId
from dtufc.coding.codecs import Payload
from dtufc.coding.codecs.klt_transform import KltTransform
from dtufc.coding.codecs.learned.codec import LearnedCodec
from dtufc.coding.codecs.learned.network_file import load_network
from dtufc.coding.codecs.learned.networks import Kind, Widths
from dtufc.coding.codecs.learned.plane import Coefficients, Levels, PlaneTransform, fit_coefficients, fit_levels
from dtufc.coding.layout import Family, Layout
from dtufc.coding.transform import PeakyToBalanced
from tests.coding import contract
from tests.coding.test_golden import SHAPES

GOLDEN = Path(__file__).parents[1] / "golden" / "v1" / "learned"
WIDTHS = Widths(num_channels=8, num_latents=32, groups=(4, 4, 8, 16), context=(8, 8))
LAMBDAS = (0.001, 0.01, 0.1)
QUALITIES = (0.25, 0.9)
CASES: dict[str, Kind] = {
    "hyperprior": "hyperprior",
    "elic": "elic",
    "kltprior": "prior",
}  # the kind of each codec's network
TOLERANCE = 1e-3


def layout_of(family: str) -> Layout:
    return Layout(family=Family(family), channels=16 if family == "latent" else 24, prefix=int(family == "vit"))


def network_path(name: str) -> Path:
    return GOLDEN / f"{CASES[name]}.safetensors"


def klt_of(family: str) -> dict[str, Array]:
    """The arrays of `klt` in the golden profile of that layout."""
    arrays = load_file(GOLDEN.parent / family / "split0.safetensors")
    return {key.removeprefix("klt."): array for key, array in arrays.items() if key.startswith("klt.")}


def codec_of(name: str, family: str) -> LearnedCodec:
    arrays, layout = load_file(GOLDEN / f"{family}.{name}.safetensors"), layout_of(family)
    plane_transform: PlaneTransform
    if name == "kltprior":
        klt = KltTransform.from_arrays(klt_of(family), layout)
        plane_transform = Coefficients(transform=klt, scale=float(arrays["scale"][0]))
    else:
        plane_transform = Levels(transform=PeakyToBalanced(arrays["centroids"]), range=arrays["range"], layout=layout)
    return LearnedCodec(CodecId[name], load_network(network_path(name)), plane_transform)


def sent_features(family: str) -> Array:
    sent = contract.features(np.random.default_rng(41), SHAPES[family])
    sent.flat[5] = 1e6
    return sent


def write_golden() -> None:
    from dtufc_research.training.network_file import save_network  # needs CompressAI
    from dtufc_research.training.networks import KINDS

    GOLDEN.mkdir(parents=True, exist_ok=True)
    for kind in CASES.values():
        torch.manual_seed(3)
        widths = replace(WIDTHS, num_latents=256) if kind == "prior" else WIDTHS
        save_network(GOLDEN / f"{kind}.safetensors", kind, widths, LAMBDAS, KINDS[kind](widths, LAMBDAS), {})
    payloads = {}
    for family in SHAPES:
        samples = [contract.features(np.random.default_rng(k), contract.SAMPLES[family]) for k in range(10)]
        for name in CASES:
            if name == "kltprior":
                klt = KltTransform.from_arrays(klt_of(family), layout_of(family))
                arrays = {"scale": np.array([fit_coefficients(samples, klt).scale], np.float32)}
            else:
                levels = fit_levels(samples, layout_of(family))
                arrays = {"centroids": levels.transform.centroids, "range": levels.range}
            save_file(arrays, GOLDEN / f"{family}.{name}.safetensors")
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
    if request.config.getoption("--write-golden") and not GOLDEN.exists():
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
        if name != "kltprior":  # whose outliers come through the network, relative to their row's size
            assert decoded.flat[5] == np.float32(1e6)
        np.testing.assert_allclose(decoded, expected, atol=TOLERANCE * spread, rtol=1e-4)
