"""Work in a thread ends with its call: at the next checkpoint, in silence, and with all that it held."""

import asyncio
import gc
import logging
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dtufc.interruption import checkpoint
from dtufc.serving.passes import Passes
from dtufc.serving.worker import Worker
from tests.serving.local_pair import eventually, local_cloud, local_edge, pipelines, tiny_decoder
from tests.serving.test_passes import State


class Endless:
    """Work in pieces that never ends of itself."""

    def __init__(self, piece: Callable[[], object] = checkpoint) -> None:
        self.began, self.left = threading.Event(), threading.Event()
        self._piece = piece

    def __call__(self, *_: object) -> Any:
        self.began.set()
        try:
            while True:
                with suppress(Exception):  # as a library may do
                    self._piece()
                    time.sleep(0.001)
        finally:
            self.left.set()


async def happened(event: threading.Event) -> None:
    async with asyncio.timeout(10):
        while not event.is_set():
            await asyncio.sleep(0.002)


async def cancelled(task: "asyncio.Future[Any]") -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("what", ["a piece of its own", "a call of a torch module"])
def test_work_of_a_cancelled_call_frees_its_thread_and_what_it_held_and_is_no_fault(
    what: str, caplog: pytest.LogCaptureFixture
) -> None:
    module = nn.ReLU()
    work = Endless(checkpoint if what == "a piece of its own" else lambda: module(torch.zeros(1)))

    async def scene() -> None:
        worker = Worker(threads=1, queue_limit=0)
        held = torch.zeros(10)
        known = weakref.ref(held)
        running = asyncio.create_task(worker.run(work, held))
        del held
        await happened(work.began)
        await cancelled(running)
        del running
        async with asyncio.timeout(10):
            assert await worker.run(lambda: "has a thread") == "has a thread"
        assert work.left.is_set()
        gc.collect()
        assert known() is None
        assert await worker.close(5)

    with caplog.at_level(logging.DEBUG):
        asyncio.run(scene())
    assert [record for record in caplog.records if record.name != "asyncio"] == []


def test_work_of_a_caller_that_waits_is_not_ended() -> None:
    def work() -> str:
        for _ in range(1000):
            checkpoint()
        return "done"

    async def scene() -> None:
        worker = Worker(threads=2, queue_limit=0)
        endless = Endless()
        other = asyncio.create_task(worker.run(endless))
        await happened(endless.began)
        await cancelled(other)
        assert await worker.run(work) == "done"
        await worker.close(5)

    asyncio.run(scene())


def test_a_shared_pass_ends_with_its_last_caller_and_others_have_their_turn() -> None:
    async def scene() -> None:
        worker, endless = Worker(threads=1, queue_limit=0), Endless()
        one_left = threading.Event()

        def together(states: Any, parts: Any) -> list[int]:
            if len(parts) == 1 or one_left.is_set():
                return [1] * len(parts)
            result: list[int] = endless()
            return result

        passes: Passes[Any, int] = Passes(worker, together, lambda count: None)
        callers = [asyncio.ensure_future(passes.advance(State(), [1], lambda *_: 1)) for _ in range(2)]
        await happened(endless.began)
        await cancelled(callers[0])
        await asyncio.sleep(0.05)
        assert not endless.left.is_set(), "the other one waits for it"
        await cancelled(callers[1])
        await happened(endless.left)
        async with asyncio.timeout(10):
            assert await passes.advance(State(), [1], lambda *_: 1) == 1
        await worker.close(5)

    asyncio.run(scene())


class Gate:
    """Stops at a module's call until it is opened, and counts the calls of those behind it."""

    def __init__(self, first: nn.Module, behind: list[nn.Module]) -> None:
        self.met, self.open, self.passed = threading.Event(), threading.Event(), 0
        first.register_forward_hook(self._wait)
        for module in behind:
            module.register_forward_hook(self._count)

    def _wait(self, *_: object) -> None:
        self.met.set()
        assert self.open.wait(10)

    def _count(self, *_: object) -> None:
        self.passed += 1


@pytest.mark.parametrize("side", ["edge", "cloud"])
def test_a_cancelled_prompt_leaves_the_model_before_its_next_layer(tmp_path: Path, side: str) -> None:
    edge_pipeline, cloud_pipeline = pipelines(tiny_decoder("Llama", tmp_path))
    part = edge_pipeline.backbone._front if side == "edge" else cloud_pipeline.head._back
    layers = part.model.get_submodule(part.anatomy.layers)
    own = [layers[index] for index in part._own_layers()]

    async def scene() -> None:
        async with local_cloud(cloud_pipeline) as cloud, local_edge(edge_pipeline, cloud.address) as edge:
            gate = Gate(own[0].input_layernorm, [own[0].mlp, *own[1:]])  # after what a start measures

            async def read() -> None:
                async with aclosing(edge.stream(prompt="a b c d e f g", max_tokens=4)) as replies:
                    async for _ in replies:
                        pass

            reading = asyncio.create_task(read())
            await happened(gate.met)
            await cancelled(reading)
            await eventually(lambda: cloud.telemetry.registry.get_sample_value("dtufc_cloud_sequences") == 0)
            gate.open.set()
            served = edge if side == "edge" else cloud
            async with asyncio.timeout(10):
                assert await served.service._worker.run(lambda: "has a thread") == "has a thread"
            assert gate.passed == 0, "the model went on for nobody"

    asyncio.run(scene())


def test_a_cancelled_image_leaves_the_denoiser_before_its_next_module() -> None:
    """Whatever library runs the steps."""
    steps = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    gate = Gate(steps[0], list(steps[1:]))

    def denoise(latent: Tensor) -> Tensor:
        for _ in range(100):
            latent = steps(latent)
        return latent

    async def scene() -> None:
        worker = Worker(threads=1, queue_limit=0)
        running = asyncio.create_task(worker.run(denoise, torch.zeros(4)))
        await happened(gate.met)
        await cancelled(running)
        gate.open.set()
        assert await worker.close(10)
        assert gate.passed == 0

    asyncio.run(scene())
