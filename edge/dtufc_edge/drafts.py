"""Tokens that are guessed ahead from the text itself: what followed the last time that its end stood there.

No second model: the cloud checks the guesses in one pass, and says how many hold.
"""

from collections.abc import Sequence
from typing import Final

from dtufc.serving.limits import MAX_DRAFTED
from dtufc.v1 import inference_pb2

_LONGEST: Final = 4  # tokens at the end of the text that are looked up,
_SHORTEST: Final = 2
_FIRST_GUESS: Final = 4  # tokens; more where they hold, fewer where not
_MEMORY: Final = 0.8  # of earlier times, in the mean that decides


class Drafts:
    """What is guessed for one text."""

    def __init__(self, mode: inference_pb2.Drafts, prompt_ids: Sequence[int]) -> None:
        self._mode = mode
        self._ids: list[int] = []
        # The index behind the last place of an n-gram, where a token follows it.
        self._behind: dict[tuple[int, ...], int] = {}
        self._can = False
        self._size = _FIRST_GUESS
        self._steps = 0
        self._step_s = self._way_s = 0.0  # means over the steps without guesses
        self._grow(prompt_ids)

    def guess(self, most: int) -> list[int]:
        """Tokens that may come next, at most `most`; none where none are wanted or known."""
        wanted = self._mode == inference_pb2.DRAFTS_ON or (
            self._mode == inference_pb2.DRAFTS_AUTO and self._way_s > self._step_s
        )
        if not (self._can and wanted):
            return []
        for length in range(_LONGEST, _SHORTEST - 1, -1):
            start = self._behind.get(tuple(self._ids[-length:]))
            if start is not None:
                period = len(self._ids) - start  # what is longer is guessed to repeat itself
                return [self._ids[start + index % period] for index in range(min(most, self._size))]
        return []

    def saw(self, new_ids: Sequence[int], drafted: int, *, step_s: float, way_s: float, can_rewind: bool) -> None:
        """Takes the tokens of a step in.

        Args:
            new_ids: that it brought.
            drafted: how many were guessed.
            step_s: what both sides computed, in seconds.
            way_s: what the network took.
            can_rewind: whether both sides can take rows back.
        """
        self._can = can_rewind
        if drafted:
            held = len(new_ids) - 1
            self._size = min(2 * self._size, MAX_DRAFTED) if held == drafted else max(held + 1, _SHORTEST)
        elif self._steps:  # the first is the prompt
            memory = _MEMORY if self._steps > 1 else 0.0
            self._step_s = memory * self._step_s + (1 - memory) * step_s
            self._way_s = memory * self._way_s + (1 - memory) * way_s
        self._steps += 1
        self._grow(new_ids)

    def _grow(self, ids: Sequence[int]) -> None:
        for token_id in ids:
            # What ends before this token has a follower now.
            for length in range(_SHORTEST, _LONGEST + 1):
                if len(self._ids) >= length:
                    self._behind[tuple(self._ids[-length:])] = len(self._ids)
            self._ids.append(token_id)
