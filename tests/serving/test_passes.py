"""Passes of several sequences through one model: whose turn it is, and what becomes of those that leave."""

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

from dtufc.serving.passes import Passes
from dtufc.serving.turns import CALLER
from dtufc.serving.worker import Worker


class State:
    """A sequence that has begun."""

    num_bytes = 0
    can_rewind = False

    def __init__(self, num_tokens: int = 3) -> None:
        self.num_tokens = num_tokens

    def rewind(self, num_tokens: int) -> bool:
        raise NotImplementedError


class Model:
    """Notes its passes, and stands still until it is let go."""

    def __init__(self) -> None:
        self.passes: list[list[int]] = []
        self.free = threading.Event()
        self.free.set()

    def alone(self, state: Any, part: Sequence[int]) -> int:
        return self.together([state], [part])[0]

    def together(self, states: Sequence[Any], parts: Sequence[Sequence[int]]) -> list[int]:
        assert self.free.wait(10)
        self.passes.append([len(part) for part in parts])
        return [sum(part) for part in parts]


def test_a_step_and_a_piece_of_a_prompt_take_turns() -> None:
    async def run() -> None:
        model, worker = Model(), Worker(threads=1, queue_limit=0)
        passes: Passes[Sequence[int], int] = Passes(worker, model.together, lambda count: None)
        model.free.clear()
        prompts, steps = [State(0) for _ in range(3)], [State() for _ in range(2)]
        first = asyncio.ensure_future(passes.advance(prompts[0], [1] * 5, model.alone))
        await asyncio.sleep(0.05)
        others = [asyncio.ensure_future(passes.advance(state, [1] * 5, model.alone)) for state in prompts[1:]]
        others += [asyncio.ensure_future(passes.advance(state, [1], model.alone)) for state in steps]
        await asyncio.sleep(0.05)
        model.free.set()
        assert await asyncio.gather(first, *others) == [5, 5, 5, 1, 1]
        assert model.passes == [[5], [1, 1], [5], [5]]
        await worker.close(1)

    asyncio.run(run())


def test_a_prompt_of_one_client_does_not_wait_behind_all_those_of_another() -> None:
    async def run() -> None:
        model, worker = Model(), Worker(threads=1, queue_limit=0)
        passes: Passes[Sequence[int], int] = Passes(worker, model.together, lambda count: None)
        model.free.clear()

        async def advance(client: str, length: int) -> int:
            CALLER.set(client)
            return await passes.advance(State(0), [1] * length, model.alone)

        first = asyncio.create_task(advance("a", 2))
        await asyncio.sleep(0.05)
        others = [
            asyncio.create_task(advance(client, length)) for client, length in zip("aaab", (2, 2, 2, 3), strict=True)
        ]
        await asyncio.sleep(0.05)
        model.free.set()
        await asyncio.gather(first, *others)
        assert model.passes.index([3]) <= 2
        await worker.close(1)

    asyncio.run(run())


def test_a_prompt_is_not_forgotten_where_the_step_before_it_leaves_while_it_waits_for_others() -> None:
    async def run() -> None:
        model, worker = Model(), Worker(threads=1, queue_limit=0)
        passes: Passes[Sequence[int], int] = Passes(worker, model.together, lambda count: None)
        states = [State() for _ in range(2)]

        def slow(state: Any, part: Sequence[int]) -> int:
            threading.Event().wait(0.4)  # so long would a later step wait for others: half of it
            return model.alone(state, part)

        for state in states:
            await passes.advance(state, [1], slow)
        step = asyncio.ensure_future(passes.advance(states[0], [1], model.alone))
        await asyncio.sleep(0.05)
        step.cancel()
        prompt = passes.advance(State(0), [1] * 5, model.alone)
        assert await asyncio.wait_for(prompt, 5) == 5
        await worker.close(1)

    asyncio.run(run())
