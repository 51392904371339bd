"""A trained network as one file: float16 weights, integer tables, and the configuration to rebuild it.

Every profile that was fitted for the network holds the SHA-256 of the file.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from dtufc.coding.arrays import Array
from dtufc.coding.codecs.learned.latents import Counter, ElicLatents, HyperpriorLatents, SymbolTables, latents_of
from dtufc.coding.codecs.learned.networks import KINDS, Elic, Hyperprior, Kind, Widths
from dtufc.errors import InputError


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
        kind: hyperprior or elic.
        widths: that it was built with.
        lambdas: of its rates.
        network: trained.
        origin: remarks for the reader of the file: how it was trained.
        counted: symbols of training features, to fit the tables to.
    """
    halves = {f"network.{name}": _half(value) for name, value in network.named_parameters()}
    rounded = build(kind, widths, lambdas, {name.removeprefix("network."): array for name, array in halves.items()})
    tables = {f"tables.{name}": array for name, array in SymbolTables.arrays_for(rounded.side_prior, counted).items()}
    shape = json.dumps({"kind": kind, "widths": asdict(widths), "lambdas": list(lambdas)})
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({**halves, **tables}, path, {"network": shape, **origin})
    path.chmod(0o644)


@lru_cache(maxsize=8)
def load_network(path: Path) -> TrainedNetwork:
    """Reads a file that `save_network` wrote.

    Raises:
        InputError: the file is missing or damaged.
    """
    try:
        with safe_open(path, "np") as file:
            shape: dict[str, Any] = json.loads(file.metadata()["network"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        widths = _widths(shape["widths"])
        network = build(shape["kind"], widths, shape["lambdas"], _under(arrays, "network."))
        tables = SymbolTables(_under(arrays, "tables."))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(field="network", problem=f"{path.name}: {error}", remedy="Restore the file") from error
    return TrainedNetwork(network, latents_of(network, tables), tables, len(shape["lambdas"]))


def build(kind: str, widths: Widths, lambdas: Sequence[float], weights: dict[str, Array]) -> Hyperprior | Elic:
    """The network with these weights, for coding."""
    with torch.random.fork_rng(devices=[]):  # the initialization is discarded; the caller's random state is kept
        network = KINDS[kind](widths, lambdas)
    state = {name: torch.from_numpy(array.astype(np.float32)) for name, array in weights.items()}
    left = torch.nn.Module.load_state_dict(
        network, state, strict=False
    )  # CompressAI's own asks for tables of its coder
    missing = set(left.missing_keys) & {name for name, _ in network.named_parameters()}
    if missing or left.unexpected_keys:
        raise ValueError(f"weights are missing or too many: {sorted(missing | set(left.unexpected_keys))[:3]}")
    return network.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # much faster on a CPU


def _widths(kept: dict[str, Any]) -> Widths:
    """From JSON, which has no tuples."""
    first, second = kept["context"]
    return Widths(
        num_channels=int(kept["num_channels"]),
        num_latents=int(kept["num_latents"]),
        groups=tuple(int(size) for size in kept["groups"]),
        context=(int(first), int(second)),
    )


def _half(value: torch.Tensor) -> Array:
    array: Array = value.detach().float().numpy()
    return np.ascontiguousarray(np.clip(array, -65504, 65504)).astype(np.float16)


def _under(arrays: dict[str, Array], prefix: str) -> dict[str, Array]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
