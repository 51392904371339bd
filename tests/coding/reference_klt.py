"""A decoder of `levels` and `klt` in plain integers, written from docs/bitstream.md alone: slow, and independent."""

import math
import zlib
from collections.abc import Mapping, Sequence
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import lru_cache
from operator import mul
from typing import TypeAlias

import numpy as np

from dtufc.coding.arrays import Array
from dtufc.coding.bitstream import Frame
from dtufc.models.profile import Profile
from tests.coding.reference_rans import MASK

_DIGITS = 60
Span: TypeAlias = tuple[Sequence[int], tuple[int, int], list[int]]


class Symbols:
    """ "Coded symbols": the runs of one stream."""

    def __init__(self, data: bytes) -> None:
        num_escapes, offset = varint(data, 0)
        self.escapes, words = data[offset : offset + num_escapes], data[offset + num_escapes :]
        self.stack = [int.from_bytes(words[i : i + 4], "little") for i in range(0, len(words), 4)]
        self.state = self.next_escape = self.crc = 0
        while self.stack and self.state < 1 << 32:
            self.state = self.state << 32 | self.stack.pop()

    def run(self, frequencies: Array, count: int, *, escape: bool) -> list[int]:
        starts = np.concatenate([[0], np.cumsum(frequencies.astype(np.int64))])
        radius = (len(frequencies) - 2) // 2
        symbols = []
        for _ in range(count):
            low = self.state & MASK
            entry = int(np.searchsorted(starts, low, "right")) - 1
            self.state = (self.state >> 24) * int(frequencies[entry]) + low - int(starts[entry])
            if self.state < 1 << 32 and self.stack:
                self.state = self.state << 32 | self.stack.pop()
            self.crc = zlib.crc32(entry.to_bytes(2, "little"), self.crc)
            if not escape:
                symbols.append(entry)
            elif entry <= 2 * radius:
                symbols.append(entry - radius)
            else:
                folded, self.next_escape = varint(self.escapes, self.next_escape)
                magnitude = (folded >> 1) + radius + 1
                symbols.append(-magnitude if folded & 1 else magnitude)
        return symbols

    def is_at_its_end(self) -> bool:
        return not self.state and not self.stack and self.next_escape == len(self.escapes)


def varint(data: bytes, offset: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[offset]
        value |= (byte & 127) << shift
        shift, offset = shift + 7, offset + 1
        if byte < 128:
            return value, offset


def power(index: int) -> float:
    """2^(index / 64)."""
    octaves, rest = divmod(index, 64)
    with localcontext() as context:
        context.prec = _DIGITS
        return float((Decimal(2).ln() * rest / 64).exp()) * 2.0**octaves


@lru_cache
def dct(size: int) -> list[list[int]]:
    """D_n, from the real numbers."""
    with localcontext() as context:
        context.prec = _DIGITS
        rows = []
        for k in range(size):
            norm = (Decimal(1 if k == 0 else 2) / size).sqrt() * 2**14
            angles = (_PI * ((2 * i + 1) * k % (4 * size)) / (2 * size) for i in range(size))
            rows.append([int((norm * _cosine(angle)).to_integral_value()) for angle in angles])
        return rows


def decode_levels(frame: Frame, profile: Profile) -> Array:
    images, tokens, channels = profile.layout.rows_shape(frame.shape)
    symbols = Symbols(frame.payload)
    centroids, stored = profile.calibration["levels.centroids"], profile.calibration["levels.frequencies"]
    columns = [
        centroids[symbols.run(stored[c].astype(np.int64) << 8, images * tokens, escape=False)] for c in range(channels)
    ]
    assert symbols.is_at_its_end()
    assert symbols.crc == frame.symbol_crc
    return np.stack(columns, axis=1).astype(np.float64)


def decode_klt(frame: Frame, profile: Profile) -> Array:
    """[images tokens, C] float64, before rounding to the frame's type."""
    p = {name.removeprefix("klt."): a for name, a in profile.calibration.items() if name.startswith("klt.")}
    basis, gain = Basis(p), np.broadcast_to(p["gain"], p["log_sigma"].shape).tolist()
    images, tokens, channels = profile.layout.rows_shape(frame.shape)
    grid, prefix = profile.layout.grid(frame.shape), profile.layout.prefix
    block = int(p["block"][0]) if "block" in p else 0
    shifted, offset = varint(frame.payload, 0)
    t = shifted - 1024
    num_listed, offset = varint(frame.payload, offset)
    listed, row = {}, -1
    for _ in range(num_listed):
        skip, offset = varint(frame.payload, offset)
        row += skip + 1
        listed[row], offset = varint(frame.payload, offset)
    num_residual_bytes, offset = varint(frame.payload, offset)
    residuals = frame.payload[offset : offset + num_residual_bytes]
    symbols = Symbols(frame.payload[offset + num_residual_bytes :])

    isolated = list(listed) if grid or block else list(range(images * tokens))
    spans: list[Span] = []  # (rows, size, kinds) of each spectrum and block
    if grid:
        bands, num_places = _bands(p["edges"], grid), grid[0] * grid[1]
        firsts = [image * tokens + prefix for image in range(images)]
        spans = [(range(first, first + num_places), grid, bands) for first in firsts]
    elif block:
        spans = _blocks([row for row in range(images * tokens) if row not in listed], block)
    kinds = [int(listed.get(row, 0) >= 512) for row in isolated] + [kind for *_, of_span in spans for kind in of_span]
    activities = [a - 8 for a in symbols.run(p["activity"], len(isolated if grid else kinds), escape=False)]
    activities += [0] * (len(kinds) - len(activities))
    logs = p["log_sigma"].tolist()
    classes = [
        (log - t + 8) // 16 + activity for kind, activity in zip(kinds, activities, strict=True) for log in logs[kind]
    ]
    q = _read_symbols(symbols, classes, p["frequencies"], p["sizes"])
    assert symbols.is_at_its_end()
    assert symbols.crc == frame.symbol_crc
    _read_residuals(residuals, q)
    assert max(map(abs, q)) < 2 ** (basis.exact_bits - 5)

    shift, finer = int(p["rounding"][1]), float(p["rounding"][2])
    sixteenths = [16 * s + ((s > 0) - (s < 0)) * shift for s in q]
    coefficients = [sixteenths[i : i + channels] for i in range(0, len(q), channels)]
    scale, mean, centre = ((p[name] + 0.0).tolist() for name in ("scale", "mean", "centre"))
    step = power(t)
    out = [list(mean) for _ in range(images * tokens)]
    done = len(isolated)
    for rows, size, of_span in spans:
        gains = [gain[kind] for kind in of_span]
        values = _inverse_spectrum(coefficients[done : done + len(rows)], size, gains, basis.exact_bits, step)
        done += len(rows)
        for row, z in zip(rows, values, strict=True):
            out[row] = [float(x) * (scale[c] * 2.0**-8) + mean[c] for c, x in enumerate(basis.to_channels(z))]
    for row, z in zip(isolated, coefficients, strict=False):
        x = [float(x) * (scale[c] * (step / 16.0)) for c, x in enumerate(basis.to_channels(z))]
        index = listed.get(row)
        if index is None:
            out[row] = [x[c] + mean[c] for c in range(channels)]
        elif index >= 512:
            f = power(4 * (index - 512))
            out[row] = [x[c] * (1 / f) + mean[c] for c in range(channels)]
        else:
            is_prefix = bool(grid) and row % tokens < prefix and 224 <= index <= 288
            f = 1.0 if is_prefix else finer * max(1.0, step / 4)
            out[row] = [(x[c] * (1 / f) + centre[c]) * power(4 * (index - 256)) for c in range(channels)]
    return np.array(out)


class Basis:
    """ "From components to channels"."""

    def __init__(self, p: Mapping[str, Array]) -> None:
        self.head = p["basis"].tolist()
        if p["basis"].ndim == 1:
            self.head = [[32767 * (c == channel) for c in range(len(self.head))] for channel in self.head]
        channels, rank = len(p["mean"]), len(self.head)
        self.is_whole = rank == channels
        self.exact_bits = 53 - 15 - channels.bit_length()
        if self.is_whole:
            return
        self.head_scale = float(p["head_scale"][0])
        self.vectors, self.order = p["reflections"].tolist(), p["order"].tolist()
        self.squares = [sum(v * v for v in vector) for vector in self.vectors]
        a = max((sum(abs(row[i]) for row in self.head) for i in range(rank)), default=0)
        m = max(math.ceil(a * self.head_scale) + 1, 16)
        assert m < 1 << 20
        sums = [sum(abs(v) for v in vector) for vector in self.vectors]
        n = [m * total * 512 // square + 2 for total, square in zip(sums, self.squares, strict=True)]
        columns = [[abs(vector[i]) for vector in self.vectors] for i in range(channels)]
        w = 256 * m + max(sum(map(mul, n, column)) for column in columns)
        self.exact_bits = 53 - max(a, w, *(m * total for total in sums)).bit_length()
        assert self.exact_bits >= 16

    def to_channels(self, z: list[int]) -> list[int]:
        leading = [sum(value * row[i] for value, row in zip(z, self.head, strict=False)) for i in range(len(self.head))]
        if self.is_whole:
            return [_exact(x) for x in leading]
        u = [round(float(_exact(x)) * self.head_scale) for x in leading] + [16 * x for x in z[len(leading) :]]
        products = [_exact(sum(map(mul, u, vector))) for vector in self.vectors]
        p = [round(float(x) * (512.0 / square)) for x, square in zip(products, self.squares, strict=True)]
        out = [0] * len(z)
        for i, channel in enumerate(self.order):
            out[channel] = _exact(256 * u[i] - sum(x * vector[i] for x, vector in zip(p, self.vectors, strict=True)))
        return out


def _exact(value: int) -> int:
    assert abs(value) < 1 << 53
    return value


def _blocks(rows: list[int], block: int) -> list[Span]:
    spans: list[Span] = []
    length = block
    while rows:
        while len(rows) >= length:
            spans.append((rows[:length], (length, 1), [length + f for f in range(length)]))
            rows = rows[length:]
        length //= 2
    return spans


def _bands(edges: Array, grid: tuple[int, int]) -> list[int]:
    bands = []
    for u in range(grid[0]):
        for v in range(grid[1]):
            a, b = u / max(grid[0] - 1, 1), v / max(grid[1] - 1, 1)
            bands.append(2 + sum(edge <= a * a + b * b for edge in edges.tolist()))
    return [1, *bands[1:]]


def _read_symbols(symbols: Symbols, classes: list[int], frequencies: Array, sizes: Array) -> list[int]:
    by_class: dict[int, list[int]] = {}
    for position, number in enumerate(classes):
        if number >= -12:
            by_class.setdefault(min(number, 44), []).append(position)
    tables = np.split(frequencies, np.cumsum(sizes)[:-1])
    q = [0] * len(classes)
    for number in sorted(by_class):
        run = symbols.run(tables[number + 12], len(by_class[number]), escape=True)
        for position, symbol in zip(by_class[number], run, strict=True):
            q[position] = symbol
    return q


def _read_residuals(data: bytes, q: list[int]) -> None:
    offset, position = 0, -1
    while offset < len(data):
        skip, offset = varint(data, offset)
        folded, offset = varint(data, offset)
        position += skip + 1
        q[position] = -(folded >> 1) if folded & 1 else folded >> 1


def _inverse_spectrum(
    values: list[list[int]], size: tuple[int, int], gains: list[list[float]], exact_bits: int, step: float
) -> list[list[int]]:
    """z of each token of one grid or block, by the definition."""
    height, width = size
    limit = 2.0 ** (exact_bits - sum((2 * n).bit_length() // 2 + 1 for n in size))
    down, across = dct(height), dct(width)
    columns = []
    for k in range(len(values[0])):
        c = [[0] * width for _ in range(height)]
        for frequency in range(height * width):
            sixteenth = gains[frequency][k] * (step * 256.0 / 16.0)
            value = float(round(values[frequency][k] * sixteenth))
            c[frequency // width][frequency % width] = int(min(max(value, -limit), limit))
        rows = [
            [_rounded(sum(down[u][y] * c[u][v] for u in range(height))) for v in range(width)] for y in range(height)
        ]
        columns.append(
            [
                _rounded(sum(across[v][x] * rows[y][v] for v in range(width)))
                for y in range(height)
                for x in range(width)
            ]
        )
    return [list(z) for z in zip(*columns, strict=True)]


def _rounded(value: int) -> int:
    return round(Fraction(_exact(value), 1 << 14))


def _pi() -> Decimal:
    """By Machin's formula."""

    def arctan(inverse: int) -> Decimal:
        term = total = Decimal(1) / inverse
        for n in range(3, 4 * _DIGITS, 2):
            term = -term / (inverse * inverse)
            total += term / n
        return total

    with localcontext() as context:
        context.prec = _DIGITS
        return 4 * (4 * arctan(5) - arctan(239))


def _cosine(angle: Decimal) -> Decimal:
    term = total = Decimal(1)
    for n in range(1, 4 * _DIGITS, 2):
        term *= -angle * angle / (n * (n + 1))
        total += term
    return total


_PI = _pi()
assert math.isclose(float(_PI), math.pi)
