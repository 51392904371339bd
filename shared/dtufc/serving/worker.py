"""Model and codec work off the event loop: few threads, and a bounded number of requests at a time."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from typing import Any, TypeVar

from torch.nn.modules.module import register_module_forward_pre_hook

from dtufc.coding.feature_codec import FeatureCodec
from dtufc.interruption import checkpoint, until
from dtufc.serving.turns import Places, Turns

T = TypeVar("T")


class Worker:
    """Runs pieces of work in threads: clients in turn, and what one client has in the order in which it came.

    Work is handed to a thread when one is free, and not before: what a cancelled call had waiting is gone at once,
    with its arguments. Work that has begun ends at its next checkpoint; each call of a torch module is one, whatever
    family of models it belongs to.

    Attributes:
        places: a request holds one while it is worked on, with all its pieces of work, or waits.
    """

    def __init__(self, *, threads: int, queue_limit: int) -> None:
        _check_in_modules()
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="dtufc")
        self._threads = threads
        self._free = Turns(threads)
        self._preparing: dict[tuple[object, ...], asyncio.Task[Any]] = {}
        self.places = Places(threads + queue_limit)

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """One piece of an admitted request's work.

        A caller that is cancelled while it waits takes its work along; work that has begun keeps its thread up to its
        next checkpoint.
        """
        await self._free.acquire()
        loop = asyncio.get_running_loop()
        ended = threading.Event()

        def release(_: Future[T]) -> None:
            with suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits for a thread any more
                loop.call_soon_threadsafe(self._free.release)

        future = self._executor.submit(_interruptible, ended.is_set, function, *args)
        future.add_done_callback(release)
        try:
            return await asyncio.wrap_future(future)
        finally:
            ended.set()

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

    async def load(self, codec: FeatureCodec, name: str) -> None:
        """Loads one of the codecs, unless it is: a network takes seconds, and would hold up the requests' threads."""
        if not codec.is_loaded(name):
            await self.prepare(codec.prepare, name)

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


def _interruptible(has_ended: Callable[[], bool], function: Callable[..., T], *args: Any) -> T:
    with until(has_ended):
        return function(*args)


@cache
def _check_in_modules() -> None:
    """Makes each call of a torch module a checkpoint, in this process and for good."""
    register_module_forward_pre_hook(lambda *_: checkpoint())
