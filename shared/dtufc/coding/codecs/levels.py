"""The 256 levels of the peaky-to-balanced transform, entropy coded: nothing is lost after the transform.

Hides the tables: one row of integer frequencies a channel, fitted as a blend of the channel's own histogram and
that of all channels.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Final, Self

import numpy as np

from dtufc.coding.arrays import Array
from dtufc.coding.bitstream import CodecId
from dtufc.coding.codecs import Payload
from dtufc.coding.entropy import TOTAL, Decoder, Encoder, Tables, quantize_frequencies
from dtufc.coding.features import to_dtype
from dtufc.coding.layout import Layout
from dtufc.coding.transform import NUM_LEVELS, PeakyToBalanced
from dtufc.errors import Corrupt, InputError

_STORED_BITS: Final = 16  # frequencies are stored as multiples of 2^8
_SMOOTHING: Final = (1.0, 2.0, 4.0, 2.0, 1.0)  # neighbouring levels are alike, and ten features leave gaps
_PRIOR_COUNTS: Final = 24.0  # the weight of the histogram over all channels, in samples


class LevelsCodec:
    """features --transform--> levels --per-channel tables--> payload."""

    id: ClassVar = CodecId.levels
    has_rate: ClassVar = False

    def __init__(self, transform: PeakyToBalanced, stored: Array, layout: Layout) -> None:
        self.transform = transform
        self._stored = stored
        scale = np.uint32(TOTAL >> _STORED_BITS)
        self._tables = Tables(list(stored.astype(np.uint32) * scale), escape=False)
        self._layout = layout

    @classmethod
    def fit(cls, samples: Sequence[Array], layout: Layout) -> Self:
        """The transform from all values, the tables from each channel's levels."""
        transform = PeakyToBalanced.fit(samples)
        rows = [layout.to_rows(transform.forward(sample)) for sample in samples]
        levels = np.concatenate([row.reshape(-1, row.shape[-1]) for row in rows])  # [tokens, channels]
        channels = levels.shape[1]
        flat = np.arange(channels) * NUM_LEVELS + levels
        counts = np.bincount(flat.ravel(), minlength=channels * NUM_LEVELS).reshape(channels, NUM_LEVELS)
        kernel = np.asarray(_SMOOTHING) / sum(_SMOOTHING)
        smooth = np.stack([np.convolve(row, kernel, mode="same") for row in counts])
        prior = np.convolve(counts.sum(axis=0) + 1.0, kernel, mode="same")
        weights = smooth + _PRIOR_COUNTS * prior / prior.sum()
        rows = [quantize_frequencies(row, 1 << _STORED_BITS) for row in weights]
        return cls(transform, np.stack(rows).astype(np.uint16), layout)

    @classmethod
    def from_arrays(cls, arrays: dict[str, Array], layout: Layout) -> Self:
        stored = arrays.get("frequencies")
        if (
            stored is None
            or stored.dtype != np.uint16
            or stored.shape[1:] != (NUM_LEVELS,)
            or "centroids" not in arrays
        ):
            raise InputError(field="profile", problem="the tables of levels are damaged", remedy="Restore the profile")
        return cls(PeakyToBalanced(arrays["centroids"]), stored, layout)

    def arrays(self) -> dict[str, Array]:
        return {"centroids": self.transform.centroids, "frequencies": self._stored}

    def encoder(self, features: Array, focus: Sequence[int] = ()) -> Callable[[float], Payload]:
        """`quality` changes nothing.

        Raises:
            InputError: the number of channels differs from the fit, or values are far from every level.
        """
        rows = self._layout.to_rows(self.transform.forward(features))  # [images, tokens, channels]
        if rows.shape[-1] != len(self._stored):
            problem = f"{rows.shape[-1]} channels, fitted for {len(self._stored)}"
            raise InputError(field="features", problem=problem, remedy="Use the profile of this model")
        self._check_reach(features)
        by_channel = rows.reshape(-1, rows.shape[-1]).T.astype(np.int32)
        encoder = Encoder()
        for channel, symbols in enumerate(by_channel):
            encoder.write(self._tables, channel, symbols)
        payload = Payload(data=encoder.finish(), symbol_crc=encoder.crc)
        return lambda quality: payload

    def _check_reach(self, features: Array) -> None:
        low, high = self.transform.reach
        values = features.astype(np.float32, copy=False)
        far = np.count_nonzero((values < low) | (values > high))
        if far:
            problem = f"{far} of {values.size} values out of the range of the levels, {low:.6g} to {high:.6g}"
            remedy = "Use codec 'klt' or 'raw', or fit a profile on such features"
            raise InputError(field="features", problem=problem, remedy=remedy)

    def decode(self, payload: Payload, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        rows_shape = self._layout.rows_shape(shape)
        if rows_shape[-1] != len(self._stored):
            raise Corrupt(problem=f"{rows_shape[-1]} channels, not {len(self._stored)}")
        tokens = rows_shape[0] * rows_shape[1]
        decoder = Decoder(payload.data)
        levels = np.empty((tokens, rows_shape[-1]), dtype=np.uint8)
        for channel in range(rows_shape[-1]):
            levels[:, channel] = decoder.read(self._tables, channel, tokens)
        decoder.finish(payload.symbol_crc)
        features = to_dtype(self.transform.inverse(levels), dtype).reshape(rows_shape)
        return self._layout.from_rows(features, shape)
