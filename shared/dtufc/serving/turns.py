"""Who goes next where clients compete. A client is a host that calls, with all its connections.

Nobody who waits is passed over for ever, and a flood of one client shuts no other out.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import count
from typing import Final, Protocol, TypeVar

from dtufc.errors import Overloaded

CALLER: Final[ContextVar[str]] = ContextVar("caller", default="")  # the client that the running task works for
_NEWEST: Final = 0.1  # what the newest value weighs in a mean
_SHORTEST_RETRY_S: Final = 0.1
_LONGEST_RETRY_S: Final = 30.0


class Waits(Protocol):
    """Something that waits for its turn."""

    @property
    def client(self) -> str: ...


W = TypeVar("W", bound=Waits)


class Order:
    """Whose turn it is: the client's who was served longest ago. One who comes anew is behind those who wait."""

    def __init__(self) -> None:
        self._numbers = count()
        self._last: dict[str, int] = {}  # of the clients that wait, when they came or were served

    def arrived(self, client: str) -> None:
        """One more of the client's waits."""
        self._last.setdefault(client, next(self._numbers))

    def served(self, client: str, waiting: Sequence[Waits]) -> None:
        """The client had its turn; these wait still."""
        self._last[client] = next(self._numbers)
        clients = {client, *(one.client for one in waiting)}
        self._last = {each: at for each, at in self._last.items() if each in clients}

    def arranged(self, waiting: Sequence[W]) -> list[W]:
        """By the turns of their clients; those of one client as they came."""
        return sorted(waiting, key=lambda one: self._last[one.client])


@dataclass(frozen=True, slots=True, eq=False)
class _Waiter:
    client: str
    amount: int
    turn: "asyncio.Future[None]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Turns:
    """An amount of something that is handed out to clients in turn."""

    def __init__(self, amount: int, most_each: int | None = None) -> None:
        """
        Args:
            amount: of it all.
            most_each: what one client may hold. None: all.
        """
        self._free, self._most_each = amount, most_each
        self._held: Counter[str] = Counter()
        self._order = Order()
        self._waiting: list[_Waiter] = []

    async def acquire(self, amount: int = 1) -> None:
        """Waits for the caller's turn. Who is cancelled meanwhile holds nothing."""
        one = _Waiter(CALLER.get(), amount)
        self._order.arrived(one.client)
        self._waiting.append(one)
        self._hand_out()
        try:
            await one.turn
        except asyncio.CancelledError:
            if one in self._waiting:
                self._waiting.remove(one)
                self._hand_out()  # what it waited for may do for another
            else:
                self.release(amount, one.client)
            raise

    def release(self, amount: int = 1, client: str = "") -> None:
        """Gives an amount back, which `client` holds; its name matters where there is a most for each."""
        self._free += amount
        self._book(client, -amount)
        self._hand_out()

    @asynccontextmanager
    async def lease(self, amount: int) -> AsyncIterator["Lease"]:
        """An amount for as long as the context lasts."""
        lease = Lease(self, CALLER.get(), amount)
        await self.acquire(amount)
        try:
            yield lease
        finally:
            lease.shrink(0)

    def _hand_out(self) -> None:
        while (one := self._next()) is not None:
            self._waiting.remove(one)
            self._order.served(one.client, self._waiting)
            self._free -= one.amount
            self._book(one.client, one.amount)
            one.turn.set_result(None)

    def _next(self) -> _Waiter | None:
        for one in self._order.arranged(self._waiting):
            if one.turn.cancelled() or not self._may_hold(one):
                continue
            return one if one.amount <= self._free else None
        return None

    def _book(self, client: str, amount: int) -> None:
        if self._most_each is not None:
            self._held[client] += amount
            self._held += Counter()  # forgets those who hold nothing

    def _may_hold(self, one: _Waiter) -> bool:
        return self._most_each is None or self._held[one.client] + one.amount <= self._most_each


@dataclass(slots=True)
class Lease:
    """What one holder has of a `Turns`."""

    turns: Turns
    client: str
    amount: int

    def shrink(self, amount: int) -> None:
        """Gives back all but this amount."""
        back, self.amount = self.amount - amount, amount
        self.turns.release(back, self.client)


class Places:
    """A number of places, each taken at once or not at all.

    A client may take all of them. Once they are taken, one that holds fewer than its share (the number, divided among
    the clients that hold any) still gets one. Twice the number is never exceeded.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.taken = 0
        self._held: Counter[str] = Counter()
        self._mean_s = 1.0  # that a place was held, lately

    @contextmanager
    def hold(self) -> Iterator[None]:
        """A place for the caller. Raises Overloaded where there is none, with the time after which there may be."""
        client = CALLER.get()
        if not self._has_one_for(client):
            retry_s = min(max(self._mean_s, _SHORTEST_RETRY_S), _LONGEST_RETRY_S)
            raise Overloaded(limit=self.number, retry_s=round(retry_s, 1))
        start = time.monotonic()
        self.taken += 1
        self._held[client] += 1
        try:
            yield
        finally:
            self.taken -= 1
            self._held[client] -= 1
            self._held += Counter()  # forgets those who hold none
            self._mean_s += _NEWEST * (time.monotonic() - start - self._mean_s)

    def _has_one_for(self, client: str) -> bool:
        if self.taken < self.number:
            return True
        share = max(1, self.number // len({client, *self._held}))
        return self.taken < 2 * self.number and self._held[client] < share
