"""Convolutions in integers: the same result on every machine, for the networks that predict probabilities.

An activation is stored in float64 as an integer below 2^23, in multiples of 2^-10; a weight as a multiple, by at most
2^14, of a power of two that its layer has. At most 2^14 products are added up: every partial sum is that power times an
integer below 2^52, so that no order of summation, instruction set or thread count can change it. What follows a sum is
one rounding and one clipping.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from dtufc.coding.arrays import Array
from dtufc.interruption import checkpoint

ACTIVATION_BITS: Final = 10  # an activation is an integer times 2^-10
ONE: Final = 1 << ACTIVATION_BITS
_LIMIT: Final = float((1 << 23) - 1)
_WEIGHT_BITS: Final = 14
_MOST_PRODUCTS: Final = 1 << 14


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One convolution, of stride 1, or transposed of stride 2; zero padding beyond the border.

    Attributes:
        taps: [k, k, in, out] float64, multiples of a power of two.
        places: the (row, column) of the taps that are not zero: a masked kernel has half of them.
        bias: [out] float64, at the scale of an activation: a multiple of the same power.
        is_transposed: of stride 2: it doubles height and width.
        is_rectified: negative results become zero.
    """

    taps: Tensor
    places: tuple[tuple[int, int], ...]
    bias: Tensor
    is_transposed: bool
    is_rectified: bool

    def __call__(self, x: Tensor) -> Tensor:
        """[H, W, in] integers in float64 -> [H', W', out]."""
        if self.is_transposed:
            return self._finished(self._transposed(x))
        is_tall = x.shape[0] > x.shape[1]
        lines = x.transpose(0, 1) if is_tall else x  # long lines: few of the positions are zeros behind one
        rows, stride = self._padded(lines)
        total = self.bias.repeat(len(lines) * stride, 1)
        for row, column in self.places:
            start = column * stride + row if is_tall else row * stride + column
            total.addmm_(rows[start : start + len(total)], self.taps[row, column])
        result = self._finished(total).view(len(lines), stride, -1)[:, : lines.shape[1]]
        return result.transpose(0, 1) if is_tall else result

    def at(self, wanted: Tensor, x: Tensor) -> Tensor:
        """[n, out]: of a convolution, the results at the wanted [n] positions of [H W]."""
        rows, stride = self._padded(x)
        width = x.shape[1]
        start = wanted // width * stride + wanted % width
        total = self.bias.repeat(len(wanted), 1)
        for row, column in self.places:
            total.addmm_(rows[start + row * stride + column], self.taps[row, column])
        return self._finished(total)

    def _padded(self, x: Tensor) -> tuple[Tensor, int]:
        """([n, in], positions line after line with zeros around them; how many a line).

        The zeros behind a line are also those before the next. The offset from a position's first tap to another tap is
        therefore the same for every position, so that all positions of one tap are a slice.
        """
        height, width, channels = x.shape
        edge = len(self.taps) // 2
        stride = width + edge
        beyond = 2 if edge else 0  # lines: a slice ends 2 edge positions past the zeros; a line has edge or more
        padded = x.new_zeros(height + 2 * edge + beyond, stride, channels)
        torch.clamp(x, -_LIMIT, _LIMIT, out=padded[edge : edge + height, edge:])
        return padded.view(-1, channels), stride

    def _transposed(self, x: Tensor) -> Tensor:
        height, width, channels = x.shape
        size, out = len(self.taps), self.taps.shape[-1]
        total = self.bias.repeat(2 * height + size, 2 * width + size, 1)
        flat = x.clamp(-_LIMIT, _LIMIT).reshape(-1, channels)
        for row, column in self.places:
            part = torch.mm(flat, self.taps[row, column]).view(height, width, out)
            total[row : row + 2 * height : 2, column : column + 2 * width : 2] += part
        edge = size // 2
        return total[edge : edge + 2 * height, edge : edge + 2 * width]

    def _finished(self, total: Tensor) -> Tensor:
        """In place: large temporary arrays cost as much as what is done to them."""
        return total.round_().clamp_(0.0 if self.is_rectified else -_LIMIT, _LIMIT)


def run(layers: Sequence[Layer], x: Tensor) -> Tensor:
    """All layers, one after the other."""
    for layer in layers:
        checkpoint()
        x = layer(x)
    return x


def layers_of(modules: nn.Module) -> list[Layer]:
    """The integer form of a sequence of convolutions, transposed convolutions and rectifiers.

    Weights are rounded to multiples of 2^-shift; shift is 14, or less where that keeps them within 2^14.
    """
    return list(_layers_of(list(modules) if isinstance(modules, nn.Sequential) else [modules]))


def _layers_of(modules: Sequence[nn.Module]) -> Iterator[Layer]:
    for module, behind in zip(modules, [*modules[1:], None], strict=True):
        if isinstance(module, nn.ReLU):
            continue
        is_transposed = isinstance(module, nn.ConvTranspose2d) and module.stride == (2, 2)
        taps = _taps(module)
        if not taps.shape[0] ** 2 * taps.shape[2] < _MOST_PRODUCTS:
            raise ValueError(f"{taps.shape[2]} channels under a kernel of {taps.shape[0]} are too many to be exact")
        shift = _WEIGHT_BITS - max(math.frexp(float(np.abs(taps).max()))[1], 0)
        assert isinstance(module.bias, torch.Tensor)
        bias = module.bias.detach().double().numpy()
        whole = np.rint(taps * 2.0**shift)
        whole_bias = np.clip(np.rint(bias * 2.0 ** (shift + ACTIVATION_BITS)), -(2.0**50), 2.0**50)
        yield Layer(
            taps=torch.from_numpy(whole * 2.0**-shift),
            places=tuple((row, column) for row, column in np.argwhere(whole.any(axis=(2, 3))).tolist()),
            bias=torch.from_numpy(whole_bias * 2.0**-shift),
            is_transposed=is_transposed,
            is_rectified=isinstance(behind, nn.ReLU),
        )


def _taps(module: nn.Module) -> Array:
    """[k, k, in, out] float64; a transposed convolution of stride 1 is a convolution with the kernel turned round."""
    assert isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
    weight = module.weight.detach().double()
    mask = getattr(module, "mask", None)
    weight = weight if mask is None else weight * mask.double()
    if isinstance(module, nn.Conv2d):
        return weight.permute(2, 3, 1, 0).numpy().copy()
    taps = weight.permute(2, 3, 0, 1)
    return (taps if module.stride == (2, 2) else taps.flip(0, 1)).numpy().copy()
