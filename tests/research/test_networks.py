"""The layers that coding runs, and CompressAI's under the same weights."""

from pathlib import Path

import numpy as np
import pytest
import torch

from dtufc.coding.codecs.learned import VARIANTS, shipped_network
from dtufc.coding.codecs.learned.integers import layers_of
from dtufc.coding.codecs.learned.network_file import build, load_network, read_network
from dtufc.coding.codecs.learned.networks import KINDS, Widths
from dtufc.errors import InputError
from dtufc_research.training import networks
from dtufc_research.training.network_file import save_network


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_ours_equal_compressais_bit_for_bit(name: str) -> None:
    ours = load_network(shipped_network(name)).network
    theirs = networks.load_trainable(shipped_network(name)).to(memory_format=torch.channels_last)
    plane = torch.randn(1, 1, 128, 192, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        rate = torch.tensor([3.3])
        y = ours.g_a(plane) * ours.gains.gain(rate)
        torch.testing.assert_close(y, theirs.analysis(plane, rate), rtol=0, atol=0)
        torch.testing.assert_close(ours.hyper_analysis(y), theirs.hyper_analysis(y), rtol=0, atol=0)
        decoded = ours.g_s(y.round() * ours.gains.inverse(rate))
        torch.testing.assert_close(decoded, theirs.synthesis(y.round(), rate), rtol=0, atol=0)


def test_the_integer_layers_of_elics_contexts_are_those_of_compressais_modules() -> None:
    ours = load_network(shipped_network("elic")).network
    theirs = networks.load_trainable(shipped_network("elic"))
    names = ["hyper.h_s", *(f"y.channel_context.y{k}" for k in range(1, 5))]
    names += [f"y.latent_codec.y{k}.{part}" for k in range(5) for part in ("context_prediction", "entropy_parameters")]
    for name in names:
        pairs = zip(*(layers_of(one.get_submodule(f"latent_codec.{name}")) for one in (ours, theirs)), strict=True)
        for mine, other in pairs:
            assert (mine.places, mine.is_transposed, mine.is_rectified) == (
                other.places,
                other.is_transposed,
                other.is_rectified,
            )
            assert torch.equal(mine.taps, other.taps)
            assert torch.equal(mine.bias, other.bias)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_any_widths_make_the_same_parameters(kind: str) -> None:
    widths = Widths(num_channels=12, num_latents=256, groups=(6, 10, 40, 200), context=(9, 7))
    ours, theirs = KINDS[kind](widths, (0.01, 0.1)), networks.KINDS[kind](widths, (0.01, 0.1))
    shapes = {name: value.shape for name, value in theirs.named_parameters() if "entropy_bottleneck" not in name}
    assert {name: value.shape for name, value in ours.named_parameters()} == shapes


def test_a_file_of_training_is_read_without_its_likelihoods(tmp_path: Path) -> None:
    path = tmp_path / "network.safetensors"
    widths = Widths(num_channels=8, num_latents=32, groups=(4, 4, 8, 16), context=(8, 8))
    save_network(path, "elic", widths, (0.01, 0.1), networks.KINDS["elic"](widths, (0.01, 0.1)), {})
    kept = read_network(path)
    assert any("entropy_bottleneck" in name for name in kept.weights)
    assert load_network(path).num_rates == 2
    del kept.weights["gains.log_gain"]
    with pytest.raises(RuntimeError, match="gains"):
        build(kept)
    with pytest.raises(InputError, match="Restore the file"):
        read_network(path.with_name("nothing"))
    assert np.isfinite(kept.weights["gains.log_inverse"]).all()
