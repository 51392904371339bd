"""The entropy coder in Python's integers, for platforms that constriction has no wheel for, such as Linux on ARM.

Hides nothing that `entropy` does not use of constriction: a stack coder with 64 bits of state and words of 32, and
models with 24-bit probabilities. The same symbols and tables give the same bytes, slower: `docs/deploy.md`, "ARM".
`docs/bitstream.md`, "Coded symbols", is the specification.
"""

from bisect import bisect_right
from itertools import accumulate
from typing import Final

import numpy as np
from jaxtyping import Int32, UInt32

from dtufc.coding.arrays import Array

_PRECISION: Final = 24
_STATE_BITS: Final = 64
_WORD_BITS: Final = 32
_LOW: Final = (1 << _PRECISION) - 1
_WORD: Final = (1 << _WORD_BITS) - 1
_FULL: Final = 1 << _WORD_BITS  # a state below this takes another word, if there is one


class Model:
    """Frequencies of the entries 0, 1, ..., which sum to 2^24, and where each entry's interval starts."""

    def __init__(self, frequencies: UInt32[Array, " entries"]) -> None:
        self.frequencies: list[int] = frequencies.tolist()
        self.starts = [0, *accumulate(self.frequencies[:-1])]


class AnsCoder:
    """A stack of entries: what was encoded last is decoded first."""

    def __init__(self, compressed: UInt32[Array, " words"] | None = None) -> None:
        self._words: list[int] = [] if compressed is None else compressed.tolist()
        self._state = 0
        while self._words and self._state < _FULL:
            self._state = self._state << _WORD_BITS | self._words.pop()

    def encode_reverse(self, entries: Int32[Array, " n"], model: Model) -> None:
        """Pushes entries, the last one first."""
        state, words, frequencies, starts = self._state, self._words, model.frequencies, model.starts
        for entry in reversed(entries.tolist()):
            frequency = frequencies[entry]
            if state >> (_STATE_BITS - _PRECISION) >= frequency:
                words.append(state & _WORD)
                state >>= _WORD_BITS
            quotient, rest = divmod(state, frequency)
            state = (quotient << _PRECISION) + rest + starts[entry]
        self._state = state

    def decode(self, model: Model, count: int) -> Int32[Array, " n"]:
        """Pops entries. Of words that nobody encoded it makes some entries or other, as constriction does."""
        state, words, frequencies, starts = self._state, self._words, model.frequencies, model.starts
        entries = []
        for _ in range(count):
            low = state & _LOW
            entry = bisect_right(starts, low) - 1
            state = (state >> _PRECISION) * frequencies[entry] + low - starts[entry]
            if state < _FULL and words:
                state = state << _WORD_BITS | words.pop()
            entries.append(entry)
        self._state = state
        return np.array(entries, np.int32)

    def get_compressed(self) -> UInt32[Array, " words"]:
        """All that is on the stack, as words."""
        parts = [self._state >> shift & _WORD for shift in range(0, self._state.bit_length(), _WORD_BITS)]
        return np.array(self._words + parts, np.uint32)

    def is_empty(self) -> bool:
        """Whether everything has been decoded."""
        return not self._words and not self._state
