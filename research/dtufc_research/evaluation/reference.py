"""A trained network at one rate as a reference model: CompressAI's own class, with its own coder. For `learned_speed`.

    [0, 1] --to network scale--> g_a --gain--> y ... y_hat --inverse gain--> g_s --to [0, 1]--> x_hat

The weights are those of the learned codec. CompressAI has no gains and no network
scale: layers before and behind its transforms apply them. Its `compress` and `decompress` are unchanged.
"""

import copy
import math
from typing import Any, Final

import torch
from torch import Tensor, nn

from dtufc.coding.codecs.learned.plane import MIDDLE, NETWORK_SCALE
from dtufc.coding.transform import NUM_LEVELS
from dtufc_research.training.networks import Elic, Hyperprior

HIGHEST: Final = NUM_LEVELS - 1.0  # the level that is 1 in a CompressAI plane
_MAX_SYMBOL: Final = 255


def from_network_scale(plane: Tensor) -> Tensor:
    """A plane at network scale -> levels / 255, the input of CompressAI's models."""
    return (plane * NETWORK_SCALE + MIDDLE) / HIGHEST


class Affine(nn.Module):
    """x -> scale x + offset; scale and offset broadcast to [B, C, H, W]."""

    def __init__(self, scale: Tensor | float, offset: float = 0.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.as_tensor(scale), requires_grad=False)
        self.offset = offset

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.offset


@torch.no_grad()
def reference_model(trained: Hyperprior | Elic, rate: float) -> Any:
    """The same network at one rate, with the tables of CompressAI's coder.

    Args:
        trained: the network; it is copied.
        rate: a position between the gains' points, in [0, num_rates - 1].

    Returns:
        A ScaleHyperprior or an Elic2022Official, for planes [B, 1, H, W] of levels / 255.
    """
    from compressai.models import Elic2022Official, ScaleHyperprior  # `networks` has let its warnings pass

    trained = copy.deepcopy(trained)
    num_channels, num_latents = trained.side_prior.channels, trained.gains.log_gain.shape[1]
    if isinstance(trained, Elic):
        network = Elic2022Official(num_channels, num_latents, groups=trained.groups)
        network.latent_codec = trained.latent_codec
    else:
        network = ScaleHyperprior(num_channels, num_latents)
        network.h_a, network.h_s = trained.h_a, trained.h_s
        network.entropy_bottleneck = trained.entropy_bottleneck
    at = torch.tensor([rate])
    network.g_a = nn.Sequential(
        Affine(HIGHEST / NETWORK_SCALE, -MIDDLE / NETWORK_SCALE), *trained.g_a, Affine(trained.gains.gain(at))
    )
    network.g_s = nn.Sequential(
        Affine(trained.gains.inverse(at)), *trained.g_s, Affine(NETWORK_SCALE / HIGHEST, MIDDLE / HIGHEST)
    )
    _set_quantiles(trained.side_prior)
    network.update(force=True)
    return network.eval().requires_grad_(False)


def _set_quantiles(side_prior: Any) -> None:
    """Sets the range of each channel's table, which our training does not learn. The median is 0, as in training."""
    edges = torch.arange(-_MAX_SYMBOL, _MAX_SYMBOL + 1, dtype=torch.float32)
    logits = side_prior._logits_cumulative(edges.repeat(side_prior.channels, 1, 1), stop_gradient=True)[:, 0]
    tail = math.log(2 / side_prior.tail_mass - 1)  # CompressAI's target for the outer quantiles
    num_below, num_above = (logits < -tail).sum(dim=1), (logits > tail).sum(dim=1)
    side_prior.quantiles[:, 0, 0] = (num_below - 1.0 - _MAX_SYMBOL).clamp(-_MAX_SYMBOL, 0)
    side_prior.quantiles[:, 0, 1] = 0.0
    side_prior.quantiles[:, 0, 2] = (_MAX_SYMBOL + 1.0 - num_above).clamp(0, _MAX_SYMBOL)
