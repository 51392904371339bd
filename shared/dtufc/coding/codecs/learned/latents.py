"""Latents <-> coded symbols, under probabilities that integer networks predict.

    z --round--> symbols under each channel's table
    y --round--> symbols under the table of the scale that h_s (for ELIC also the decoded context) predicts

One class for each network, with one code path for both directions: a Writer takes the values and returns the symbols
that it wrote, a Reader returns the symbols that it read. Everything that is derived from symbols is in integers.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any, Final, Protocol

import numpy as np
import torch
from torch import Tensor

from dtufc.coding.arrays import Array
from dtufc.coding.codecs.learned.integers import ONE, Layer, layers_of, run
from dtufc.coding.codecs.learned.networks import Elic, Hyperprior
from dtufc.coding.entropy import Decoder, Encoder, Tables, quantize_frequencies

NUM_SCALES: Final = 64
_SCALE_MIN, _SCALE_MAX = 0.11, 256.0  # CompressAI's scale table
_ESCAPE_MASS: Final = 2.0**-20  # of a distribution, left to the escape
_OUTLIER_SHARE: Final = 2.0**-12  # of the latents, far from the prediction of h_s
_SIDE_OUTLIER_SHARE: Final = 2.0**-7
_SIDE_OUTLIER_SCALE: Final = 8.0
_SIDE_RADIUS: Final = 255
_COUNTED_RADIUS: Final = 400
_PRIOR_WEIGHT: Final = 3e-4  # of the assumed distribution, relative to the counted symbols
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
    """Integer tables and the borders between scales, as stored in a network's file."""

    def __init__(self, arrays: dict[str, Array]) -> None:
        self.borders = torch.from_numpy(arrays["scale_borders"]).double()  # [63] integers, as activations
        self.latent = _tables(arrays["latent_frequencies"], arrays["latent_sizes"])
        self.side = _tables(arrays["side_frequencies"], arrays["side_sizes"])

    def classes(self, scales: Tensor) -> Array:
        """The class of each scale, integers in float64, uint8."""
        return torch.bucketize(scales.flatten(), self.borders).byte().numpy()

    @staticmethod
    def arrays_for(side_prior: Any, counted: "Counter | None" = None) -> dict[str, Array]:
        """The arrays for the constructor; computed in floating point, for export only.

        Args:
            side_prior: CompressAI's entropy bottleneck of z.
            counted: symbols of training features; without them y is assumed to be normal, as in the paper.
        """
        logs = np.linspace(np.log(_SCALE_MIN), np.log(_SCALE_MAX), NUM_SCALES)
        borders = np.exp((logs[1:] + logs[:-1]) / 2)
        latent = [_scale_weights(scale) for scale in np.exp(logs)]
        side = _side_weights(side_prior)
        if counted:
            latent = [_blended(assumed, counts) for assumed, counts in zip(latent, counted.latent, strict=True)]
            side = [_blended(assumed, counts) for assumed, counts in zip(side, counted.side_counts, strict=True)]
        rows = {"latent": [_frequencies(row) for row in latent], "side": [_frequencies(row) for row in side]}
        return {
            "scale_borders": np.rint(borders * ONE).astype(np.int64),
            **{f"{name}_frequencies": np.concatenate(found) for name, found in rows.items()},
            **{f"{name}_sizes": np.array([len(row) for row in found], np.int32) for name, found in rows.items()},
        }


class Counter:
    """Values to symbols, counted: tables can be fitted to the counts instead of normal distributions.

    Attributes:
        latent: [64, 801], the count of each symbol in each class.
        side_counts: [N, 511], the count of each symbol in each channel of z.
    """

    def __init__(self, tables: "SymbolTables", num_channels: int) -> None:
        self._tables = tables
        self.latent = np.zeros((NUM_SCALES, 2 * _COUNTED_RADIUS + 1))
        self.side_counts = np.zeros((num_channels, 2 * _SIDE_RADIUS + 1))

    def side(self, z: Array | None, shape: tuple[int, int, int]) -> Array:
        assert z is not None
        symbols = _rounded(z)
        channels = np.broadcast_to(np.arange(shape[-1]), shape)
        np.add.at(self.side_counts, (channels, np.clip(symbols, -_SIDE_RADIUS, _SIDE_RADIUS) + _SIDE_RADIUS), 1.0)
        return symbols

    def latents(self, classes: Array, y: Array | None) -> Array:
        assert y is not None
        symbols = _rounded(y)
        np.add.at(self.latent, (classes, np.clip(symbols, -_COUNTED_RADIUS, _COUNTED_RADIUS) + _COUNTED_RADIUS), 1.0)
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
        hyper, y = network.latent_codec["hyper"], network.latent_codec["y"]
        self._h_s = layers_of(hyper.h_s)
        self._tables = tables
        self._ends = list(accumulate(network.groups))
        self._sizes = list(network.groups)
        codecs = [y.latent_codec[f"y{k}"] for k in range(len(self._sizes))]
        self._channel: list[list[Layer]] = [[], *(layers_of(y.channel_context[f"y{k}"]) for k in range(1, len(codecs)))]
        self._spatial = [layers_of(codec.context_prediction)[0] for codec in codecs]
        self._parameters = [layers_of(codec.entropy_parameters) for codec in codecs]
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


def _scale_weights(scale: float) -> Array:
    """[2 r + 1], weights of the integers under a normal distribution of mean 0, with the longer tails of outliers."""
    radius = min(4096, int(scale * 40) + 16)
    symbols = np.arange(-radius, radius + 1)
    normal = np.diff(_normal_cdf((np.arange(-radius, radius + 2) - 0.5) / scale))
    return (1 - _OUTLIER_SHARE) * normal + _OUTLIER_SHARE * _laplace(symbols, 2 * scale + 1)


def _side_weights(side_prior: Any) -> list[Array]:
    """[511] for each channel of z, weights of its integers, with the tails of outliers."""
    edges = torch.arange(-_SIDE_RADIUS, _SIDE_RADIUS + 2, dtype=torch.float32) - 0.5
    with torch.inference_mode():
        logits = side_prior._logits_cumulative(edges.repeat(side_prior.channels, 1, 1), stop_gradient=True)
    below = torch.sigmoid(logits.double())[:, 0].numpy()  # [N, edges]
    outliers = _laplace(np.arange(-_SIDE_RADIUS, _SIDE_RADIUS + 1), _SIDE_OUTLIER_SCALE)
    learned = np.maximum(np.diff(below, axis=1), 0)
    return list((1 - _SIDE_OUTLIER_SHARE) * learned + _SIDE_OUTLIER_SHARE * outliers)


def _blended(assumed: Array, counts: Array) -> Array:
    """Counts, blended with the assumed weights where counts are few; both are centred on the symbol 0."""
    radius, counted = len(assumed) // 2, len(counts) // 2
    padded = np.pad(counts, max(radius - counted, 0))[max(counted - radius, 0) :][: len(assumed)]
    return padded / max(counts.sum(), 1.0) + assumed * max(_PRIOR_WEIGHT, 1.0 / max(counts.sum(), 1.0))


def _frequencies(weights: Array) -> Array:
    """Integer frequencies of the symbols that matter and of the escape, from weights about the symbol 0."""
    weights = weights / weights.sum()
    middle = len(weights) // 2
    radius = max(1, int(np.abs(np.flatnonzero(weights > _ESCAPE_MASS / 8) - middle).max(initial=1)))
    kept = weights[middle - radius : middle + radius + 1]
    return quantize_frequencies(np.append(kept, max(1 - kept.sum(), _ESCAPE_MASS)))


def _laplace(symbols: Array, scale: float) -> Array:
    weights = np.exp(-np.abs(symbols) / scale)
    return weights / weights.sum()


def _normal_cdf(x: Array) -> Array:
    return torch.special.ndtr(torch.as_tensor(x, dtype=torch.float64)).numpy()
