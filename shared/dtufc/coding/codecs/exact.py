"""Constants and products that are the same on every machine.

Hides why a decoder is exact: irrational constants come from decimal arithmetic, not from a math library whose last
bit varies, and every matrix product that a decoder computes has integer operands and a sum below 2^53, so that no
order of summation, instruction set or thread count can change it.
"""

from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext
from functools import lru_cache
from typing import Final

import numpy as np

from dtufc.coding.arrays import Array

OCTAVE: Final = 64  # steps and scales are counted in 1/64 octave
DCT_BITS: Final = 14
EXACT_BITS: Final = 53
_DIGITS: Final = 40
_CONTEXT: Final = Context(prec=_DIGITS, rounding=ROUND_HALF_EVEN, traps=[])  # never the caller's


@lru_cache(maxsize=1)
def _roots() -> tuple[float, ...]:
    """2^(i / 64) for i < 64."""
    with localcontext(_CONTEXT):
        root = Decimal(2)
        for _ in range(OCTAVE.bit_length() - 1):
            root = root.sqrt()
        powers = [Decimal(1)]
        for _ in range(OCTAVE - 1):
            powers.append(powers[-1] * root)
        return tuple(float(power) for power in powers)


def power_of_two(index: int) -> float:
    """2^(index / 64)."""
    octaves, rest = divmod(index, OCTAVE)
    return float(_roots()[rest] * 2.0**octaves)


@lru_cache(maxsize=64)
def integer_dct(size: int) -> Array:
    """Orthonormal DCT-II [frequency, place], times 2^14, rounded to integers; float64."""
    with localcontext(_CONTEXT):
        norm = (Decimal(2) / size).sqrt() * 2**DCT_BITS
        first = int(((Decimal(1) / size).sqrt() * 2**DCT_BITS).to_integral_value())
        quarter = [int((norm * _cosine(Decimal(i) / (2 * size))).to_integral_value()) for i in range(size + 1)]
    half = np.array(quarter + [-value for value in quarter[-2::-1]], dtype=np.float64)  # cos(pi i / 2n), i <= 2n
    turns = np.outer(np.arange(size), 2 * np.arange(size) + 1) % (4 * size)
    matrix = half[np.minimum(turns, 4 * size - turns)]
    matrix[0] = first
    return matrix


def forward_dct(tokens: Array, height: int, width: int) -> Array:
    """[..., h w, K] float32 -> its two-dimensional DCT over the tokens, for an encoder."""
    scale = np.float32(2.0**-DCT_BITS)
    down, across = integer_dct(height).astype(np.float32) * scale, integer_dct(width).astype(np.float32) * scale
    return _both_axes(tokens, down, across)


def inverse_dct(tokens: Array, height: int, width: int) -> Array:
    """[..., h w, K] integers in float64 -> the inverse, rounded to integers after each axis."""
    scale = 2.0**-DCT_BITS
    rows = np.matmul(integer_dct(height).T, tokens.reshape(-1, height, width * tokens.shape[-1]))
    rows *= scale
    rows = np.rint(rows, out=rows).reshape(-1, width, tokens.shape[-1])
    if width == 1:  # 2^14 times 2^-14
        return rows.reshape(tokens.shape)
    return np.rint(np.matmul(integer_dct(width).T, rows) * scale).reshape(tokens.shape)


def transposed_dct(tokens: Array, height: int, width: int) -> Array:
    """[..., h w, K] -> its inverse DCT over the tokens in float64, to some last bits."""
    down, across = (integer_dct(size).T * 2.0**-DCT_BITS for size in (height, width))
    return _both_axes(tokens, down, across)


def dct_gain_bits(size: int) -> int:
    """By how many bits one axis of the inverse can make an integer longer: no row sum of |DCT| exceeds sqrt(2 n)."""
    return (2 * size).bit_length() // 2 + 1


def _both_axes(tokens: Array, down: Array, across: Array) -> Array:
    height, width = len(down), len(across)
    rows = np.matmul(down, tokens.reshape(-1, height, width * tokens.shape[-1]))
    if width == 1:
        return rows.reshape(tokens.shape)
    return np.matmul(across, rows.reshape(-1, width, tokens.shape[-1])).reshape(tokens.shape)


_PI: Final = Decimal("3.14159265358979323846264338327950288419716939937510")


def _cosine(turns: Decimal) -> Decimal:
    """cos(pi * turns) for turns in [0, 1/2], by its series."""
    square = (_PI * turns) ** 2
    term = total = Decimal(1)
    for n in range(1, 2 * _DIGITS, 2):
        term *= -square / (n * (n + 1))
        total += term
    return total
