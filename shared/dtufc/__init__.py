"""DT-UFC: features of split models as small bitstreams.

codec = dtufc.load("dinov2-small")
frame = codec.encode(features, quality=0.6)
features = codec.decode(frame)
"""

from importlib.metadata import version

from dtufc.client import AsyncEdgeClient, EdgeClient, Sampling
from dtufc.coding.feature_codec import FeatureCodec
from dtufc.coding.tuple_codec import TupleCodec
from dtufc.models.fitting import fit, load, split
from dtufc.models.tuples import fit_tuple, load_tuple

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
__version__ = version("dtufc")
