"""The two clients against the pair: the same replies, errors that are ours, and work that ends with its reader."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import closing
from typing import TypeVar

import pytest

from dtufc import AsyncEdgeClient, EdgeClient, Sampling
from dtufc.errors import DeadlineExceeded, InputError, Unavailable
from dtufc.v1 import inference_pb2
from tests.e2e.services import SAMPLES, Service, free_port

T = TypeVar("T")
TURNS = [
    {"role": "system", "content": "You answer in one word."},
    {"role": "user", "content": "What is the capital of France?"},
]
STORY = "Once upon a time, there was"
WARM = Sampling(temperature=0.8, top_p=0.95, seed=7)


def with_client(edge: Service, work: Callable[[AsyncEdgeClient], Coroutine[object, object, T]]) -> T:
    async def run() -> T:
        async with AsyncEdgeClient(edge.address) as client:
            return await work(client)

    return asyncio.run(run())


def outcome(replies: list[inference_pb2.CompleteReply]) -> tuple[str, list[int], str]:
    ids = [reply.token.token_id for reply in replies if reply.HasField("token")]
    return "".join(reply.text for reply in replies), ids, replies[-1].finish_reason


def test_both_clients_stream_the_same_text(edge: Service, client: EdgeClient) -> None:
    async def generate(to: AsyncEdgeClient) -> list[list[inference_pb2.CompleteReply]]:
        return [
            [reply async for reply in to.complete(STORY, plain=True, max_tokens=8, sampling=WARM)],
            [reply async for reply in to.chat(TURNS, max_tokens=8)],
        ]

    completed = list(client.complete(STORY, plain=True, max_tokens=8, sampling=WARM))
    chatted = list(client.chat(TURNS, max_tokens=8))
    assert [outcome(replies) for replies in with_client(edge, generate)] == [outcome(completed), outcome(chatted)]
    assert completed[-1].generated.new_tokens == 8
    assert completed[-1].generated.seed == 7


def test_a_conversation_of_one_turn_is_a_prompt(client: EdgeClient) -> None:
    alone = list(client.chat(TURNS[1:], max_tokens=4))
    assert outcome(alone) == outcome(list(client.complete(TURNS[1]["content"], max_tokens=4)))
    assert alone[-1].generated.prompt_tokens > 0


def test_both_clients_get_the_same_of_every_other_task(edge: Service, client: EdgeClient) -> None:
    image = SAMPLES / "chelsea.jpg"

    async def ask(to: AsyncEdgeClient) -> list[object]:
        answer, labels, segments = await asyncio.gather(
            to.answer("Is it?", ["yes", "no"]), to.classify(image, top_k=3), to.segment(image)
        )
        generated = [reply async for reply in to.generate_image("red apple", steps=2)][-1]
        models = [info.name for info in await to.models()]
        return [answer.letter, [x.name for x in labels.labels], segments.label_map_png, generated.image_png, models]

    assert with_client(edge, ask) == [
        client.answer("Is it?", ["yes", "no"]).letter,
        [x.name for x in client.classify(image, top_k=3).labels],
        client.segment(image).label_map_png,
        list(client.generate_image("red apple", steps=2))[-1].image_png,
        [info.name for info in client.models()],
    ]


async def leave(to: AsyncEdgeClient) -> None:
    async for _ in to.complete(STORY, plain=True, max_tokens=200, codec="raw"):
        break


async def be_cancelled(to: AsyncEdgeClient) -> None:
    has_begun = asyncio.Event()

    async def read() -> None:
        async for _ in to.complete(STORY, plain=True, max_tokens=200, codec="raw"):
            has_begun.set()

    reader = asyncio.create_task(read())
    await has_begun.wait()
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader


@pytest.mark.parametrize("end", [leave, be_cancelled])
def test_a_reader_on_asyncio_that_leaves_or_is_cancelled_ends_the_work(
    end: Callable[[AsyncEdgeClient], Awaitable[None]], edge: Service
) -> None:
    async def work(to: AsyncEdgeClient) -> None:
        await end(to)
        await asyncio.to_thread(assert_quiet, edge)  # while the client goes on

    with_client(edge, work)


def test_closing_a_stream_ends_the_work(edge: Service, client: EdgeClient) -> None:
    with closing(client.chat(TURNS[1:], max_tokens=200, codec="raw")) as stream:
        next(stream)
    assert_quiet(edge)


def assert_quiet(edge: Service) -> None:
    """Within a second the edge runs nothing."""
    end = time.monotonic() + 1
    while edge.total("dtufc_edge_running"):
        assert time.monotonic() < end
        time.sleep(0.02)


def test_errors_of_the_asyncio_client_are_ours(edge: Service) -> None:
    async def fail(to: AsyncEdgeClient) -> None:
        with pytest.raises(InputError, match="top_p"):
            [_ async for _ in to.complete("Hi", sampling=Sampling(top_p=2.0))]
        with pytest.raises(InputError, match="role"):
            [_ async for _ in to.chat([{"role": "poet", "content": "Hi"}])]
        with pytest.raises(InputError, match="question"):
            await to.answer("", ["yes", "no"])
        async with AsyncEdgeClient(edge.address, timeout_s=0.3) as hasty:
            with pytest.raises(DeadlineExceeded):
                [_ async for _ in hasty.complete(STORY, plain=True, max_tokens=200, codec="raw")]
        async with AsyncEdgeClient(f"127.0.0.1:{free_port()}", timeout_s=5) as lost:
            with pytest.raises(Unavailable):
                [_ async for _ in lost.complete("Hi")]

    with_client(edge, fail)
