"""DT-UFC: features of split models as small bitstreams.

codec = dtufc.load("dinov2-small")
frame = codec.encode(features, quality=0.6)
features = codec.decode(frame)
"""

from importlib.metadata import version

from dtufc.client import EdgeClient
from dtufc.coding.feature_codec import FeatureCodec
from dtufc.models.fitting import fit, load, split

__all__ = ["EdgeClient", "FeatureCodec", "fit", "load", "split"]
__version__ = version("dtufc")
