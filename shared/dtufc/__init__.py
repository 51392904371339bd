"""DT-UFC: features of split models as small bitstreams.

codec = dtufc.load("dinov2-small")
frame = codec.encode(features, quality=0.5)
features = codec.decode(frame)
"""

from dtufc.feature_codec import FeatureCodec, fit, load

__all__ = ["FeatureCodec", "fit", "load"]
__version__ = "0.1.0"
