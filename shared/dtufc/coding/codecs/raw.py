"""The features unchanged, little-endian: the reference for every other codec."""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, ClassVar

import numpy as np

from dtufc.coding.arrays import Array
from dtufc.coding.bitstream import CodecId
from dtufc.coding.codecs import Payload
from dtufc.errors import Corrupt


class RawCodec:
    """Nothing lost, nothing saved."""

    id: ClassVar = CodecId.raw
    has_rate: ClassVar = False

    def encoder(self, features: Array, focus: Sequence[int] = ()) -> Callable[[float], Payload]:
        """The values' bytes, row-major; `quality` changes nothing."""
        unsigned = features.view(f"u{features.dtype.itemsize}")
        data = unsigned.astype(unsigned.dtype.newbyteorder("<"), copy=False).tobytes()
        return lambda quality: Payload(data=data, symbol_crc=0)

    def decode(self, payload: Payload, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Raises Corrupt where there are more or fewer bytes than values, or a value is not finite."""
        if len(payload.data) != prod(shape) * dtype.itemsize:
            raise Corrupt(problem=f"{len(payload.data)} bytes for {prod(shape)} values")
        unsigned = np.frombuffer(payload.data, dtype=f"<u{dtype.itemsize}").astype(f"u{dtype.itemsize}")
        features = unsigned.view(dtype).reshape(shape)
        if not np.isfinite(features).all():
            raise Corrupt(problem="a value that is not finite")
        return features
