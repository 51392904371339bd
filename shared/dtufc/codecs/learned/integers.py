"""Convolutions in integers: the same result on every machine, for the networks that decide probabilities.

A layer's activations are integer multiples of 2^-10, its weights integer multiples of a power of two of its own; both
are carried in float64. Activations are below 2^23, weights at most 2^14, and at most 2^14 products are added up: every
partial sum is below 2^51, so that no order of summation, instruction set or thread count can change it. What follows a
sum is one multiplication by a power of two, one rounding and one clipping.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import nn

from dtufc.arrays import Array

ACTIVATION_BITS: Final = 10  # an activation is an integer times 2^-10
ONE: Final = 1 << ACTIVATION_BITS
_LIMIT: Final = float((1 << 23) - 1)
_WEIGHT_BITS: Final = 14
_MOST_PRODUCTS: Final = 1 << 14


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One convolution, of stride 1, or transposed of stride 2; what lies beyond the border is zero.

    Attributes:
        taps: [k, k, in, out] float64 integers, times 2^-shift the weights.
        bias: [out] float64 integers, times 2^-(shift + 10) the bias.
        shift: see there.
        is_transposed: of stride 2: it doubles height and width.
        is_rectified: negative results become zero.
    """

    taps: Array
    bias: Array
    shift: int
    is_transposed: bool
    is_rectified: bool

    def __call__(self, x: Array) -> Array:
        """[H, W, in] integers in float64 -> [H', W', out]."""
        x = np.clip(x, -_LIMIT, _LIMIT)
        if self.is_transposed:
            return self._finished(self._transposed(x))
        return self._finished(self._convolved(x)).reshape(*x.shape[:2], -1)

    def at(self, wanted: Array, x: Array) -> Array:
        """[n, out]: of a convolution, the results at the [H, W] bool positions that are wanted."""
        return self._finished(self._convolved(np.clip(x, -_LIMIT, _LIMIT), wanted))

    def _finished(self, total: Array) -> Array:
        """In place: large temporary arrays cost as much as what is done to them."""
        total += self.bias
        total *= 2.0**-self.shift
        np.rint(total, out=total)
        return np.clip(total, 0.0 if self.is_rectified else -_LIMIT, _LIMIT, out=total)

    def _convolved(self, x: Array, wanted: Array | None = None) -> Array:
        height, width, channels = x.shape
        edge = len(self.taps) // 2
        if edge == 0 and wanted is None:
            return _product(x.reshape(-1, channels), self.taps[0, 0])
        padded = np.pad(x, ((edge, edge), (edge, edge), (0, 0)))
        total = np.zeros((height * width if wanted is None else int(wanted.sum()), self.taps.shape[-1]))
        for row, column in np.argwhere(self.taps.any(axis=(2, 3))):  # a masked kernel has half its taps
            window = padded[row : row + height, column : column + width]
            rows = window.reshape(-1, channels) if wanted is None else window[wanted]
            total += _product(rows, self.taps[row, column])
        return total

    def _transposed(self, x: Array) -> Array:
        height, width, channels = x.shape
        size, out = len(self.taps), self.taps.shape[-1]
        total = np.zeros((2 * height + size, 2 * width + size, out))
        flat = x.reshape(-1, channels)
        for row in range(size):
            for column in range(size):
                part = _product(flat, self.taps[row, column]).reshape(height, width, out)
                total[row : row + 2 * height : 2, column : column + 2 * width : 2] += part
        edge = size // 2
        return total[edge : edge + 2 * height, edge : edge + 2 * width]


def _product(a: Array, b: Array) -> Array:
    """[n, in] x [in, out] by torch, whose threads the float networks use already: two pools would be in each other's
    way."""
    return torch.mm(torch.from_numpy(a), torch.from_numpy(b)).numpy()


def run(layers: Sequence[Layer], x: Array) -> Array:
    """All layers, one after the other."""
    for layer in layers:
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
        yield Layer(
            taps=np.rint(taps * 2.0**shift),
            bias=np.clip(np.rint(bias * 2.0 ** (shift + ACTIVATION_BITS)), -(2.0**50), 2.0**50),
            shift=shift,
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
