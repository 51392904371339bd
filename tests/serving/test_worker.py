"""Work in threads: its order, its bounds, and what cancelled calls leave behind."""

import asyncio
import gc
import logging
import threading
import time
import weakref

import pytest

from dtufc.serving.worker import Worker


class Argument:
    """Something that a call holds, as large as a message may be."""


class Job:
    """Work that runs until it is told to end."""

    def __init__(self) -> None:
        self.began, self.end = threading.Event(), threading.Event()

    def __call__(self) -> str:
        self.began.set()
        assert self.end.wait(30)
        return "ended"


async def begun(job: Job) -> None:
    while not job.began.is_set():
        await asyncio.sleep(0.001)


async def cancelled(task: "asyncio.Task[object]") -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def one_thread() -> Worker:
    return Worker(threads=1, queue_limit=8)


def test_a_thousand_cancelled_calls_behind_a_slow_one_leave_nothing_and_work_goes_on() -> None:
    async def scene() -> None:
        worker, slow = one_thread(), Job()
        running = asyncio.create_task(worker.run(slow))
        await begun(slow)
        arguments = weakref.WeakSet[Argument]()
        ran: list[Argument] = []

        async def call(argument: Argument) -> None:
            with worker.places.hold():
                await worker.run(ran.append, argument)

        for _ in range(1000):
            argument = Argument()
            arguments.add(argument)
            task = asyncio.create_task(call(argument))
            del argument
            await asyncio.sleep(0)
            await cancelled(task)
        del task
        await asyncio.sleep(0)  # the loop lets the last one go
        gc.collect()
        assert len(arguments) == 0
        assert worker.places.taken == 0
        slow.end.set()
        assert await running == "ended"
        assert await worker.run(lambda: "still works") == "still works"
        assert ran == []
        assert await worker.close(5)

    asyncio.run(scene())


def test_work_runs_in_the_order_in_which_it_came() -> None:
    async def scene() -> list[int]:
        worker, slow = one_thread(), Job()
        order: list[int] = []
        first = asyncio.create_task(worker.run(slow))
        await begun(slow)
        others = [asyncio.create_task(worker.run(order.append, number)) for number in range(50)]
        await asyncio.sleep(0)
        await cancelled(others.pop(7))
        slow.end.set()
        late = asyncio.create_task(worker.run(order.append, 50))
        await asyncio.gather(first, *others, late)
        return order

    assert asyncio.run(scene()) == [number for number in range(51) if number != 7]


@pytest.mark.parametrize("turns", range(6))
def test_a_caller_that_is_cancelled_as_its_turn_comes_takes_no_thread_along(turns: int) -> None:
    async def scene() -> None:
        worker, slow = one_thread(), Job()
        first = asyncio.create_task(worker.run(slow))
        await begun(slow)
        second = asyncio.create_task(worker.run(time.sleep, 0))
        await asyncio.sleep(0)
        slow.end.set()
        await first
        for _ in range(turns):  # from holding the permit to having its result
            await asyncio.sleep(0)
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        async with asyncio.timeout(5):
            assert await worker.run(lambda: "has a thread") == "has a thread"

    asyncio.run(scene())


def test_the_thread_of_a_cancelled_caller_counts_until_its_work_ends() -> None:
    async def scene() -> None:
        worker, slow = one_thread(), Job()
        running = asyncio.create_task(worker.run(slow))
        await begun(slow)
        await cancelled(running)
        following = asyncio.create_task(worker.run(lambda: "next"))
        done, _ = await asyncio.wait([following], timeout=0.2)
        assert not done
        slow.end.set()
        assert await following == "next"

    asyncio.run(scene())


def test_closing_waits_for_work_that_runs_and_not_for_ever() -> None:
    async def scene() -> None:
        for patience_s, ends in ((0.1, False), (10, True)):
            worker, slow = one_thread(), Job()
            running = asyncio.create_task(worker.run(slow))
            await begun(slow)
            await cancelled(running)
            asyncio.get_running_loop().call_later(0.5, slow.end.set)
            assert await worker.close(patience_s) is ends

    asyncio.run(scene())


def test_work_that_outlives_the_loop_ends_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    slow = Job()

    async def scene() -> None:
        task = asyncio.create_task(one_thread().run(slow))
        await begun(slow)
        await cancelled(task)

    with caplog.at_level(logging.WARNING):
        asyncio.run(scene())
        slow.end.set()
        for thread in threading.enumerate():
            if thread.name.startswith("dtufc"):
                thread.join(0.2)
    assert caplog.records == []


def test_a_load_is_done_once_beside_the_threads_and_cancelled_callers_leave_none_behind() -> None:
    slow, began = Job(), []

    def load(name: str) -> None:
        began.append(name)
        slow()

    async def scene() -> None:
        worker = one_thread()
        callers = [asyncio.create_task(worker.prepare(load, "elic")) for _ in range(100)]
        await begun(slow)
        for caller in callers[:98]:
            await cancelled(caller)
        await worker.prepare(began.append, "klt")
        assert await worker.run(lambda: "a thread is free") == "a thread is free"
        assert began == ["elic", "klt"]
        slow.end.set()
        await asyncio.gather(*callers[98:])

    asyncio.run(scene())


def test_a_load_that_fails_is_told_to_all_who_wait_and_is_tried_again() -> None:
    attempts = []

    def load() -> None:
        attempts.append(1)
        time.sleep(0.05)
        raise OSError("no such file")

    async def scene() -> None:
        worker = one_thread()
        ends = await asyncio.gather(worker.prepare(load), worker.prepare(load), return_exceptions=True)
        assert [type(end) for end in ends] == [OSError, OSError]
        with pytest.raises(OSError, match="no such file"):
            await worker.prepare(load)
        assert len(attempts) == 2

    asyncio.run(scene())
