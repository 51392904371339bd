"""Passes through one model for several sequences: in turn, and together where that pays.

A long part of a sequence goes in pieces, and steps of other sequences go between them.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar
from weakref import WeakKeyDictionary

from dtufc.errors import DtufcError
from dtufc.interruption import Interrupted, until
from dtufc.models.capabilities import SequenceState
from dtufc.serving.limits import MAX_PASS_ROWS, MAX_SHARING
from dtufc.serving.turns import CALLER, Order
from dtufc.serving.worker import Worker

_PATIENCE: Final = 0.5  # of the last step's time, that a step waits for others
_LATELY: Final = 6.0  # times as long ago as a step takes: a sequence that stepped since is expected again
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
    client: str

    @property
    def is_step(self) -> bool:
        """Whether it is one row more of a sequence that has begun."""
        return len(self.part) == 1 and self.state.num_tokens > 0


class Passes(Generic[P, R]):
    """The passes through one model: clients in turn, steps and pieces of prompts in turn, else as they come.

    A step waits for those of other sequences that are about to come, a fraction of what a pass takes: sequences that
    shared a pass come back one after the other, and would never meet again.
    """

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
        self._waiting: list[_Pass[P, R]] = []
        self._order = Order()
        self._arrived = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._was_step = False  # the last pass
        self._step_s = 0.0  # that it took, if it was a step
        self._stepped: WeakKeyDictionary[SequenceState, float] = WeakKeyDictionary()  # when sequences last stepped

    async def advance(self, state: SequenceState, part: P, alone: Callable[[SequenceState, P], R]) -> R:
        """What the model makes of one piece, no longer than MAX_PASS_ROWS.

        A caller that is cancelled while it waits takes its pass along. A pass that has begun ends where none of its
        callers is left; what their sequences hold is then of no use.

        Args:
            state: of the sequence, which takes the piece in.
            part: of the sequence.
            alone: makes the pass, for this sequence alone.
        """
        one = _Pass(state, part, alone, asyncio.get_running_loop().create_future(), CALLER.get())
        self._order.arrived(one.client)
        self._waiting.append(one)
        self._arrived.set()
        if self._running is None:
            self._running = asyncio.create_task(self._run(), context=Context())  # it works for all of them
        return await one.result

    async def _run(self) -> None:
        try:
            while self._has_work():
                passes = await self._next()
                if not passes:  # who waited has gone
                    continue
                self._observe(len(passes))
                self._was_step = passes[0].is_step
                start = time.monotonic()
                try:
                    results = await self._worker.run(self._made, passes)
                except Interrupted:  # nobody waits for any of it
                    continue
                except Exception as error:  # of the model: each of them hears of it
                    results = [error] * len(passes)
                end = time.monotonic()
                if self._was_step:
                    self._step_s = end - start
                for one, result in zip(passes, results, strict=True):
                    self._stepped[one.state] = end
                    if one.result.done():
                        continue
                    if isinstance(result, Exception):
                        one.result.set_exception(result)
                    else:
                        one.result.set_result(result)
        finally:
            self._running = None

    def _has_work(self) -> bool:
        self._waiting = [one for one in self._waiting if not one.result.done()]
        return bool(self._waiting)

    async def _next(self) -> list[_Pass[P, R]]:
        """The pass whose turn it is, with those that share it."""
        steps, others = self._sorted()
        if not steps or (others and self._was_step):
            chosen = others[:1]
        elif self._together is None:
            chosen = steps[:1]
        else:
            chosen = _sharing(await self._gathered(steps))
        self._waiting = [one for one in self._waiting if one not in chosen]
        for client in {one.client: None for one in chosen}:
            self._order.served(client, self._waiting)
        return chosen

    def _sorted(self) -> tuple[list[_Pass[P, R]], list[_Pass[P, R]]]:
        """The steps that wait, and the pieces of prompts."""
        waiting = self._order.arranged([one for one in self._waiting if not one.result.done()])
        return [one for one in waiting if one.is_step], [one for one in waiting if not one.is_step]

    async def _gathered(self, steps: list[_Pass[P, R]]) -> list[_Pass[P, R]]:
        """The steps that wait, once those have come that are expected, or the time for it has passed."""
        end = time.monotonic() + _PATIENCE * self._step_s
        while len(steps) < min(self._num_expected(), MAX_SHARING) and (left_s := end - time.monotonic()) > 0:
            self._arrived.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._arrived.wait(), left_s)
            steps = self._sorted()[0]
        return steps

    def _num_expected(self) -> int:
        """Sequences that stepped lately."""
        since = time.monotonic() - _LATELY * self._step_s
        return sum(at >= since for at in self._stepped.values())

    def _made(self, passes: list[_Pass[P, R]]) -> Sequence[R | Exception]:
        with until(lambda: all(one.result.done() for one in passes)):
            if len(passes) == 1 or self._together is None:
                return [one.alone(one.state, one.part) for one in passes]
            return self._together([one.state for one in passes], [one.part for one in passes])


def _sharing(steps: Sequence[_Pass[P, R]]) -> list[_Pass[P, R]]:
    """The first, and those behind it that share its pass."""
    chosen: list[_Pass[P, R]] = []
    for one in steps:
        if len(chosen) < MAX_SHARING and _is_dense([*chosen, one]):
            chosen.append(one)
    return chosen


def _is_dense(passes: Sequence[_Pass[Any, Any]]) -> bool:
    """Whether padding all sequences to the longest at most doubles what they hold."""
    lengths = [one.state.num_tokens for one in passes]
    return max(lengths) * len(lengths) <= 2 * sum(lengths)


def pieces(num_rows: int) -> list[slice]:
    """Rows in pieces of at most MAX_PASS_ROWS."""
    return [slice(start, min(start + MAX_PASS_ROWS, num_rows)) for start in range(0, num_rows, MAX_PASS_ROWS)]
