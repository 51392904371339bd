"""Latents <-> coded symbols, under probabilities that integer networks predict.

    z --round--> symbols under each channel's table
    y --round--> symbols under the table of the scale that h_s (for ELIC also the decoded context) predicts

One class for each network, with one code path for both directions: a Writer takes the values and returns the symbols
that it wrote, a Reader returns the symbols that it read. Everything that is derived from symbols is in integers.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Final, Protocol

import numpy as np
import torch
from torch import Tensor

from dtufc.coding.arrays import Array
from dtufc.coding.codecs.learned.integers import ONE, Layer, layers_of, run
from dtufc.coding.codecs.learned.networks import Elic, Hyperprior
from dtufc.coding.entropy import Decoder, Encoder, Tables

NUM_SCALES: Final = 64
SIDE_RADIUS: Final = 255
COUNTED_RADIUS: Final = 400
_MAX_SYMBOL: Final = 1 << 13  # a symbol is clipped to this when written, and its derived value when read


class Coding(Protocol):
    """One direction."""

    def side(self, z: Array | None, shape: tuple[int, int, int]) -> Array:
        """Symbols [h, w, N] int32 of z, [h, w, N], which only a Writer is given."""

    def latents(self, classes: Array, y: Array | None) -> Array:
        """Symbols [n] int32 of y, [n], each under the table of its class, [n]."""


class Writer:
    """Values to symbols into an Encoder."""

    def __init__(self, encoder: Encoder, tables: "SymbolTables") -> None:
        self._encoder, self._tables = encoder, tables

    def side(self, z: Array | None, shape: tuple[int, int, int]) -> Array:
        assert z is not None
        symbols = _rounded(z)
        for channel in range(shape[-1]):
            self._encoder.write(self._tables.side, channel, symbols[..., channel].ravel())
        return symbols

    def latents(self, classes: Array, y: Array | None) -> Array:
        assert y is not None
        symbols = _rounded(y)
        for row, positions in _runs(classes):
            self._encoder.write(self._tables.latent, row, symbols[positions])
        return symbols


class Reader:
    """Symbols out of a Decoder."""

    def __init__(self, decoder: Decoder, tables: "SymbolTables") -> None:
        self._decoder, self._tables = decoder, tables

    def side(self, z: Array | None, shape: tuple[int, int, int]) -> Array:
        channels = [self._decoder.read(self._tables.side, channel, shape[0] * shape[1]) for channel in range(shape[-1])]
        return np.stack(channels, axis=-1).reshape(shape)

    def latents(self, classes: Array, y: Array | None) -> Array:
        symbols = np.zeros(len(classes), dtype=np.int32)
        for row, positions in _runs(classes):
            symbols[positions] = self._decoder.read(self._tables.latent, row, len(positions))
        return symbols


class SymbolTables:
    """Integer tables and the borders between scales, as training stored them in a network's file."""

    def __init__(self, arrays: dict[str, Array]) -> None:
        self.borders = torch.from_numpy(arrays["scale_borders"]).double()  # [63] integers, as activations
        self.latent = _tables(arrays["latent_frequencies"], arrays["latent_sizes"])
        self.side = _tables(arrays["side_frequencies"], arrays["side_sizes"])

    def classes(self, scales: Tensor) -> Array:
        """The class of each scale, integers in float64, uint8."""
        return torch.bucketize(scales.flatten(), self.borders).byte().numpy()


class Counter:
    """Values to symbols, counted: tables can be fitted to the counts instead of normal distributions.

    Attributes:
        latent: [64, 801], the count of each symbol in each class.
        side_counts: [N, 511], the count of each symbol in each channel of z.
    """

    def __init__(self, tables: "SymbolTables", num_channels: int) -> None:
        self._tables = tables
        self.latent = np.zeros((NUM_SCALES, 2 * COUNTED_RADIUS + 1))
        self.side_counts = np.zeros((num_channels, 2 * SIDE_RADIUS + 1))

    def side(self, z: Array | None, shape: tuple[int, int, int]) -> Array:
        assert z is not None
        symbols = _rounded(z)
        channels = np.broadcast_to(np.arange(shape[-1]), shape)
        np.add.at(self.side_counts, (channels, np.clip(symbols, -SIDE_RADIUS, SIDE_RADIUS) + SIDE_RADIUS), 1.0)
        return symbols

    def latents(self, classes: Array, y: Array | None) -> Array:
        assert y is not None
        symbols = _rounded(y)
        np.add.at(self.latent, (classes, np.clip(symbols, -COUNTED_RADIUS, COUNTED_RADIUS) + COUNTED_RADIUS), 1.0)
        return symbols


class HyperpriorLatents:
    """z, then all of y at once."""

    def __init__(self, network: Hyperprior, tables: SymbolTables) -> None:
        self._h_s = layers_of(network.h_s)
        self._tables = tables

    def transcode(self, coding: Coding, shape: tuple[int, int], y: Array | None, z: Array | None) -> Array:
        """The decoded latent, [h, w, M] float32; only a Writer gets y [h, w, M] and z [h/4, w/4, N]."""
        scales = _hyper(self._h_s, coding, shape, z)
        symbols = coding.latents(self._tables.classes(scales), None if y is None else y.ravel())
        return _bounded(symbols).reshape(scales.shape).float().numpy()


class ElicLatents:
    """z, then y by groups of channels, each group's even squares of a checkerboard before the odd ones."""

    def __init__(self, network: Elic, tables: SymbolTables) -> None:
        def layers(name: str) -> list[Layer]:
            return layers_of(network.get_submodule(f"latent_codec.{name}"))

        self._h_s = layers("hyper.h_s")
        self._tables = tables
        self._ends = list(accumulate(network.groups))
        self._sizes = list(network.groups)
        groups = range(len(self._sizes))
        self._channel: list[list[Layer]] = [layers(f"y.channel_context.y{k}") if k else [] for k in groups]
        self._spatial = [layers(f"y.latent_codec.y{k}.context_prediction")[0] for k in groups]
        self._parameters = [layers(f"y.latent_codec.y{k}.entropy_parameters") for k in groups]
        self._at_even = [  # where there is no spatial context, whose channels are the first
            [replace(first, taps=first.taps[:, :, 2 * size :]), *rest]
            for (first, *rest), size in zip(self._parameters, self._sizes, strict=True)
        ]

    def transcode(self, coding: Coding, shape: tuple[int, int], y: Array | None, z: Array | None) -> Array:
        """See `HyperpriorLatents.transcode`."""
        hyper = _hyper(self._h_s, coding, shape, z)
        y_hat = hyper.new_zeros((*shape, self._ends[-1]))  # integers, as activations
        for k, (end, size) in enumerate(zip(self._ends, self._sizes, strict=True)):
            wanted = None if y is None else y[..., end - size : end]
            known = [run(self._channel[k], y_hat[..., : end - size]), hyper] if k else [hyper]
            y_hat[..., end - size : end] = self._group(coding, k, torch.cat(known, dim=-1), wanted)
        return (y_hat / ONE).float().numpy()

    def _group(self, coding: Coding, k: int, known: Tensor, wanted: Array | None) -> Tensor:
        """[h, w, size] of one group, given its side information [h, w, ...]."""
        size, (height, width, _) = self._sizes[k], known.shape
        is_odd = (torch.arange(height)[:, None] + torch.arange(width)) % 2
        found = known.new_zeros((height, width, size))
        for side in (0, 1):
            squares = torch.nonzero(is_odd.flatten() == side)[:, 0]
            layers, inputs = self._at_even[k], known.flatten(0, 1)[squares]
            if side:
                layers = self._parameters[k]
                inputs = torch.cat([self._spatial[k].at(squares, found), inputs], dim=-1)
            parameters = run(layers, inputs[:, None])[:, 0]
            scales, means = parameters[:, :size], parameters[:, size:]
            residual = None
            if wanted is not None:
                residual = (torch.from_numpy(wanted).flatten(0, 1)[squares] - means / ONE).flatten().numpy()
            symbols = coding.latents(self._tables.classes(scales), residual).reshape(means.shape)
            found.view(-1, size)[squares] = _bounded(symbols) * ONE + means
        return found


def _hyper(h_s: list[Layer], coding: Coding, shape: tuple[int, int], z: Array | None) -> Tensor:
    """[h, w, ...], the output of h_s for z, as activations."""
    z_hat = coding.side(z, (shape[0] // 4, shape[1] // 4, h_s[0].taps.shape[2]))
    return run(h_s, _bounded(z_hat) * ONE)


def latents_of(network: Hyperprior | Elic, tables: SymbolTables) -> HyperpriorLatents | ElicLatents:
    """The latents of either network."""
    return ElicLatents(network, tables) if isinstance(network, Elic) else HyperpriorLatents(network, tables)


def _rounded(values: Array) -> Array:
    return np.rint(np.clip(values, -_MAX_SYMBOL, _MAX_SYMBOL)).astype(np.int32)


def _bounded(symbols: Array) -> Tensor:
    """Symbols clipped to the range of derived values, float64."""
    return torch.from_numpy(symbols).clamp(-_MAX_SYMBOL, _MAX_SYMBOL).double()


def _runs(classes: Array) -> Sequence[tuple[int, Array]]:
    """(class, its positions), ascending."""
    order = np.argsort(classes, kind="stable")  # of bytes: a radix sort
    counts = np.bincount(classes, minlength=NUM_SCALES)
    runs = np.split(order, np.cumsum(counts)[:-1])
    return [(row, positions) for row, positions in enumerate(runs) if len(positions)]


def _tables(frequencies: Array, sizes: Array) -> Tables:
    return Tables(np.split(frequencies, np.cumsum(sizes)[:-1]), escape=True)
