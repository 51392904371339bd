"""The codecs' networks as they are trained, from CompressAI: one input and output channel, one network for all rates.

    x --g_a--> y --gain(rate)--> y_g --round--> y_hat --inverse gain(rate)--> g_s --> x_hat
                                  |                ^
                                 h_a --> z_hat --> h_s: the scales of y_hat

The library runs the same layers under the same names without CompressAI (`dtufc.coding.codecs.learned.networks`); the
likelihoods are here alone. Training starts from a Walsh-Hadamard packet transform of 16 x 16 blocks, the stages'
kernels orthonormal and the residual branches silent, not from noise.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from dtufc.coding.arrays import Array
from dtufc.coding.codecs.learned.network_file import read_network
from dtufc.coding.codecs.learned.networks import BLOCK, GainUnit, Widths

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # CompressAI compiles with torch.jit, which warns that it will go
    from compressai.layers import GDN, AttentionBlock
    from compressai.models import Elic2022Official, ScaleHyperprior
    from compressai.models.sensetime import ResidualBottleneckBlock
    from compressai.models.utils import conv, deconv
    from compressai.ops import quantize_ste


@dataclass(frozen=True, slots=True)
class Coded:
    """The output of a network for a batch in training.

    Attributes:
        plane: [B, 1, H, W], decoded.
        bits: [B], the code length of each.
    """

    plane: Tensor
    bits: Tensor


class Hyperprior(ScaleHyperprior):
    """Balle et al. 2018 with one input channel and a gain unit.

    Attributes:
        uses_noise: whether, in training, the decoder gets values with noise, as in the paper. Otherwise it gets rounded
            values, and only the code length is computed with noise: mixed quantization (Minnen and Singh 2020,
            arXiv 2007.08739).
    """

    uses_noise = False

    def __init__(self, widths: Widths, lambdas: Sequence[float]) -> None:
        super().__init__(widths.num_channels, widths.num_latents)
        self.g_a[0] = conv(1, widths.num_channels)
        self.g_s[-1] = deconv(widths.num_channels, 1)
        self.gains = GainUnit(widths.num_latents, lambdas)
        self.entropy_bottleneck.quantiles.requires_grad_(False)  # medians stay 0; our tables need no quantiles
        _start_from_hadamard(self.g_a, self.g_s)
        nn.init.constant_(self.h_s[4].bias, 1.0)

    def forward(self, plane: Tensor, rate: Tensor) -> Coded:
        y = self.analysis(plane, rate)
        z = self.hyper_analysis(y)
        with torch.autocast(plane.device.type, enabled=False):
            z_noisy, z_likelihoods = self.entropy_bottleneck(z.float())
        scales = self.h_s(z_noisy if self.uses_noise else quantize_ste(z.float()))
        with torch.autocast(plane.device.type, enabled=False):
            y_noisy, y_likelihoods = self.gaussian_conditional(y, scales.float())
        y_hat = y_noisy if self.uses_noise else quantize_ste(y)
        return Coded(self.synthesis(y_hat, rate), _bits(y_likelihoods) + _bits(z_likelihoods))

    def analysis(self, plane: Tensor, rate: Tensor) -> Tensor:
        return self.g_a(plane).float() * self.gains.gain(rate)

    def synthesis(self, y_hat: Tensor, rate: Tensor) -> Tensor:
        return self.g_s(y_hat * self.gains.inverse(rate)).float()

    def hyper_analysis(self, y: Tensor) -> Tensor:
        return self.h_a(torch.abs(y))

    @property
    def side_prior(self) -> Any:
        return self.entropy_bottleneck


class Prior(Hyperprior):
    """The hyperprior alone, for planes of coefficients: a latent holds a block's values unchanged, one a channel.

    There is no transform: the decoded values are the rounded ones, on any plane.
    """

    def __init__(self, widths: Widths, lambdas: Sequence[float]) -> None:
        if widths.num_latents != BLOCK**2:
            raise ValueError(f"a prior has {BLOCK**2} latents, not {widths.num_latents}")
        super().__init__(widths, lambdas)
        self.g_a = nn.Sequential(nn.PixelUnshuffle(BLOCK))
        self.g_s = nn.Sequential(nn.PixelShuffle(BLOCK))


class Elic(Elic2022Official):
    """He et al. 2022 with one input channel, a gain unit, and a channel context of configurable width."""

    def __init__(self, widths: Widths, lambdas: Sequence[float]) -> None:
        super().__init__(widths.num_channels, widths.num_latents, groups=list(widths.groups))
        self.g_a[0] = conv(1, widths.num_channels)
        self.g_s[-1] = deconv(widths.num_channels, 1)
        first, second = widths.context
        for k, start in list(enumerate(accumulate(self.groups)))[:-1]:
            self.latent_codec["y"].channel_context[f"y{k + 1}"] = nn.Sequential(
                conv(start, first, stride=1),
                nn.ReLU(inplace=True),
                conv(first, second, stride=1),
                nn.ReLU(inplace=True),
                conv(second, 2 * self.groups[k + 1], stride=1),
            )
        self.gains = GainUnit(widths.num_latents, lambdas)
        self.side_prior.quantiles.requires_grad_(False)  # as in Hyperprior
        _start_from_hadamard(self.g_a, self.g_s)
        for k, size in enumerate(self.groups):
            last = self.latent_codec["y"].latent_codec[f"y{k}"].entropy_parameters[-1]
            with torch.no_grad():
                last.weight.mul_(0.1)
                last.bias.copy_(torch.cat([torch.ones(size), torch.zeros(size)]))

    def forward(self, plane: Tensor, rate: Tensor) -> Coded:
        y = self.analysis(plane, rate)
        z = self.hyper_analysis(y)
        hyper = self.latent_codec["hyper"]
        with torch.autocast(plane.device.type, enabled=False):
            _, z_likelihoods = hyper.entropy_bottleneck(z.float())
            z_hat = quantize_ste(z.float())
        with torch.autocast(plane.device.type, enabled=False):
            out = self.latent_codec["y"](y, hyper.h_s(z_hat).float())
        return Coded(self.synthesis(out["y_hat"], rate), _bits(out["likelihoods"]["y"]) + _bits(z_likelihoods))

    def analysis(self, plane: Tensor, rate: Tensor) -> Tensor:
        return self.g_a(plane).float() * self.gains.gain(rate)

    def synthesis(self, y_hat: Tensor, rate: Tensor) -> Tensor:
        return self.g_s(y_hat * self.gains.inverse(rate)).float()

    def hyper_analysis(self, y: Tensor) -> Tensor:
        return self.latent_codec["hyper"].h_a(y)

    @property
    def side_prior(self) -> Any:
        return self.latent_codec["hyper"].entropy_bottleneck


KINDS: Final[dict[str, type[Hyperprior] | type[Elic]]] = {"hyperprior": Hyperprior, "elic": Elic, "prior": Prior}


def load_trainable(path: Path) -> Hyperprior | Elic:
    """The network of a file, with its likelihoods. Raises InputError if the file is missing or damaged."""
    kept = read_network(path)
    return with_weights(kept.kind, kept.widths, kept.lambdas, kept.weights)


def with_weights(kind: str, widths: Widths, lambdas: Sequence[float], weights: dict[str, Array]) -> Hyperprior | Elic:
    """A network with these weights, by the names of its parameters."""
    network = KINDS[kind](widths, lambdas)
    state = {name: torch.from_numpy(array.astype(np.float32)) for name, array in weights.items()}
    left = nn.Module.load_state_dict(network, state, strict=False)  # CompressAI's own asks for tables of its coder
    missing = set(left.missing_keys) & {name for name, _ in network.named_parameters()}
    if missing or left.unexpected_keys:
        raise ValueError(f"weights are missing or too many: {sorted(missing | set(left.unexpected_keys))[:3]}")
    return network.eval().requires_grad_(False)


def _bits(likelihoods: Tensor) -> Tensor:
    return -torch.log2(likelihoods).flatten(1).sum(dim=1)


def _start_from_hadamard(g_a: nn.Sequential, g_s: nn.Sequential) -> None:
    """Sets the strided layers to a Walsh-Hadamard packet transform and its inverse, the rest to nearly nothing."""
    down = [layer for layer in g_a if isinstance(layer, nn.Conv2d)]
    up = [layer for layer in g_s if isinstance(layer, nn.ConvTranspose2d)]
    used = 1
    for analysis, synthesis in zip(down, reversed(up), strict=True):
        kernel, used = _hadamard_stage(analysis.weight, used)
        with torch.no_grad():
            analysis.weight.mul_(0.05).add_(kernel)
            synthesis.weight.mul_(0.05).add_(kernel)
            nn.init.zeros_(analysis.bias)  # type: ignore[arg-type]
            nn.init.zeros_(synthesis.bias)  # type: ignore[arg-type]
    for module in [*g_a.modules(), *g_s.modules()]:
        _silence(module)


@torch.no_grad()
def _silence(module: nn.Module) -> None:
    """A residual branch adds next to nothing at first, and a divisive normalization hardly divides."""
    match module:
        case ResidualBottleneckBlock():
            module.conv3.weight.mul_(0.05)
            module.conv3.bias.zero_()
        case AttentionBlock():
            module.conv_b[-1].weight.mul_(0.05)
            module.conv_b[-1].bias.fill_(-4.0)
        case GDN():
            module.gamma.copy_(module.gamma_reparam.init(0.01 * torch.eye(len(module.beta))))


def _hadamard_stage(weight: Tensor, used: int) -> tuple[Tensor, int]:
    """[out, in, 5, 5] with orthonormal rows: 2 x 2 Hadamard of each used channel; how many outputs that used.

    The kernel's taps (2, 2) to (3, 3) lie on the 2 x 2 pixels of an output: stride 2, padding 2.
    """
    kernel = torch.zeros_like(weight)
    signs = torch.tensor([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2.0
    outputs = 0
    for band in range(4):  # every channel's mean first, so that narrow networks keep what matters
        for channel in range(used):
            if outputs < len(weight):
                kernel[outputs, channel, 2:4, 2:4] = signs[band].reshape(2, 2)
                outputs += 1
    return kernel, outputs
