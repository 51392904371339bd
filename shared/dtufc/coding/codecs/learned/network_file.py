"""A trained network as one file: float16 weights, integer tables, and the configuration to rebuild it.

Every profile that was fitted for the network holds the SHA-256 of the file. Training writes it, with the weights of its
likelihoods, which coding does not need: there the tables take their place.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from dtufc.coding.arrays import Array
from dtufc.coding.codecs.learned.latents import ElicLatents, HyperpriorLatents, SymbolTables, latents_of
from dtufc.coding.codecs.learned.networks import KINDS, Elic, Hyperprior, Kind, Widths
from dtufc.errors import InputError

_LIKELIHOODS: Final = "entropy_bottleneck."  # in the names of weights that training alone needs


@dataclass(frozen=True, slots=True, eq=False)
class NetworkFile:
    """What a file holds.

    Attributes:
        kind: of the network.
        widths: that it was built with.
        lambdas: of its rates.
        weights: float16, by the names of parameters.
        tables: the arrays of SymbolTables.
    """

    kind: Kind
    widths: Widths
    lambdas: Sequence[float]
    weights: dict[str, Array]
    tables: dict[str, Array]


@dataclass(frozen=True, slots=True, eq=False)
class TrainedNetwork:
    """A network as a learned codec runs it.

    Attributes:
        network: g_a, h_a, g_s and the gains, in floating point: the last bit does not matter.
        latents: the networks that predict probabilities, in integers.
        tables: of the symbols.
        num_rates: points of the gains.
    """

    network: Hyperprior | Elic
    latents: HyperpriorLatents | ElicLatents
    tables: SymbolTables
    num_rates: int


def read_network(path: Path) -> NetworkFile:
    """Reads a file. Raises InputError if it is missing or damaged."""
    try:
        with safe_open(path, "np") as file:
            shape: dict[str, Any] = json.loads(file.metadata()["network"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return NetworkFile(
            kind=shape["kind"],
            widths=_widths(shape["widths"]),
            lambdas=shape["lambdas"],
            weights=_under(arrays, "network."),
            tables=_under(arrays, "tables."),
        )
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise _damaged(path, error) from error


@lru_cache(maxsize=8)
def load_network(path: Path) -> TrainedNetwork:
    """Reads a file, for coding. Raises InputError if it is missing or damaged."""
    kept = read_network(path)
    try:
        network, tables = build(kept), SymbolTables(kept.tables)
        return TrainedNetwork(network, latents_of(network, tables), tables, len(kept.lambdas))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise _damaged(path, error) from error


def build(kept: NetworkFile) -> Hyperprior | Elic:
    """The network of a file, for coding."""
    with torch.random.fork_rng(devices=[]):  # the initialization is discarded; the caller's random state is kept
        network = KINDS[kept.kind](kept.widths, kept.lambdas)
    weights = {name: array for name, array in kept.weights.items() if _LIKELIHOODS not in name}
    network.load_state_dict({name: torch.from_numpy(array.astype(np.float32)) for name, array in weights.items()})
    return network.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # much faster on a CPU


def _damaged(path: Path, error: Exception) -> InputError:
    problem = f"{path.name}: {' '.join(str(error).split())[:200]}"
    return InputError(field="network", problem=problem, remedy="Restore the file")


def _widths(kept: dict[str, Any]) -> Widths:
    """From JSON, which has no tuples."""
    first, second = kept["context"]
    return Widths(
        num_channels=int(kept["num_channels"]),
        num_latents=int(kept["num_latents"]),
        groups=tuple(int(size) for size in kept["groups"]),
        context=(int(first), int(second)),
    )


def _under(arrays: dict[str, Array], prefix: str) -> dict[str, Array]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
