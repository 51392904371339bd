"""Texts that end a reply: neither they nor what is behind them go out, however tokens cut them.

The result does not depend on how the text was cut: the stop text that is complete first ends it, and of several that
are complete at the same character the longest.
"""

from collections.abc import Sequence
from typing import Final

from dtufc.errors import InputError
from dtufc.serving.limits import MAX_STOP_CHARACTERS, MAX_STOP_TEXTS

_FIELD: Final = "stop"


class StopTexts:
    """What may go out of one reply."""

    def __init__(self, stops: Sequence[str]) -> None:
        """Raises InputError for too many of them, for an empty one, and for one that is too long."""
        if len(stops) > MAX_STOP_TEXTS:
            remedy = f"Give at most {MAX_STOP_TEXTS}"
            raise InputError(field=_FIELD, problem=f"{len(stops)} texts", remedy=remedy)
        for index, stop in enumerate(stops):
            if not 1 <= len(stop) <= MAX_STOP_CHARACTERS:
                remedy = f"Give 1 to {MAX_STOP_CHARACTERS} characters"
                raise InputError(field=f"{_FIELD}[{index}]", problem=f"{len(stop)} characters", remedy=remedy)
        self._stops = tuple(stops)
        self._held = ""
        self._is_met = False

    def add(self, text: str) -> tuple[str, bool]:
        """More of the reply.

        Returns:
            The text that may go out, and whether a stop text was met: then it is the last. What may still become a stop
            text is held, and comes with a later call or by `finish`.
        """
        if self._is_met:
            return "", True
        text = self._held + text
        met = [(start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0]
        if met:
            self._is_met, self._held = True, ""
            _, start = min(met)
            return text[:start], True
        num_held = max((_num_begun(text, stop) for stop in self._stops), default=0)
        out = len(text) - num_held
        self._held = text[out:]
        return text[:out], False

    def finish(self) -> str:
        """The text that was held and did not become a stop text."""
        held, self._held = self._held, ""
        return held


def _num_begun(text: str, stop: str) -> int:
    """Characters at the end of the text with which this stop text begins."""
    longest = min(len(stop) - 1, len(text))
    return next((count for count in range(longest, 0, -1) if text.endswith(stop[:count])), 0)
