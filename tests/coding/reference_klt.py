"""A decoder of `levels` and `klt` in plain integers, written from docs/bitstream.md alone: slow, and independent."""

import math
import zlib
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np

from dtufc.coding.arrays import Array
from dtufc.coding.bitstream import Frame
from dtufc.models.profile import Profile
from tests.coding.reference_rans import MASK

_DIGITS = 60


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
    images, tokens, channels = profile.layout.rows_shape(frame.shape)
    grid, prefix = profile.layout.grid(frame.shape), profile.layout.prefix
    shifted, offset = varint(frame.payload, 0)
    t = shifted - 1024
    num_outliers, offset = varint(frame.payload, offset)
    outliers, row = {}, -1
    for _ in range(num_outliers):
        skip, offset = varint(frame.payload, offset)
        row += skip + 1
        outliers[row], offset = varint(frame.payload, offset)
    num_residual_bytes, offset = varint(frame.payload, offset)
    residuals = frame.payload[offset : offset + num_residual_bytes]
    symbols = Symbols(frame.payload[offset + num_residual_bytes :])

    isolated = list(outliers) if grid else list(range(images * tokens))
    activities = [a - 8 for a in symbols.run(p["activity"], len(isolated), escape=False)]
    logs = p["log_sigma"].astype(int)
    classes = [(int(logs[0, c]) - t + 8) // 16 + a for a in activities for c in range(channels)]
    bands = _bands(p["edges"], grid) if grid else []
    classes += [(int(logs[b, c]) - t + 8) // 16 for _ in range(images) for b in bands for c in range(channels)]
    q = _read_symbols(symbols, classes, p["frequencies"], p["sizes"])
    assert symbols.is_at_its_end()
    assert symbols.crc == frame.symbol_crc
    _read_residuals(residuals, q)

    shift, finer = int(p["rounding"][1]), float(p["rounding"][2])
    sixteenths = [16 * s + ((s > 0) - (s < 0)) * shift for s in q]
    basis = p["basis"].astype(int).tolist()
    if p["basis"].ndim == 1:
        basis = [[32767 * (c == channel) for c in range(channels)] for channel in basis]
    scale, mean, centre = (p[name].tolist() for name in ("scale", "mean", "centre"))
    step = power(t)
    out = [list(mean) for _ in range(images * tokens)]
    if grid:
        per_image = grid[0] * grid[1] * channels
        for image in range(images):
            start = len(isolated) * channels + image * per_image
            z = _inverse_spectrum(sixteenths[start : start + per_image], grid, bands, p["gain"], step)
            for token, values in enumerate(z):
                out[image * tokens + prefix + token] = [
                    float(total) * (scale[c] * 2.0**-8) + mean[c] for c, total in enumerate(_product(values, basis))
                ]
    for index, row in enumerate(isolated):
        values = sixteenths[index * channels : (index + 1) * channels]
        x = [float(total) * (scale[c] * (step / 16.0)) for c, total in enumerate(_product(values, basis))]
        if row not in outliers:
            out[row] = [x[c] + mean[c] for c in range(channels)]
            continue
        is_prefix = bool(grid) and row % tokens < prefix and 224 <= outliers[row] <= 288
        f = 1.0 if is_prefix else finer * max(1.0, step / 4)
        out[row] = [(x[c] * (1 / f) + centre[c]) * power(4 * (outliers[row] - 256)) for c in range(channels)]
    return np.array(out)


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
    values: list[int], grid: tuple[int, int], bands: list[int], gain: Array, step: float
) -> list[list[int]]:
    """z of each token of one grid, by the definition."""
    height, width = grid
    channels = gain.shape[1]
    bits = channels.bit_length() + sum((2 * n).bit_length() // 2 + 1 for n in grid)
    limit = 2.0 ** (38 - bits)
    down, across = dct(height), dct(width)
    z = [[0] * channels for _ in range(height * width)]
    for k in range(channels):
        c = [[0] * width for _ in range(height)]
        for frequency in range(height * width):
            sixteenth = float(gain[bands[frequency], k]) * (step * 256.0 / 16.0)
            value = float(round(values[frequency * channels + k] * sixteenth))
            c[frequency // width][frequency % width] = int(min(max(value, -limit), limit))
        rows = [
            [_rounded(sum(down[u][y] * c[u][v] for u in range(height))) for v in range(width)] for y in range(height)
        ]
        for y in range(height):
            for x in range(width):
                z[y * width + x][k] = _rounded(sum(across[v][x] * rows[y][v] for v in range(width)))
    return z


def _product(values: list[int], basis: list[list[int]]) -> list[int]:
    return [sum(value * row[c] for value, row in zip(values, basis, strict=True)) for c in range(len(basis))]


def _rounded(value: int) -> int:
    return round(Fraction(value, 1 << 14))


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
