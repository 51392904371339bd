"""The learned codecs behind the codecs' interface.

    features --preparation--> plane --tiles--> g_a --gain--> y --latents--> symbols --rANS--> bytes
    features <--preparation-- plane <--tiles-- g_s <--gain-- y_hat <-------------------------

Symbols are the same on every machine; what g_s makes of them is computed in floats, and may differ in its last bits.
Values that no level is near to go apart, as they are: no outlier is clipped. `docs/bitstream.md` ("hyperprior, elic,
gridprior") is the norm of the payload.
"""

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import ceil, prod
from typing import Any, Final, Self

import numpy as np
import torch

from dtufc.arrays import Array
from dtufc.bitstream import CodecId, read_varint, write_varint
from dtufc.codecs import Payload
from dtufc.codecs.learned import VARIANTS, fitted_preparation, shipped_network
from dtufc.codecs.learned.latents import Coding, Counter, Reader, Writer
from dtufc.codecs.learned.network_file import TrainedNetwork, load_network
from dtufc.codecs.learned.networks import MIDDLE, STRIDE, UNIT
from dtufc.codecs.learned.plane import Preparation
from dtufc.entropy import Decoder, Encoder
from dtufc.errors import Corrupt, InputError
from dtufc.features import to_dtype
from dtufc.layout import Layout

RATE_STEPS: Final = 1023  # quality is sent as an integer from 0 to this
_LATENT_STRIDE: Final = 16
_TILE_SIDE: Final = 2048
_MOST_APART: Final = 8  # one value in so many
_PADDED_TIMES: Final = 4  # a plane may be padded to so many times its values,
_ALWAYS_PADDED: Final = 1 << 22  # or to this area


class LearnedCodec:
    """Features -> payload through a network; quality goes along the network's range of rates."""

    has_rate = True

    def __init__(self, codec_id: CodecId, trained: TrainedNetwork, preparation: Preparation, layout: Layout) -> None:
        self.id = codec_id
        self.trained = trained
        self._preparation, self._layout = preparation, layout

    @classmethod
    def from_arrays(cls, name: str, arrays: Mapping[str, Array], layout: Layout) -> Self:
        """What `fit_learned` returned, read back from a profile, with the network that it was fitted for."""
        preparation = fitted_preparation(name, arrays)
        return cls(VARIANTS[name].id, load_network(shipped_network(name)), preparation, layout)

    @torch.inference_mode()
    def encoder(self, features: Array) -> Callable[[float], Payload]:
        """Encodes at any quality; what does not depend on it is done once.

        Raises:
            InputError: too many values are far from those that the profile was fitted on.
        """
        self._check(features.shape, InputError)
        values = features.astype(np.float32)
        apart = np.flatnonzero(self._preparation.is_far(values, self._layout))
        if len(apart) * _MOST_APART > values.size:
            raise InputError(
                field="features",
                problem="values far beyond those that the profile was fitted on",
                remedy="Use codec 'raw', or fit a profile on such features",
            )
        plane = self._preparation.to_plane(values, self._layout)
        head = _write_apart(apart, values)
        analysed = [self.trained.network.g_a(padded(plane[tile])) for tile in _tiles(plane.shape)]

        def at(quality: float) -> Payload:
            index = round(quality * RATE_STEPS)
            encoder = Encoder()
            for y in analysed:
                self._transcode(Writer(encoder, self.trained.tables), y, index)
            return Payload(data=write_varint(index) + head + encoder.finish(), symbol_crc=encoder.crc)

        return at

    def decode(self, payload: Payload, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        index, offset = read_varint(payload.data, 0)
        if index > RATE_STEPS:
            raise Corrupt(problem=f"rate {index} of {RATE_STEPS}")
        self._check(shape, Corrupt)
        apart, values, offset = _read_apart(payload.data, offset, prod(shape))
        plane_shape = self._preparation.plane_shape(shape, self._layout)
        decoder = Decoder(payload.data[offset:])
        reader = Reader(decoder, self.trained.tables)
        tiles = list(_tiles(plane_shape))
        latents = [self.trained.latents.transcode(reader, _latent_shape(tile), None, None) for tile in tiles]
        decoder.finish(payload.symbol_crc)
        plane = np.empty(plane_shape, np.float32)
        for tile, y_hat in zip(tiles, latents, strict=True):
            plane[tile] = self._synthesize(y_hat, index)[: plane[tile].shape[0], : plane[tile].shape[1]]
        plane = np.nan_to_num(plane, nan=MIDDLE)  # of symbols that no encoder writes
        features = np.ascontiguousarray(self._preparation.from_plane(plane, shape, self._layout))
        features.ravel()[apart] = values
        return to_dtype(features, dtype)

    def count(self, features: Array, counter: Counter, qualities: Sequence[float]) -> None:
        """Counts the symbols that would be written, for tables fitted to them."""
        plane = self._preparation.to_plane(features, self._layout)
        for tile in _tiles(plane.shape):
            with torch.inference_mode():
                analysed = self.trained.network.g_a(padded(plane[tile]))
            for quality in qualities:
                self._transcode(counter, analysed, round(quality * RATE_STEPS))

    @torch.inference_mode()
    def _transcode(self, coding: Coding, analysed: torch.Tensor, index: int) -> None:
        network = self.trained.network
        y = analysed * network.gains.gain(self._rate(index))
        z = network.hyper_analysis(y)
        y_rows, z_rows = (value[0].permute(1, 2, 0).numpy() for value in (y, z))
        self.trained.latents.transcode(coding, (y.shape[2], y.shape[3]), y_rows, z_rows)

    @torch.inference_mode()
    def _synthesize(self, y_hat: Array, index: int) -> Array:
        """Latent [h, w, M] -> levels [16 h, 16 w]."""
        latent = torch.from_numpy(y_hat).permute(2, 0, 1)[None]
        decoded = self.trained.network.synthesis(latent, self._rate(index))
        return (decoded[0, 0] * UNIT + MIDDLE).numpy()

    def _check(self, shape: tuple[int, ...], error: type[InputError | Corrupt]) -> None:
        """Raises `error` for other channels than were fitted, or a plane so narrow that it is mostly padding."""
        channels = self._layout.rows_shape(shape)[-1]
        if self._preparation.mean.size not in (0, channels):
            raise _refusal(error, f"{channels} channels, fitted for {self._preparation.mean.size}")
        area = prod(size + -size % STRIDE for size in self._preparation.plane_shape(shape, self._layout))
        if area > max(_PADDED_TIMES * prod(shape), _ALWAYS_PADDED):
            raise _refusal(error, f"a plane of {shape} is mostly padding")

    def _rate(self, index: int) -> torch.Tensor:
        return torch.tensor([index * (self.trained.num_rates - 1) / RATE_STEPS])


def _refusal(error: type[InputError | Corrupt], problem: str) -> InputError | Corrupt:
    if issubclass(error, Corrupt):
        return Corrupt(problem=problem)
    return InputError(field="features", problem=problem, remedy="Use another codec, or the profile of this model")


def _tiles(shape: tuple[int, ...]) -> Iterator[tuple[slice, slice]]:
    """Parts of a plane, row by row, of equal sides of at most 2048 but for the last ones."""
    rows, columns = (_cuts(size) for size in shape)
    yield from ((row, column) for row in rows for column in columns)


def _cuts(size: int) -> list[slice]:
    parts = ceil(size / _TILE_SIDE)
    step = ceil(size / parts)
    return [slice(start, min(start + step, size)) for start in range(0, size, step)]


def padded(tile: Array) -> torch.Tensor:
    """[H, W] levels -> [1, 1, H', W'] in network units, the border repeated up to multiples of 64."""
    padding = [(0, -size % STRIDE) for size in tile.shape]
    return torch.from_numpy((np.pad(tile, padding, mode="edge") - np.float32(MIDDLE)) / np.float32(UNIT))[None, None]


def _latent_shape(tile: tuple[slice, slice]) -> tuple[int, int]:
    height, width = (ceil((part.stop - part.start) / STRIDE) * (STRIDE // _LATENT_STRIDE) for part in tile)
    return height, width


def _write_apart(at: Array, values: Array) -> bytes:
    """The values that go apart: how many, then for each the values skipped before it, then all of them as float32."""
    skips = np.diff(at, prepend=-1) - 1
    listed = b"".join(write_varint(skip) for skip in skips.tolist())
    return write_varint(len(at)) + listed + values.ravel()[at].astype("<f4").tobytes()


def _read_apart(data: bytes, offset: int, num_values: int) -> tuple[Array, Array, int]:
    """(positions, values, offset behind them)."""
    count, offset = read_varint(data, offset)
    if count * 5 > len(data) or count * _MOST_APART > num_values:
        raise Corrupt(problem=f"{count} values apart in {len(data)} bytes")
    at, position = [], -1
    for _ in range(count):
        skip, offset = read_varint(data, offset)
        position += skip + 1
        at.append(position)
    if position >= num_values or offset + 4 * count > len(data):
        raise Corrupt(problem="a value apart beyond the feature")
    values = np.frombuffer(data, "<f4", count, offset)
    if not np.isfinite(values).all():
        raise Corrupt(problem="a value apart that is not finite")
    return np.array(at, dtype=np.int64), values, offset + struct.calcsize("<f") * count
