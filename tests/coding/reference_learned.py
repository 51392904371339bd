"""A decoder of `hyperprior`, `elic` and `kltprior`, written from docs/bitstream.md alone: slow, and independent.

    payload --decoder--> latents of all tiles, int64 --g_s, float64--> plane --> features, float64

Integers are int64 and the reals float64; one convolution serves both. The entropy coder is the product's, which has a
reference of its own in `reference_rans`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from math import ceil, floor, isqrt, prod
from pathlib import Path
from typing import Any, Final, Literal, Self

import numpy as np
import numpy.typing as npt
from safetensors import safe_open

from dtufc.coding.bitstream import read_varint
from dtufc.coding.entropy import Decoder, Tables
from dtufc.coding.layout import Layout

Array = npt.NDArray[Any]
Kernel = Literal["C", "T", "T1"]  # convolution; transposed of stride 2, and of stride 1

_MOST: Final = 1 << 13  # of a symbol
_ONE: Final = 1 << 10  # activations are multiples of 1 / this
_LIMIT: Final = (1 << 23) - 1  # of an activation
_TINY: Final = 2.0**-36
_SYNTHESIS: Final = {"hyperprior": "TGTGTGT", "elic": "ATBBBTABBBTBBBT", "prior": "P"}  # see _block


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Network:
    """What a network file has.

    Attributes:
        kind: hyperprior, elic or prior.
        widths: num_channels, num_latents, groups.
        weights: by name without "network.", float64.
        borders: [63] int64, between the classes of scales.
        latent: a row for each class.
        side: a row for each channel of z.
    """

    kind: str
    widths: Mapping[str, Any]
    weights: Mapping[str, Array]
    borders: Array
    latent: Tables
    side: Tables

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads a network file."""
        with safe_open(path, "np") as file:
            metadata = json.loads(file.metadata()["network"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        network = {name: array.astype(np.float64) for name, array in arrays.items() if name.startswith("network.")}
        return cls(
            kind=metadata["kind"],
            widths=metadata["widths"],
            weights={name.removeprefix("network."): array for name, array in network.items()},
            borders=arrays["tables.scale_borders"],
            latent=_tables(arrays["tables.latent_frequencies"], arrays["tables.latent_sizes"]),
            side=_tables(arrays["tables.side_frequencies"], arrays["tables.side_sizes"]),
        )

    def taps(self, name: str, kernel: Kernel) -> Array:
        """[k, k, in, out] of one layer."""
        axes = (2, 3, 1, 0) if kernel == "C" else (2, 3, 0, 1)
        return self.weights[f"{name}.weight"].transpose(axes).copy()

    def bias(self, name: str) -> Array:
        return self.weights[f"{name}.bias"]


def _tables(frequencies: Array, sizes: Array) -> Tables:
    return Tables(np.split(frequencies, np.cumsum(sizes)[:-1]), escape=True)


def decode(
    network: Network,
    arrays: Mapping[str, Array],
    payload: bytes,
    symbol_crc: int,
    shape: tuple[int, ...],
    layout: Layout,
    klt: Mapping[str, Array] | None = None,
) -> Array:
    """Features of `shape`, float64, before they are clipped and rounded to the frame's type.

    Args:
        network: of the codec.
        arrays: what the profile has of it.
        payload: of a frame, sound but for its symbols.
        symbol_crc: of the frame.
        shape: of the frame.
        layout: of the profile.
        klt: what the profile has of that codec, for `kltprior`.

    Raises:
        Desync: other symbols than were encoded.
        Corrupt: something is left over.
    """
    rate, offset = read_varint(payload, 0)
    if klt is None:
        outliers, values, offset = _read_outliers(payload, offset)
        plane_shape, places = _places(shape, layout.family)
        plane = _plane(network, payload[offset:], symbol_crc, rate, plane_shape)
        features = _values(plane.ravel()[places], arrays["centroids"].astype(np.float64))
        features.ravel()[outliers] = values
        return features
    rows = _read_rows(payload, offset, shape, layout)
    plane = _plane(network, payload[rows.end :], symbol_crc, rate, (rows.count, len(klt["mean"])))
    scaled = np.clip((plane - 127.5) / 64, -512, 512)
    for position, number in rows.offsets.items():
        scaled.ravel()[position] += number
    return layout.from_rows(_inverse_klt(scaled / float(arrays["scale"][0]), rows, klt), shape)


def _plane(network: Network, coded: bytes, symbol_crc: int, rate: int, shape: tuple[int, int]) -> Array:
    """[H, W] of levels."""
    tiles = [(rows, columns) for rows in _cuts(shape[0]) for columns in _cuts(shape[1])]
    decoder = Decoder(coded)
    latents = [_latent(network, decoder, _latent_side(rows), _latent_side(columns)) for rows, columns in tiles]
    decoder.finish(symbol_crc)
    plane = np.empty(shape)
    for (rows, columns), latent in zip(tiles, latents, strict=True):
        levels = _synthesized(network, latent, rate)
        plane[rows, columns] = levels[: rows.stop - rows.start, : columns.stop - columns.start]
    return plane


# "Head of coefficients", "Plane of coefficients"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rows:
    """What the head says of the rows; images, tokens and the grid are the shape's."""

    images: int
    tokens: int
    prefix: int
    grid: tuple[int, int] | None
    outliers: Mapping[int, int]  # row: its gain index
    offsets: Mapping[int, int]  # position on the plane: the integer part of an outlier
    end: int

    @property
    def isolated(self) -> list[int]:
        return list(self.outliers) if self.grid else list(range(self.images * self.tokens))

    @property
    def count(self) -> int:
        return len(self.isolated) + (self.images * prod(self.grid) if self.grid else 0)


def _read_rows(payload: bytes, offset: int, shape: tuple[int, ...], layout: Layout) -> _Rows:
    images, tokens, _ = layout.rows_shape(shape)
    num_outliers, offset = read_varint(payload, offset)
    outliers, row = {}, -1
    for _ in range(num_outliers):
        skipped, offset = read_varint(payload, offset)
        row += skipped + 1
        outliers[row], offset = read_varint(payload, offset)
    length, offset = read_varint(payload, offset)
    offsets, position, end = {}, -1, offset + length
    while offset < end:
        skipped, offset = read_varint(payload, offset)
        folded, offset = read_varint(payload, offset)
        position += skipped + 1
        offsets[position] = -(folded >> 1) if folded & 1 else folded >> 1
    grid = layout.grid(shape)
    return _Rows(
        images=images, tokens=tokens, prefix=layout.prefix, grid=grid, outliers=outliers, offsets=offsets, end=end
    )


def _inverse_klt(coefficients: Array, rows: _Rows, klt: Mapping[str, Array]) -> Array:
    """[images, tokens, C]."""
    channels = len(klt["mean"])
    basis, gains = _basis(klt) * klt["scale"], np.broadcast_to(klt["gain"], klt["log_sigma"].shape)
    out = np.tile(klt["mean"], (rows.images * rows.tokens, 1))
    if rows.grid:
        (height, width), start = rows.grid, len(rows.isolated)
        relative = [np.arange(size) / max(size - 1, 1) for size in rows.grid]
        radii = {(u, v): relative[0][u] ** 2 + relative[1][v] ** 2 for u in range(height) for v in range(width)}
        down, across = _dct(height), _dct(width)
        for image in range(rows.images):
            spectrum = np.empty((height, width, channels))
            for at, (u, v) in enumerate(sorted(radii, key=lambda place: radii[place])):
                band = 2 + sum(edge <= radii[u, v] for edge in klt["edges"]) if u or v else 1
                spectrum[u, v] = coefficients[start + image * height * width + at] * gains[band]
            z = np.einsum("uy,vx,uvc->yxc", down, across, spectrum)
            first = image * rows.tokens + rows.prefix
            out[first : first + height * width] += z.reshape(-1, channels) @ basis
    for index, row in enumerate(rows.isolated):
        x = coefficients[index] @ basis
        if row not in rows.outliers:
            out[row] = x + klt["mean"]
            continue
        gain = rows.outliers[row]
        is_usual = rows.grid and row % rows.tokens < rows.prefix and 224 <= gain <= 288
        f = 1.0 if is_usual else float(klt["rounding"][2])
        out[row] = (x / f + klt["centre"]) * 2.0 ** ((gain - 256) / 16)
    return out.reshape(rows.images, rows.tokens, channels)


def _basis(klt: Mapping[str, Array]) -> Array:
    """ "From components to channels" in reals: [component, channel]."""
    channels, head = len(klt["mean"]), klt["basis"].astype(np.float64)
    if head.ndim == 1:
        return 32767.0 * np.eye(channels)[klt["basis"]]
    rank = len(head)
    if rank == channels:
        return head
    u = 16 * np.eye(channels)
    u[:rank, :rank] = head * klt["head_scale"]
    vectors = klt["reflections"].astype(np.float64)
    basis = np.empty_like(u)
    basis[:, klt["order"]] = 2**8 * u - (u @ vectors.T * 2**9 / np.sum(vectors**2, axis=1)) @ vectors
    return basis


def _dct(size: int) -> Array:
    frequency, place = np.ogrid[:size, :size]
    matrix = np.sqrt(2 / size) * np.cos(np.pi * (2 * place + 1) * frequency / (2 * size))
    matrix[0] = np.sqrt(1 / size)
    return matrix


# "Head of levels", "Tiles"


def _read_outliers(payload: bytes, offset: int) -> tuple[list[int], Array, int]:
    """(positions, values, offset behind them)."""
    num_outliers, offset = read_varint(payload, offset)
    positions, position = [], -1
    for _ in range(num_outliers):
        skipped, offset = read_varint(payload, offset)
        position += skipped + 1
        positions.append(position)
    return positions, np.frombuffer(payload, "<f4", num_outliers, offset), offset + 4 * num_outliers


def _cuts(size: int) -> list[slice]:
    step = ceil(size / ceil(size / 2048))
    return [slice(start, min(start + step, size)) for start in range(0, size, step)]


def _latent_side(part: slice) -> int:
    return 4 * ceil((part.stop - part.start) / 64)


# "Plane of levels"


def _places(shape: tuple[int, ...], family: str) -> tuple[tuple[int, int], Array]:
    """(the plane's shape, which value of it each value of the features is)."""
    if family in ("latent", "cnn"):
        (down, across), (height, width) = _mosaic(shape[-3]), shape[-2:]
        channel, y, x = np.ogrid[: shape[-3], :height, :width]
        places = (channel // across * height + y) * across * width + channel % across * width + x
        return (down * height, across * width), places.reshape(shape)
    return (prod(shape[:-1]), shape[-1]), np.arange(prod(shape)).reshape(shape)


def _mosaic(channels: int) -> tuple[int, int]:
    down = max(d for d in range(1, isqrt(channels) + 1) if channels % d == 0)
    return down, channels // down


# "Symbols and their order"


def _latent(network: Network, decoder: Decoder, height: int, width: int) -> Array:
    """Symbols of a tile -> its latent [h, w, M], int64 in multiples of 2^-10."""
    num_channels = network.widths["num_channels"]
    runs = [decoder.read(network.side, channel, height * width // 16) for channel in range(num_channels)]
    z_hat = _bounded(np.stack(runs, axis=-1)).reshape(height // 4, width // 4, num_channels) * _ONE
    if network.kind != "elic":
        scales = _layers(network, "h_s", ("T", "T", "C"), z_hat, is_rectified=True)
        return _read(network, decoder, scales) * _ONE
    return _latent_of_elic(network, decoder, _layers(network, "latent_codec.hyper.h_s", ("T", "T", "T1"), z_hat))


def _latent_of_elic(network: Network, decoder: Decoder, hyper: Array) -> Array:
    y_hat = np.zeros((*hyper.shape[:2], network.widths["num_latents"]), np.int64)
    start = 0
    for k, size in enumerate(network.widths["groups"]):
        side = [hyper]
        if k:
            before = y_hat[..., :start]
            side.insert(0, _layers(network, f"latent_codec.y.channel_context.y{k}", ("C", "C", "C"), before))
        for squares in _squares(*hyper.shape[:2]):
            group = y_hat[..., start : start + size]  # a view
            parameters = _parameters(network, k, group, side)[squares]
            scales, means = parameters[:, :size], parameters[:, size:]
            group[squares] = _read(network, decoder, scales) * _ONE + means
        start += size
    return y_hat


def _parameters(network: Network, k: int, group: Array, side: list[Array]) -> Array:
    """Scales and means [h, w, 2 g] of group k, of which nothing is decoded yet, or the even squares."""
    codec = f"latent_codec.y.latent_codec.y{k}"
    even, _ = _squares(*group.shape[:2])
    context = _layer(network, f"{codec}.context_prediction", "C", group, is_masked=True)
    context[even] = 0
    known = np.concatenate([context, *side], axis=-1)
    return _layers(network, f"{codec}.entropy_parameters", ("C", "C", "C"), known)


def _squares(height: int, width: int) -> tuple[Array, Array]:
    """The even and the odd squares of a latent, [h, w] bool."""
    i, j = np.ogrid[:height, :width]
    return (i + j) % 2 == 0, (i + j) % 2 == 1


def _read(network: Network, decoder: Decoder, scales: Array) -> Array:
    """One list of symbols, of the shape of its scales."""
    classes = np.array([int((network.borders < scale).sum()) for scale in scales.ravel()])
    symbols = np.zeros(scales.size, np.int64)
    for row in sorted(set(classes.tolist())):
        positions = np.flatnonzero(classes == row)
        symbols[positions] = decoder.read(network.latent, row, len(positions))
    return _bounded(symbols).reshape(scales.shape)


def _bounded(symbols: Array) -> Array:
    return np.clip(symbols.astype(np.int64), -_MOST, _MOST)


# "Integer networks"


def _layers(network: Network, name: str, kernels: Sequence[Kernel], x: Array, *, is_rectified: bool = False) -> Array:
    """A sequence with a rectifier behind each layer, and behind the last one where `is_rectified` says so."""
    last = len(kernels) - 1
    for index, kernel in enumerate(kernels):
        x = _layer(network, f"{name}.{2 * index}", kernel, x, is_rectified=is_rectified or index < last)
    return x


def _layer(
    network: Network, name: str, kernel: Kernel, x: Array, *, is_rectified: bool = False, is_masked: bool = False
) -> Array:
    """Activations [h, w, in] -> [h', w', out]."""
    weights = network.taps(name, kernel)
    if is_masked:
        i, j = np.ogrid[: len(weights), : len(weights)]
        weights[(i + j) % 2 == 0] = 0
    largest = float(np.abs(weights).max())
    shift = 14 - next(e for e in count() if largest < 2.0**e)
    taps = np.rint(weights * 2.0**shift).astype(np.int64)
    bias = np.rint(network.bias(name) * 2.0 ** (shift + 10)).astype(np.int64)
    total = _convolved(np.clip(x, -_LIMIT, _LIMIT), taps, kernel) + np.clip(bias, -(1 << 50), 1 << 50)
    return np.clip(_shifted(total, shift), 0 if is_rectified else -_LIMIT, _LIMIT)


def _convolved(x: Array, taps: Array, kernel: Kernel) -> Array:
    """[h, w, in] and [k, k, in, out] -> [h', w', out], in the integers or reals of both."""
    if kernel == "T":
        spread = np.zeros((2 * x.shape[0], 2 * x.shape[1], x.shape[2]), x.dtype)
        spread[::2, ::2] = x
        x = spread
    if kernel != "C":
        taps = taps[::-1, ::-1]
    height, width, _ = x.shape
    edge = len(taps) // 2
    padded = np.pad(x, ((edge, edge), (edge, edge), (0, 0)))
    total = np.zeros((height, width, taps.shape[-1]), x.dtype)
    for i, j in np.ndindex(taps.shape[:2]):
        total += padded[i : i + height, j : j + width] @ taps[i, j]
    return total


def _shifted(total: Array, shift: int) -> Array:
    """rint(total 2^-shift) in integers."""
    if shift <= 0:
        return total << -shift
    below = total >> shift
    twice = 2 * (total - (below << shift))
    is_above = (twice > 1 << shift) | ((twice == 1 << shift) & (below % 2 == 1))
    return below + is_above


# "Reconstruction"


def _synthesized(network: Network, latent: Array, rate: int) -> Array:
    """[h, w, M] in multiples of 2^-10 -> levels [16 h, 16 w] float64."""
    logs = network.weights["gains.log_inverse"]
    place = rate * (len(logs) - 1) / 1023
    low = min(floor(place), max(len(logs) - 2, 0))
    share = place - low
    x = latent / _ONE * np.exp((1 - share) * logs[low] + share * logs[min(low + 1, len(logs) - 1)])
    for index, block in enumerate(_SYNTHESIS[network.kind]):
        x = _block(network, f"g_s.{index}", block, x)
    return np.nan_to_num(64 * x[..., 0] + 127.5, nan=127.5)


def _block(network: Network, name: str, block: str, x: Array) -> Array:
    """P: blocks; T: transposed convolution; G: IGDN; B and A as there."""
    match block:
        case "P":
            height, width, _ = x.shape
            return x.reshape(height, width, 16, 16).transpose(0, 2, 1, 3).reshape(16 * height, 16 * width, 1)
        case "T":
            return _real(network, name, "T", x)
        case "G":
            beta = np.maximum(network.weights[f"{name}.beta"], (1e-6 + _TINY) ** 0.5) ** 2 - _TINY
            gamma = np.maximum(network.weights[f"{name}.gamma"], 2.0**-18) ** 2 - _TINY
            return x * np.sqrt(beta + x * x @ gamma.T)
        case "B":
            return x + _bottleneck(network, [f"{name}.conv{n}" for n in (1, 2, 3)], x)
        case _:
            return _attended(network, name, x)


def _attended(network: Network, name: str, x: Array) -> Array:
    """A."""
    a, b = (_three_blocks(network, f"{name}.conv_{branch}", x) for branch in "ab")
    return x + a / (1 + np.exp(-_real(network, f"{name}.conv_b.3", "C", b)))


def _three_blocks(network: Network, name: str, x: Array) -> Array:
    """U, U, U."""
    for block in range(3):
        x = _rectified(x + _bottleneck(network, [f"{name}.{block}.conv.{n}" for n in (0, 2, 4)], x))
    return x


def _bottleneck(network: Network, names: list[str], x: Array) -> Array:
    """C1(R(C3(R(C1(x)))))."""
    first, second, third = names
    inner = _rectified(_real(network, second, "C", _rectified(_real(network, first, "C", x))))
    return _real(network, third, "C", inner)


def _real(network: Network, name: str, kernel: Kernel, x: Array) -> Array:
    return _convolved(x, network.taps(name, kernel), kernel) + network.bias(name)


def _rectified(x: Array) -> Array:
    return np.maximum(x, 0)


def _values(levels: Array, centroids: Array) -> Array:
    """Levels, clipped to [0, 255] -> what stands between the two centroids beside each."""
    levels = np.clip(levels, 0, 255)
    low = np.minimum(np.floor(levels), 254).astype(np.int64)
    return centroids[low] + (levels - low) * (centroids[low + 1] - centroids[low])
