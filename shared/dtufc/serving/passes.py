"""Passes through one model for several sequences: in turn, and together where that pays.

A long part of a sequence goes in pieces, and steps of other sequences go between them.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from dtufc.errors import DtufcError
from dtufc.models.capabilities import SequenceState
from dtufc.serving.limits import MAX_PASS_ROWS, MAX_SHARING
from dtufc.serving.worker import Worker

R = TypeVar("R")


class Part(Protocol):
    """Rows that go through the model, or tokens."""

    def __len__(self) -> int: ...


P = TypeVar("P", bound=Part)


@dataclass(frozen=True, slots=True, eq=False)
class _Pass(Generic[P, R]):
    """One piece of one sequence, and who waits for what the model makes of it."""

    state: SequenceState
    part: P
    alone: Callable[[SequenceState, P], R]
    result: "asyncio.Future[R]"

    @property
    def is_step(self) -> bool:
        """Whether it is one row more of a sequence that has begun."""
        return len(self.part) == 1 and self.state.num_tokens > 0


class Passes(Generic[P, R]):
    """The passes through one model, first come first served."""

    def __init__(
        self,
        worker: Worker,
        together: Callable[[Sequence[SequenceState], Sequence[P]], Sequence[R | DtufcError]] | None,
        observe: Callable[[int], None],
    ) -> None:
        """
        Args:
            worker: whose threads do the work.
            together: advances several sequences by one row each, in one pass, to a result or an error of each; None
                where the model cannot.
            observe: takes the number of sequences of each pass.
        """
        self._worker, self._together, self._observe = worker, together, observe
        self._waiting: deque[_Pass[P, R]] = deque()
        self._running: asyncio.Task[None] | None = None

    async def advance(self, state: SequenceState, part: P, alone: Callable[[SequenceState, P], R]) -> R:
        """What the model makes of one piece, no longer than MAX_PASS_ROWS.

        A caller that is cancelled while it waits takes its pass along.

        Args:
            state: of the sequence, which takes the piece in.
            part: of the sequence.
            alone: makes the pass, for this sequence alone.
        """
        one = _Pass(state, part, alone, asyncio.get_running_loop().create_future())
        self._waiting.append(one)
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        return await one.result

    async def _run(self) -> None:
        try:
            while passes := self._next():
                self._observe(len(passes))
                try:
                    results = await self._worker.run(self._made, passes)
                except Exception as error:  # of the model: each of them hears of it
                    for one in passes:
                        if not one.result.done():
                            one.result.set_exception(error)
                else:
                    for one, result in zip(passes, results, strict=True):
                        if one.result.done():
                            continue
                        if isinstance(result, DtufcError):
                            one.result.set_exception(result)
                        else:
                            one.result.set_result(result)
        finally:
            self._running = None

    def _next(self) -> list[_Pass[P, R]]:
        """The pass whose turn it is, with those that can share it; none where nobody waits."""
        waiting = deque(one for one in self._waiting if not one.result.done())
        shared: list[_Pass[P, R]] = []
        if waiting:
            first = waiting.popleft()
            shared.append(first)
            if self._together is not None and first.is_step:
                for one in [one for one in waiting if one.is_step]:
                    if len(shared) < MAX_SHARING and _is_dense([*shared, one]):
                        shared.append(one)
                        waiting.remove(one)
        self._waiting = waiting
        return shared

    def _made(self, passes: list[_Pass[P, R]]) -> Sequence[R | DtufcError]:
        if len(passes) == 1 or self._together is None:
            return [one.alone(one.state, one.part) for one in passes]
        return self._together([one.state for one in passes], [one.part for one in passes])


def _is_dense(passes: Sequence[_Pass[Any, Any]]) -> bool:
    """Whether padding all sequences to the longest at most doubles what they hold."""
    lengths = [one.state.num_tokens for one in passes]
    return max(lengths) * len(lengths) <= 2 * sum(lengths)


def pieces(num_rows: int) -> list[slice]:
    """Rows in pieces of at most MAX_PASS_ROWS."""
    return [slice(start, min(start + MAX_PASS_ROWS, num_rows)) for start in range(0, num_rows, MAX_PASS_ROWS)]
