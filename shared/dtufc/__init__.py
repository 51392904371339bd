"""DT-UFC: features of split models as small bitstreams.

codec = dtufc.load("dinov2-small")
frame = codec.encode(features, quality=0.6)
features = codec.decode(frame)

A name is loaded when it is first asked for: a process that needs an error or an image's pixels alone loads no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from dtufc.client import AsyncEdgeClient, EdgeClient, Sampling
    from dtufc.coding.feature_codec import FeatureCodec
    from dtufc.coding.tuple_codec import TupleCodec
    from dtufc.models.fitting import fit, load, split
    from dtufc.models.tuples import fit_tuple, load_tuple

    __version__: str

__all__ = [
    "AsyncEdgeClient",
    "EdgeClient",
    "FeatureCodec",
    "Sampling",
    "TupleCodec",
    "fit",
    "fit_tuple",
    "load",
    "load_tuple",
    "split",
]
_MODULES: Final = {
    **dict.fromkeys(("AsyncEdgeClient", "EdgeClient", "Sampling"), "dtufc.client"),
    "FeatureCodec": "dtufc.coding.feature_codec",
    "TupleCodec": "dtufc.coding.tuple_codec",
    **dict.fromkeys(("fit", "load", "split"), "dtufc.models.fitting"),
    **dict.fromkeys(("fit_tuple", "load_tuple"), "dtufc.models.tuples"),
}

if not TYPE_CHECKING:  # or mypy would take every name for one of ours

    def __getattr__(name: str) -> Any:
        if name == "__version__":
            return import_module("importlib.metadata").version("dtufc")
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_MODULES[name]), name)

    def __dir__() -> list[str]:
        return [*globals(), *__all__]
