"""What a part of a cut model keeps of one sequence: keys and values, of which the last tokens can be taken back."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor
from transformers import DynamicCache


class SequenceCache:
    """Keys and values of one sequence in a part's layers, of which the last tokens can be taken back.

    Attributes:
        layers: what models take as `past_key_values`.
        num_tokens: that it holds.
    """

    def __init__(self, config: Any) -> None:
        self.layers = DynamicCache(config=config)
        self.num_tokens = 0
        self._last = 0  # tokens of the last pass, which a sliding window has not dropped yet
        self._records = False

    @property
    def num_bytes(self) -> int:
        """Of all keys, values and states."""
        return sum(tensor.nbytes for layer in self.layers.layers for tensor in _tensors(layer))

    @property
    def can_rewind(self) -> bool:
        """Whether tokens can be taken back; known once it holds some. A state that was overwritten cannot."""
        return self.num_tokens > 0 and self.layers.is_croppable

    def before(self) -> DynamicCache:
        """The layers, for a pass. Sliding windows drop what they kept for `rewind`."""
        if self._records:
            self.layers.crop(0)
        elif self.can_rewind:
            self.layers.activate_past_recording()
            self._records = True
        return self.layers

    def after(self, num_tokens: int) -> None:
        """Counts the tokens of a pass."""
        self.num_tokens += num_tokens
        self._last = num_tokens

    def rewind(self, num_tokens: int) -> bool:
        """Takes back all but the first `num_tokens`. Returns whether it could; if not, nothing has changed."""
        back = self.num_tokens - num_tokens
        if back > 0:
            windows = [layer for layer in self.layers.layers if getattr(layer, "is_sliding", False)]
            slid = any(layer.get_seq_length() >= layer.sliding_window for layer in windows)
            if not self.can_rewind or (slid and (not self._records or back > self._last)):
                return False
            self.layers.crop(-back)
            self.num_tokens -= back
            self._last = 0 if slid else self._last - min(back, self._last)  # the crop drops what a window recorded
        return True


def _tensors(layer: Any) -> Iterator[Tensor]:
    """The tensors of one layer of a cache, of any kind."""
    for value in vars(layer).values():
        parts = value.values() if isinstance(value, dict) else (value,)
        yield from (part for part in parts if isinstance(part, Tensor))
