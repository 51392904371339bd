"""Writes a trained network as one file: float16 weights, and the integer tables of its symbols."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors.numpy import save_file

from dtufc.coding.arrays import Array
from dtufc.coding.codecs.learned.integers import ONE
from dtufc.coding.codecs.learned.latents import NUM_SCALES, SIDE_RADIUS, Counter
from dtufc.coding.codecs.learned.networks import Kind, Widths
from dtufc.coding.entropy import quantize_frequencies
from dtufc_research.training.networks import with_weights

_SCALE_MIN, _SCALE_MAX = 0.11, 256.0  # CompressAI's scale table
_ESCAPE_MASS: Final = 2.0**-20  # of a distribution, left to the escape
_OUTLIER_SHARE: Final = 2.0**-12  # of the latents, far from the prediction of h_s
_SIDE_OUTLIER_SHARE: Final = 2.0**-7
_SIDE_OUTLIER_SCALE: Final = 8.0
_PRIOR_WEIGHT: Final = 3e-4  # of the assumed distribution, relative to the counted symbols


def save_network(
    path: Path,
    kind: Kind,
    widths: Widths,
    lambdas: Sequence[float],
    network: torch.nn.Module,
    origin: dict[str, str],
    counted: Counter | None = None,
) -> None:
    """Writes a network after training.

    Args:
        path: of the file.
        kind: hyperprior, elic or prior.
        widths: that it was built with.
        lambdas: of its rates.
        network: trained.
        origin: remarks for the reader of the file: how it was trained.
        counted: symbols of training features, to fit the tables to.
    """
    halves = {name: _half(value) for name, value in network.named_parameters()}
    rounded = with_weights(kind, widths, lambdas, halves)
    weights = {f"network.{name}": array for name, array in halves.items()}
    tables = {f"tables.{name}": array for name, array in table_arrays(rounded.side_prior, counted).items()}
    shape = json.dumps({"kind": kind, "widths": asdict(widths), "lambdas": list(lambdas)})
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({**weights, **tables}, path, {"network": shape, **origin})
    path.chmod(0o644)


def table_arrays(side_prior: Any, counted: Counter | None = None) -> dict[str, Array]:
    """The arrays of SymbolTables; computed in floating point, once, for export.

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


def _half(value: torch.Tensor) -> Array:
    array: Array = value.detach().float().numpy()
    return np.ascontiguousarray(np.clip(array, -65504, 65504)).astype(np.float16)


def _scale_weights(scale: float) -> Array:
    """[2 r + 1], weights of the integers under a normal distribution of mean 0, with the longer tails of outliers."""
    radius = min(4096, int(scale * 40) + 16)
    symbols = np.arange(-radius, radius + 1)
    normal = np.diff(_normal_cdf((np.arange(-radius, radius + 2) - 0.5) / scale))
    return (1 - _OUTLIER_SHARE) * normal + _OUTLIER_SHARE * _laplace(symbols, 2 * scale + 1)


def _side_weights(side_prior: Any) -> list[Array]:
    """[511] for each channel of z, weights of its integers, with the tails of outliers."""
    edges = torch.arange(-SIDE_RADIUS, SIDE_RADIUS + 2, dtype=torch.float32) - 0.5
    with torch.inference_mode():
        logits = side_prior._logits_cumulative(edges.repeat(side_prior.channels, 1, 1), stop_gradient=True)
    below = torch.sigmoid(logits.double())[:, 0].numpy()  # [N, edges]
    outliers = _laplace(np.arange(-SIDE_RADIUS, SIDE_RADIUS + 1), _SIDE_OUTLIER_SCALE)
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
