"""The learned codecs behind the interface of `codecs`.

    features --plane transform--> plane --tiles--> g_a --gain--> y --latents--> symbols --rANS--> bytes behind the head
    features <--plane transform-- plane <--tiles-- g_s <--gain-- y_hat <-------------------------

Symbols are the same on every machine. The output of g_s is computed in floating point, and may differ in its last bits.
`plane` has the plane transforms. `docs/bitstream.md` ("hyperprior, elic, kltprior") specifies the payload.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import ceil, prod
from typing import Any, Final, Self

import numpy as np
import torch

from dtufc.coding.arrays import Array
from dtufc.coding.bitstream import CodecId, read_varint, write_varint
from dtufc.coding.codecs import Payload
from dtufc.coding.codecs.klt_transform import KltTransform
from dtufc.coding.codecs.learned import VARIANTS, fitted_plane_transform, shipped_network
from dtufc.coding.codecs.learned.latents import Coding, Counter, Reader, Writer
from dtufc.coding.codecs.learned.network_file import TrainedNetwork, load_network
from dtufc.coding.codecs.learned.networks import STRIDE, in_strips
from dtufc.coding.codecs.learned.plane import MIDDLE, NETWORK_SCALE, PlaneTransform
from dtufc.coding.entropy import Decoder, Encoder
from dtufc.coding.features import to_dtype
from dtufc.coding.layout import Layout
from dtufc.errors import Corrupt, InputError

RATE_STEPS: Final = 1023  # a setting is sent as an integer from 0 to this
_LATENT_STRIDE: Final = 16
_TILE_SIDE: Final = 2048
_PADDED_TIMES: Final = 4  # a plane may be padded to this many times its values,
_ALWAYS_PADDED: Final = 1 << 22  # or to this area


class LearnedCodec:
    """Features -> payload through a network; its setting is linear in the network's range of rates."""

    has_rate = True

    def __init__(self, codec_id: CodecId, trained: TrainedNetwork, plane_transform: PlaneTransform) -> None:
        self.id = codec_id
        self.trained = trained
        self.plane_transform = plane_transform

    @classmethod
    def from_arrays(
        cls, name: str, arrays: Mapping[str, Array], layout: Layout, klt: KltTransform | None = None
    ) -> Self:
        """A codec from the result of `fit_learned`, read from a profile, with the network that it was fitted for."""
        plane_transform = fitted_plane_transform(name, arrays, layout, klt)
        return cls(VARIANTS[name].id, load_network(shipped_network(name)), plane_transform)

    @torch.inference_mode()
    def encoder(self, features: Array, focus: Sequence[int] = ()) -> Callable[[float], Payload]:
        """Encodes at any quality; work that does not depend on it is done once.

        Raises:
            InputError: the features are out of the range of the fit, or their plane is mostly padding.
        """
        plane, head = self.plane_transform.to_plane(features)
        _check(plane.shape, features.size, InputError)
        padding = self.plane_transform.padding
        analysed = [in_strips(self.trained.network.g_a, padded(plane[tile], padding)) for tile in _tiles(plane.shape)]

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
        head, offset = self.plane_transform.read_head(payload.data, offset, shape)
        _check(head.plane_shape, prod(shape), Corrupt)
        decoder = Decoder(payload.data[offset:])
        reader = Reader(decoder, self.trained.tables)
        tiles = list(_tiles(head.plane_shape))
        latents = [self.trained.latents.transcode(reader, _latent_shape(tile), None, None) for tile in tiles]
        decoder.finish(payload.symbol_crc)
        plane = np.empty(head.plane_shape, np.float32)
        for tile, y_hat in zip(tiles, latents, strict=True):
            plane[tile] = self._synthesize(y_hat, index)[: plane[tile].shape[0], : plane[tile].shape[1]]
        plane = np.nan_to_num(plane, nan=MIDDLE)  # from symbols that no encoder writes
        return to_dtype(head.features(plane), dtype)

    def count(self, features: Array, counter: Counter, qualities: Sequence[float]) -> None:
        """Counts the symbols that an encoder would write, to fit tables to them."""
        plane, _ = self.plane_transform.to_plane(features)
        for tile in _tiles(plane.shape):
            with torch.inference_mode():
                analysed = in_strips(self.trained.network.g_a, padded(plane[tile], self.plane_transform.padding))
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
        network = self.trained.network
        decoded = in_strips(network.g_s, latent * network.gains.inverse(self._rate(index)))
        return (decoded[0, 0] * NETWORK_SCALE + MIDDLE).numpy()

    def _rate(self, index: int) -> torch.Tensor:
        return torch.tensor([index * (self.trained.num_rates - 1) / RATE_STEPS])


def _check(plane_shape: tuple[int, ...], num_values: int, error: type[InputError | Corrupt]) -> None:
    """Raises `error` for a plane so narrow that it is mostly padding."""
    area = prod(size + -size % STRIDE for size in plane_shape)
    if area <= max(_PADDED_TIMES * num_values, _ALWAYS_PADDED):
        return
    problem = f"a plane of {plane_shape} is mostly padding"
    if issubclass(error, Corrupt):
        raise Corrupt(problem=problem)
    raise InputError(field="features", problem=problem, remedy="Use another codec")


def _tiles(shape: tuple[int, ...]) -> Iterator[tuple[slice, slice]]:
    """Tiles of a plane, row by row, of equal sides of at most 2048 except for the last ones."""
    rows, columns = (_cuts(size) for size in shape)
    yield from ((row, column) for row in rows for column in columns)


def _cuts(size: int) -> list[slice]:
    count = ceil(size / _TILE_SIDE)
    step = ceil(size / count)
    return [slice(start, min(start + step, size)) for start in range(0, size, step)]


def padded(tile: Array, level: float | None) -> torch.Tensor:
    """[H, W] levels -> [1, 1, H', W'] at network scale, padded to multiples of 64 with this level or the edge."""
    missing = [(0, -size % STRIDE) for size in tile.shape]
    whole = np.pad(tile, missing, mode="edge") if level is None else np.pad(tile, missing, constant_values=level)
    return torch.from_numpy((whole - np.float32(MIDDLE)) / np.float32(NETWORK_SCALE))[None, None]


def _latent_shape(tile: tuple[slice, slice]) -> tuple[int, int]:
    height, width = (ceil((part.stop - part.start) / STRIDE) * (STRIDE // _LATENT_STRIDE) for part in tile)
    return height, width
