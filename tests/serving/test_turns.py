"""Clients that compete: whose turn it is, and how many places one may take."""

import asyncio
from contextlib import ExitStack

import pytest

from dtufc.errors import Overloaded
from dtufc.serving.turns import CALLER, Places, Turns
from dtufc.serving.worker import Worker


async def as_client(client: str, turns: Turns, order: list[str], amount: int = 1) -> None:
    CALLER.set(client)
    async with turns.lease(amount):
        order.append(client)


def test_clients_have_turns_one_after_the_other_however_many_calls_each_has() -> None:
    async def scene() -> list[str]:
        turns, order = Turns(1), list[str]()
        await turns.acquire()
        waiting = [asyncio.create_task(as_client(client, turns, order)) for client in "aaaabbc"]
        await asyncio.sleep(0)
        turns.release()
        await asyncio.gather(*waiting)
        return order

    assert "".join(asyncio.run(scene())) == "abcabaa"


def test_work_in_threads_goes_to_clients_in_turn() -> None:
    async def scene() -> str:
        worker, order = Worker(threads=1, queue_limit=9), list[str]()

        async def call(client: str) -> None:
            CALLER.set(client)
            await worker.run(order.append, client)

        await asyncio.gather(*(asyncio.create_task(call(client)) for client in "aaaaaab"))
        assert await worker.close(5)
        return "".join(order)

    assert asyncio.run(scene()).index("b") <= 2


def test_one_client_never_holds_all_where_there_is_a_most_for_each() -> None:
    async def scene() -> None:
        turns, order = Turns(3, most_each=2), list[str]()
        CALLER.set("a")
        async with turns.lease(1), turns.lease(1) as lease:
            third = asyncio.create_task(as_client("a", turns, order))
            other = asyncio.create_task(as_client("b", turns, order))
            await other
            assert order == ["b"]
            lease.shrink(0)
            await third

    asyncio.run(scene())


@pytest.mark.parametrize("steps", range(4))
def test_who_is_cancelled_at_any_moment_takes_nothing_along(steps: int) -> None:
    async def scene() -> None:
        turns, order = Turns(2), list[str]()
        await turns.acquire(2)
        large = asyncio.create_task(as_client("a", turns, order, 2))
        await asyncio.sleep(0)
        turns.release(2)
        for _ in range(steps):
            await asyncio.sleep(0)
        large.cancel()
        await asyncio.gather(large, return_exceptions=True)
        async with asyncio.timeout(5):
            await turns.acquire(2)

    asyncio.run(scene())


def test_a_client_may_fill_the_places_and_others_still_get_their_share() -> None:
    places = Places(4)

    def taken_by(client: str, held: ExitStack) -> int:
        CALLER.set(client)
        for number in range(100):
            try:
                held.enter_context(places.hold())
            except Overloaded:
                return number
        raise AssertionError("there is no end to them")

    with ExitStack() as held:
        assert [taken_by(client, held) for client in "aabcdefgh"] == [4, 0, 2, 1, 1, 0, 0, 0, 0]
        assert places.taken == 8
    assert places.taken == 0


def test_the_time_to_try_again_after_follows_how_long_places_are_held() -> None:
    places = Places(1)
    for _ in range(100):
        with places.hold():
            pass
    with places.hold(), pytest.raises(Overloaded) as caught:
        places.hold().__enter__()
    assert caught.value.retry_s == 0.1
