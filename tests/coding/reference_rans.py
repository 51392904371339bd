"""The entropy coder of docs/bitstream.md, "Coded symbols", in plain integers: slow, and independent of constriction."""

from collections.abc import Sequence

import numpy as np

PRECISION = 24
MASK = (1 << PRECISION) - 1


def encode(runs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[int]:
    """(entries, frequencies) of each run -> 32-bit words."""
    words: list[int] = []
    state = 0
    for entries, frequencies in reversed(runs):
        starts = np.concatenate([[0], np.cumsum(frequencies)]).tolist()
        for entry in reversed(entries):
            frequency = int(frequencies[entry])
            if state >> (64 - PRECISION) >= frequency:
                words.append(state & 0xFFFFFFFF)
                state >>= 32
            state = (state // frequency << PRECISION) + state % frequency + starts[entry]
    while state:
        words.append(state & 0xFFFFFFFF)
        state >>= 32
    return words


def decode(words: Sequence[int], runs: Sequence[tuple[int, Sequence[int]]]) -> list[list[int]]:
    """Words, and (count, frequencies) of each run -> entries of each run."""
    stack = list(words)
    state = 0
    while stack and state < 1 << 32:
        state = state << 32 | stack.pop()
    result = []
    for count, frequencies in runs:
        starts = np.concatenate([[0], np.cumsum(frequencies)])
        entries = []
        for _ in range(count):
            low = state & MASK
            entry = int(np.searchsorted(starts, low, side="right")) - 1
            state = (state >> PRECISION) * int(frequencies[entry]) + low - int(starts[entry])
            if state < 1 << 32 and stack:
                state = state << 32 | stack.pop()
            entries.append(entry)
        result.append(entries)
    return result
