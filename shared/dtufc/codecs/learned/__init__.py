"""The paper's learned codecs, one network each for every model and every rate; and one of our own.

What a profile keeps for them is here, and needs neither torch nor CompressAI: how features come onto the plane
(`plane`), and the SHA-256 of the network that it was fitted for. `codec` runs the networks.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import numpy as np

from dtufc.arrays import Array
from dtufc.bitstream import CodecId
from dtufc.codecs.learned.plane import Preparation, fit_preparation
from dtufc.errors import InputError
from dtufc.layout import Layout
from dtufc.transform import PeakyToBalanced


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A learned codec: a network of its name, and how features come onto its plane; see `fit_preparation`."""

    id: CodecId
    per_channel: bool = False
    keeps_grid: bool = False


VARIANTS: Final[Mapping[str, Variant]] = {
    "hyperprior": Variant(id=CodecId.hyperprior),
    "elic": Variant(id=CodecId.elic),
    "gridprior": Variant(id=CodecId.gridprior, per_channel=True, keeps_grid=True),
}


def can_run() -> bool:
    """Whether CompressAI is installed, which has the networks."""
    return find_spec("compressai") is not None


def shipped_network(name: str) -> Path:
    """Where a network that comes with the package lies."""
    return Path(str(resources.files("dtufc").joinpath("networks", f"{name}.safetensors")))


@lru_cache(maxsize=8)
def network_digest(path: Path) -> bytes:
    """SHA-256 of a network's file. Raises InputError where there is none."""
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError as error:
        raise InputError(field="network", problem=f"{path.name}: {error}", remedy="Restore the file") from error


def is_shipped(name: str, digest: Array) -> bool:
    """Whether the network that comes with the package has this SHA-256, [32] uint8."""
    return digest.tobytes() == network_digest(shipped_network(name))


def fit_learned(name: str, samples: Sequence[Array], layout: Layout) -> dict[str, Array]:
    """What a profile keeps for a learned codec, from about ten features, float32."""
    variant = VARIANTS[name]
    fitted = fit_preparation(samples, layout, per_channel=variant.per_channel, keeps_grid=variant.keeps_grid)
    return {
        "centroids": fitted.transform.centroids,
        "mean": fitted.mean,
        "scale": fitted.scale,
        "range": fitted.range,
        "network": np.frombuffer(network_digest(shipped_network(name)), np.uint8),
    }


def fitted_preparation(name: str, arrays: Mapping[str, Array]) -> Preparation:
    """The preparation that `fit_learned` learned.

    Raises:
        InputError: the arrays are damaged, or were fitted for another network than is shipped.
    """
    kinds = {"centroids": np.float32, "mean": np.float32, "scale": np.float32, "range": np.float32, "network": np.uint8}
    is_sound = (
        {key: array.dtype for key, array in arrays.items()} == {key: np.dtype(kind) for key, kind in kinds.items()}
        and arrays["range"].shape == (2,)
        and arrays["mean"].ndim == 1
        and arrays["mean"].shape == arrays["scale"].shape
        and all(bool(np.isfinite(arrays[key]).all()) for key in ("mean", "scale", "range"))
        and bool((arrays["scale"] > 0).all())
    )
    if not is_sound:
        raise InputError(field="profile", problem=f"the arrays of {name} are damaged", remedy="Restore the profile")
    if not is_shipped(name, arrays["network"]):
        problem = f"it was fitted for another network of {name}"
        raise InputError(field="profile", problem=problem, remedy="Fit the profile anew, or use codec 'klt'")
    return Preparation(
        transform=PeakyToBalanced(arrays["centroids"]),
        mean=arrays["mean"],
        scale=arrays["scale"],
        range=arrays["range"],
        keeps_grid=VARIANTS[name].keeps_grid,
    )
