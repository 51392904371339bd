"""Tuples of feature tensors to one container and back: a pyramid of maps, the keys and values of a cache.

tensors --FeatureCodec of each position--> frames --container--> bytes, and back
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from dtufc.coding import container
from dtufc.coding.arrays import Array
from dtufc.coding.feature_codec import FeatureCodec
from dtufc.coding.features import as_array, as_tensor
from dtufc.coding.rate import Rate, within
from dtufc.errors import Corrupt, InputError

if TYPE_CHECKING:
    import torch

_Result = TypeVar("_Result")
INDEX_NAME: Final = "tuple.json"  # in a folder: which profile each position has


class TupleCodec:
    """Encodes and decodes tuples of one length; each position has a codec. Safe to use from several threads.

    Attributes:
        codecs: of each position; several may be one and the same.
    """

    def __init__(self, codecs: Sequence[FeatureCodec]) -> None:
        """Raises InputError for none, or more than a container can carry."""
        container.check_sizes(len(codecs), 0)
        self.codecs = tuple(codecs)

    def encode(
        self,
        tensors: "Sequence[Array | torch.Tensor]",
        *,
        quality: float | None = None,
        target_bpfp: float | None = None,
        max_bytes: int | None = None,
        codec: str | None = None,
    ) -> bytes:
        """Encodes one tuple to one container.

        Args:
            tensors: one for each position, of a shape that its codec knows; float32, float16 or bfloat16; finite.
            quality: of every tensor, as for `FeatureCodec.encode`.
            target_bpfp: instead of quality: at most this many bits a value, of all together. Every tensor gets the
                same setting of the codec, which is the quality for `klt`.
            max_bytes: instead of quality: at most this many bytes in all; likewise.
            codec: of every tensor; by default each one's own.

        Raises:
            InputError: the tensors, the rate or the codec are invalid; it names the position.
        """
        rate = Rate(quality=quality, target_bpfp=target_bpfp, max_bytes=max_bytes)
        if len(tensors) != len(self.codecs):
            remedy = f"Give {len(self.codecs)}, one for each position"
            raise InputError(field="tensors", problem=f"{len(tensors)} of them", remedy=remedy)
        arrays = self._each(tensors, lambda one, x: as_array(x))
        num_values = sum(array.size for array in arrays)
        container.check_sizes(len(arrays), num_values)
        limit = rate.byte_limit(num_values)
        if limit is None:
            return container.pack(self._each(arrays, lambda one, x: one.encode(x, quality=quality, codec=codec)))
        encoders = self._each(arrays, lambda one, x: one.encoder(x, codec=codec))
        has_rate = any(one.has_rate(codec or one.default_codec) for one in self.codecs)
        return within(limit, num_values, lambda setting: container.pack([at(setting) for at in encoders]), has_rate)

    def decode(self, data: bytes) -> list[Array]:
        """Decodes one container to tensors of the original shapes and types; bfloat16 is that of ml_dtypes.

        Raises:
            BitstreamError: the bytes are no container, or one of another number of frames.
            ProfileMismatch: a frame was made with another profile.
            Desync: the decoded symbols differ from those that were encoded.
        """
        frames = container.parse(data)
        if len(frames) != len(self.codecs):
            raise Corrupt(problem=f"{len(frames)} frames where {len(self.codecs)} are expected")
        pairs = list(zip(self.codecs, frames, strict=True))
        for codec, frame in pairs:  # before any is decoded
            codec.check_frame(frame)
        return [codec.decode_checked(frame) for codec, frame in pairs]

    def decode_tensors(self, data: bytes) -> "list[torch.Tensor]":
        """`decode`, as torch tensors."""
        return [as_tensor(array) for array in self.decode(data)]

    def save(self, folder: str | Path) -> None:
        """Writes the profiles into a folder, each once, for `dtufc.load_tuple`."""
        folder = Path(folder)
        distinct = list({id(codec): codec for codec in self.codecs}.values())
        for number, codec in enumerate(distinct):
            codec.save(folder / str(number))
        positions = [next(n for n, one in enumerate(distinct) if one is codec) for codec in self.codecs]
        (folder / INDEX_NAME).write_text(json.dumps({"positions": positions}) + "\n", encoding="utf-8")

    def _each(
        self,
        tensors: "Sequence[Array | torch.Tensor]",
        encode: "Callable[[FeatureCodec, Array | torch.Tensor], _Result]",
    ) -> list[_Result]:
        """What `encode` makes of every tensor; an InputError names the position."""
        results: list[_Result] = []
        for position, (codec, tensor) in enumerate(zip(self.codecs, tensors, strict=True)):
            try:
                results.append(encode(codec, tensor))
            except InputError as error:
                raise at_position("tensors", position, error) from error
        return results


def at_position(name: str, position: int, error: InputError) -> InputError:
    """The same error, of one tensor of the argument `name`."""
    facts = error.context
    problem = f"{facts['field']}: {facts['problem']}"
    return InputError(field=f"{name}[{position}]", problem=problem, remedy=facts["remedy"])
