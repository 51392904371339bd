"""The learned codecs: the paper's two, and `kltprior`. Each has one network for every model and every rate.

A profile keeps for each its plane transform (`plane`) and the SHA-256 of the network that it was fitted for. No torch
is needed here: `codec` runs the networks.
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

from dtufc.coding.arrays import Array
from dtufc.coding.bitstream import CodecId
from dtufc.coding.codecs.klt_transform import KltTransform
from dtufc.coding.codecs.learned.plane import Coefficients, Levels, PlaneTransform, fit_coefficients, fit_levels
from dtufc.coding.layout import Layout
from dtufc.coding.transform import PeakyToBalanced
from dtufc.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A learned codec: the network of its name, and its plane transform: levels, or coefficients of `klt`."""

    id: CodecId
    uses_klt: bool = False


VARIANTS: Final[Mapping[str, Variant]] = {
    "hyperprior": Variant(id=CodecId.hyperprior),
    "elic": Variant(id=CodecId.elic),
    "kltprior": Variant(id=CodecId.kltprior, uses_klt=True),
}
_LEVELS: Final = {"centroids": np.float32, "range": np.float32, "network": np.uint8}
_COEFFICIENTS: Final = {"scale": np.float32, "network": np.uint8}


def can_run() -> bool:
    """Whether torch, which runs the networks, is installed."""
    return find_spec("torch") is not None


def shipped_network(name: str) -> Path:
    """Path of a network that comes with the package."""
    return Path(str(resources.files(__name__).joinpath("weights", f"{name}.safetensors")))


@lru_cache(maxsize=8)
def network_digest(path: Path) -> bytes:
    """SHA-256 of a network's file. Raises InputError if it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError as error:
        raise InputError(field="network", problem=f"{path.name}: {error}", remedy="Restore the file") from error


def is_shipped(name: str, digest: Array) -> bool:
    """Whether the network that comes with the package has this SHA-256, [32] uint8."""
    return digest.tobytes() == network_digest(shipped_network(name))


def fit_learned(samples: Sequence[Array], layout: Layout, klt: KltTransform) -> dict[str, dict[str, Array]]:
    """Fits what a profile keeps for each learned codec, by its name, to about ten features, float32.

    Args:
        samples: features of shapes that the layout knows.
        layout: of the features.
        klt: fitted to them.
    """
    levels = fit_levels(samples, layout)
    of_levels = {"centroids": levels.transform.centroids, "range": levels.range}
    of_klt = {"scale": np.array([fit_coefficients(samples, klt).scale], np.float32)}
    return {
        name: {
            **(of_klt if variant.uses_klt else of_levels),
            "network": np.frombuffer(network_digest(shipped_network(name)), np.uint8),
        }
        for name, variant in VARIANTS.items()
    }


def fitted_plane_transform(
    name: str, arrays: Mapping[str, Array], layout: Layout, klt: KltTransform | None = None
) -> PlaneTransform:
    """The plane transform that `fit_learned` fitted.

    Args:
        name: of the codec.
        arrays: the result of `fit_learned`.
        layout: of the features.
        klt: of the same profile, for a codec that uses it.

    Raises:
        InputError: the arrays are damaged, or were fitted for another network than is shipped.
    """
    uses_klt = VARIANTS[name].uses_klt
    kinds = {key: np.dtype(kind) for key, kind in (_COEFFICIENTS if uses_klt else _LEVELS).items()}
    is_sound = (
        {key: array.dtype for key, array in arrays.items()} == kinds
        and all(bool(np.isfinite(array).all()) for key, array in arrays.items() if key != "network")
        and (arrays["scale"].shape == (1,) and arrays["scale"][0] > 0 if uses_klt else arrays["range"].shape == (2,))
    )
    if not is_sound:
        raise InputError(field="profile", problem=f"the arrays of {name} are damaged", remedy="Restore the profile")
    if not is_shipped(name, arrays["network"]):
        problem = f"it was fitted for another network of {name}"
        raise InputError(field="profile", problem=problem, remedy="Fit the profile anew, or use codec 'klt'")
    if klt:
        return Coefficients(transform=klt, scale=float(arrays["scale"][0]))
    return Levels(transform=PeakyToBalanced(arrays["centroids"]), range=arrays["range"], layout=layout)
