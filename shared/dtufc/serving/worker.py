"""Model and codec work off the event loop: few threads, and a bounded number of requests at a time."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
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
        self._threads = threads
        self._free = asyncio.Semaphore(threads)
        self._preparing: dict[tuple[object, ...], asyncio.Task[Any]] = {}
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

        def release(_: Future[T]) -> None:
            with suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits for a thread any more
                loop.call_soon_threadsafe(self._free.release)

        future = self._executor.submit(function, *args)
        future.add_done_callback(release)
        return await asyncio.wrap_future(future)

    async def prepare(self, function: Callable[..., T], *args: Any) -> T:
        """Slow work that is done once for all, beside the threads of requests: who asks meanwhile waits for the same.

        A caller that is cancelled leaves it to the others.
        """
        key = (function, *args)
        if key not in self._preparing:
            self._preparing[key] = asyncio.create_task(asyncio.to_thread(function, *args))
            self._preparing[key].add_done_callback(lambda _: self._preparing.pop(key))
        done: T = await asyncio.shield(self._preparing[key])
        return done

    async def close(self, timeout_s: float) -> bool:
        """Waits for the work that runs, no longer than `timeout_s`; returns whether all of it ended."""
        self._executor.shutdown(wait=False, cancel_futures=True)
        try:
            async with asyncio.timeout(timeout_s):
                for _ in range(self._threads):
                    await self._free.acquire()
        except TimeoutError:
            return False
        return not self._preparing
