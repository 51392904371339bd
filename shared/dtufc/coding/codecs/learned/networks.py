"""The layers of the codecs' networks, in plain torch: one input and output channel, one network for all rates.

    x --g_a--> y --gain(rate)--> y_g --round--> y_hat --inverse gain(rate)--> g_s --> x_hat
                                  |                ^
                                 h_a --> z_hat --> h_s: the scales of y_hat

A scale hyperprior (Balle et al. 2018, arXiv 1802.01436) and ELIC (He et al. 2022, arXiv 2203.10886), as CompressAI
builds them and under the names that it gives to their parameters, so that its checkpoints load. What training alone
needs, the likelihoods, is not here. A plane is at network scale: 64 levels are 1.0, around the middle level, so that a
transformed feature has a spread of about one.

Rates are continuous: gains are learned at `num_rates` points, evenly spaced in log lambda, and interpolated between
them in the logarithm (Cui et al. 2021, arXiv 2003.02012).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, pairwise
from typing import Final, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from dtufc.coding.codecs.learned.plane import NETWORK_SCALE

STRIDE: Final = 64  # a plane's sides are padded to multiples of it
BLOCK: Final = 16  # side of a latent's position on the plane
_FINENESS: Final = math.sqrt(12 / (2 * math.log(2)))  # step = this / sqrt(lambda) at high rate, in levels
_PEDESTAL: Final = 2.0**-36  # under the stored square roots of a normalization's weights
_BETA_MIN: Final = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Widths:
    """Sizes of a network.

    Attributes:
        num_channels: N, of the transforms' hidden layers.
        num_latents: M, of the latent; 256 or more keep as many values as a 16 x 16 block has.
        groups: of the latent's channels, for ELIC.
        context: hidden channels of ELIC's channel context.
    """

    num_channels: int = 64
    num_latents: int = 256
    groups: tuple[int, ...] = (16, 16, 32, 64, 128)
    context: tuple[int, int] = (96, 64)


class GainUnit(nn.Module):
    """A gain and an inverse gain for each latent channel, at any rate in [0, num_rates - 1]."""

    def __init__(self, num_latents: int, lambdas: Sequence[float]) -> None:
        super().__init__()
        start = torch.tensor([math.log(NETWORK_SCALE * math.sqrt(value) / _FINENESS) for value in lambdas])
        self.log_gain = nn.Parameter(start[:, None].repeat(1, num_latents))  # [rates, M]
        self.log_inverse = nn.Parameter(-start[:, None].repeat(1, num_latents))

    def gain(self, rate: Float[Tensor, " batch"]) -> Float[Tensor, "batch M 1 1"]:
        return _between(self.log_gain, rate)

    def inverse(self, rate: Float[Tensor, " batch"]) -> Float[Tensor, "batch M 1 1"]:
        return _between(self.log_inverse, rate)


def _between(logs: Tensor, rate: Tensor) -> Tensor:
    low = rate.floor().clamp(0, max(len(logs) - 2, 0)).long()
    high = (low + 1).clamp(max=len(logs) - 1)
    share = (rate - low)[:, None]
    return torch.exp(torch.lerp(logs[low], logs[high], share))[:, :, None, None]


class DivisiveNormalization(nn.Module):
    """x / sqrt(beta + gamma x^2) over the channels, or times that root (Balle et al. 2016, arXiv 1511.06281).

    `beta` [C] and `gamma` [C, C] hold square roots, above a pedestal that keeps gradients alive in training.
    """

    def __init__(self, channels: int, *, inverse: bool = False) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.ones(channels))
        self.gamma = nn.Parameter(torch.eye(channels))
        self._inverse = inverse

    def forward(self, x: Tensor) -> Tensor:
        beta = self.beta.clamp(min=math.sqrt(_BETA_MIN + _PEDESTAL)) ** 2 - _PEDESTAL
        gamma = self.gamma.clamp(min=math.sqrt(_PEDESTAL)) ** 2 - _PEDESTAL
        power = functional.conv2d(x * x, gamma[:, :, None, None], beta)
        return x * (power.sqrt() if self._inverse else power.rsqrt())


class ResidualBottleneck(nn.Module):
    """x plus three convolutions through half the channels (He et al. 2016, arXiv 1512.03385)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels // 2, 1)
        self.conv2 = nn.Conv2d(channels // 2, channels // 2, 3, padding=1)
        self.conv3 = nn.Conv2d(channels // 2, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = functional.relu(self.conv1(x), inplace=True)
        hidden = functional.relu(self.conv2(hidden), inplace=True)
        return self.conv3(hidden) + x


class Attention(nn.Module):
    """x plus one branch under the sigmoid of another (Cheng et al. 2020, arXiv 2001.01568)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_a = nn.Sequential(*(_Unit(channels) for _ in range(3)))
        self.conv_b = nn.Sequential(*(_Unit(channels) for _ in range(3)), nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_a(x) * torch.sigmoid(self.conv_b(x)) + x


class _Unit(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv = nn.Sequential(
            nn.Conv2d(channels, half, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(half, half, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(half, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.conv(x) + x)


class Checkerboard(nn.Conv2d):
    """The weights of a 5 x 5 convolution that sees the squares of the other colour (He et al. 2021, arXiv 2103.15306).

    Run in integers alone (`integers.layers_of`).
    """

    mask: Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 5, padding=2)
        places = torch.arange(5)
        mask = ((places[:, None] + places) % 2).float()
        self.register_buffer("mask", mask.expand_as(self.weight).clone(), persistent=False)


def _down(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 5, stride=2, padding=2)


def _up(inputs: int, outputs: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(inputs, outputs, 5, stride=2, padding=2, output_padding=1)


def _rectified(*layers: nn.Module) -> nn.Sequential:
    """Layers with a rectifier behind each but the last."""
    between = [module for layer in layers for module in (layer, nn.ReLU(inplace=True))]
    return nn.Sequential(*between[:-1])


class Hyperprior(nn.Module):
    """A scale hyperprior with one input channel and a gain unit."""

    def __init__(self, widths: Widths, lambdas: Sequence[float]) -> None:
        super().__init__()
        n, m = widths.num_channels, widths.num_latents
        down, up = [_down(1, n), _down(n, n), _down(n, n)], [_up(m, n), _up(n, n), _up(n, n)]
        self.g_a = nn.Sequential(*(x for layer in down for x in (layer, DivisiveNormalization(n))), _down(n, m))
        self.g_s = nn.Sequential(
            *(x for layer in up for x in (layer, DivisiveNormalization(n, inverse=True))), _up(n, 1)
        )
        self.h_a = _rectified(nn.Conv2d(m, n, 3, padding=1), _down(n, n), _down(n, n))
        self.h_s = nn.Sequential(
            *_rectified(_up(n, n), _up(n, n), nn.Conv2d(n, m, 3, padding=1)), nn.ReLU(inplace=True)
        )
        self.gains = GainUnit(m, lambdas)

    def hyper_analysis(self, y: Tensor) -> Tensor:
        return self.h_a(torch.abs(y))


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


class Elic(nn.Module):
    """ELIC with one input channel, a gain unit, and a channel context of configurable width."""

    def __init__(self, widths: Widths, lambdas: Sequence[float]) -> None:
        super().__init__()
        n, m, self.groups = widths.num_channels, widths.num_latents, list(widths.groups)
        blocks = [ResidualBottleneck(n) for _ in range(18)]
        self.g_a = nn.Sequential(
            _down(1, n), *blocks[:3], _down(n, n), *blocks[3:6], Attention(n),
            _down(n, n), *blocks[6:9], _down(n, m), Attention(m),
        )  # fmt: skip
        self.g_s = nn.Sequential(
            Attention(m), _up(m, n), *blocks[9:12], _up(n, n), Attention(n),
            *blocks[12:15], _up(n, n), *blocks[15:], _up(n, 1),
        )  # fmt: skip
        hyper = nn.ModuleDict(
            {
                "h_a": _rectified(nn.Conv2d(m, n, 3, padding=1), _down(n, n), _down(n, n)),
                "h_s": _rectified(_up(n, n), _up(n, 3 * n // 2), nn.ConvTranspose2d(3 * n // 2, 2 * n, 3, padding=1)),
            }
        )
        first, second = widths.context
        starts = list(accumulate(self.groups))
        contexts = {
            f"y{k}": _rectified(_same(starts[k - 1], first), _same(first, second), _same(second, 2 * size))
            for k, size in enumerate(self.groups)
            if k
        }
        groups = {
            f"y{k}": nn.ModuleDict(
                {
                    "context_prediction": Checkerboard(size, 2 * size),
                    "entropy_parameters": _ramp(2 * n + 2 * size * (2 if k else 1), 2 * size, 2 * n),
                }
            )
            for k, size in enumerate(self.groups)
        }
        y = nn.ModuleDict({"channel_context": nn.ModuleDict(contexts), "latent_codec": nn.ModuleDict(groups)})
        self.latent_codec = nn.ModuleDict({"hyper": hyper, "y": y})
        self.gains = GainUnit(m, lambdas)

    def hyper_analysis(self, y: Tensor) -> Tensor:
        found: Tensor = self.get_submodule("latent_codec.hyper.h_a")(y)
        return found


def _same(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 5, padding=2)


def _ramp(inputs: int, outputs: int, least: int) -> nn.Sequential:
    """Three pointwise layers whose channels go from `inputs` to `outputs` in equal steps, the hidden ones not below."""
    hidden = [max(least, inputs + (outputs - inputs) * step // 3) for step in (1, 2)]
    sizes = [inputs, *hidden, outputs]
    return _rectified(*(nn.Conv2d(a, b, 1) for a, b in pairwise(sizes)))


_REACH: Final = {ResidualBottleneck: 1, Attention: 3}  # rows to each side; they keep the resolution
_LARGE: Final = 1 << 22  # values of a plane that goes in strips,
_STRIP: Final = 1 << 19  # and of a strip
KINDS: Final[dict[str, type[Hyperprior] | type[Elic]]] = {"hyperprior": Hyperprior, "elic": Elic, "prior": Prior}
Kind = Literal["hyperprior", "elic", "prior"]


def in_strips(transform: nn.Sequential, x: Tensor) -> Tensor:
    """`transform(x)` up to the last bits, of g_a or g_s, for coding.

    Blocks that keep the resolution are applied to strips of rows that fit into a processor's cache, with their
    receptive field; on a whole large plane they would be bound by memory.
    """
    for is_local, layers in groupby(transform, key=lambda layer: isinstance(layer, tuple(_REACH))):
        chosen = list(layers)
        x = _strip_by_strip(chosen, x) if is_local and x.numel() > _LARGE else nn.Sequential(*chosen)(x)
    return x


def _strip_by_strip(layers: Sequence[nn.Module], x: Tensor) -> Tensor:
    """[B, C, H, W] through layers that keep the shape."""
    reach = sum(_REACH[type(layer)] for layer in layers)
    height = x.shape[2]
    rows = max(_STRIP * height // x.numel(), 2 * reach)
    result = torch.empty_like(x)
    for start in range(0, height, rows):
        first = max(start - reach, 0)
        strip = nn.Sequential(*layers)(x[:, :, first : start + rows + reach])
        result[:, :, start : start + rows] = strip[:, :, start - first : start - first + rows]
    return result
