"""Model and codec work off the event loop: few threads, and a bounded number of requests at a time."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from dtufc.errors import Overloaded

T = TypeVar("T")


class Worker:
    """Runs pieces of work in threads, in the order in which they came.

    Work is handed to a thread when one is free, and not before: what a cancelled call had waiting is gone at once,
    with its arguments.
    """

    def __init__(self, *, threads: int, queue_limit: int) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="dtufc")
        self._free = asyncio.Semaphore(threads)
        self._running: set[Future[Any]] = set()
        self.slots = threads + queue_limit
        self.admitted = 0

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Holds a place for one request with all its pieces of work. Raises Overloaded where all are taken."""
        if self.admitted >= self.slots:
            raise Overloaded(limit=self.slots)
        self.admitted += 1
        try:
            yield
        finally:
            self.admitted -= 1

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """One piece of an admitted request's work.

        A caller that is cancelled while it waits takes its work along; work that has begun keeps its thread to the end.
        """
        await self._free.acquire()
        loop = asyncio.get_running_loop()
        future = self._executor.submit(function, *args)
        self._running.add(future)
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(self._ended, future))
        return await asyncio.wrap_future(future)

    async def close(self, timeout_s: float) -> bool:
        """Waits for the work that runs, no longer than `timeout_s`; returns whether all of it ended."""
        self._executor.shutdown(wait=False, cancel_futures=True)
        waiting = [asyncio.wrap_future(future) for future in self._running]
        if waiting:
            await asyncio.wait(waiting, timeout=timeout_s)
        return all(future.done() for future in self._running)

    def _ended(self, future: Future[Any]) -> None:
        self._running.discard(future)
        self._free.release()
