"""Generation as a session: the text is the whole model's, whatever happens to the cloud and however it is asked."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from dtufc.errors import CacheFull, InputError, Overloaded, Unavailable
from dtufc.models.zoo import weights_folder
from dtufc.v1 import head_pb2, inference_pb2
from dtufc_cloud.heads import check_finite
from dtufc_cloud.pipeline import CloudPipeline
from dtufc_edge.pipeline import EdgePipeline
from dtufc_research.evaluation.cuts import DECODERS
from tests.serving.local_pair import (
    LocalEdge,
    Reply,
    eventually,
    local_cloud,
    local_edge,
    pipelines,
    text_of,
    tiny_decoder,
)

PROMPT = [5, 17, 17, 80, 3, 42, 9, 5, 17, 60, 61, 62]
LENGTH = 24
ON, OFF = inference_pb2.DRAFTS_ON, inference_pb2.DRAFTS_OFF
ENDS = {1, 2}  # tokens that end replies of some of these models
UNENDING = head_pb2.Sampling(logit_bias=dict.fromkeys(ENDS, -100.0))
STATES = {"Qwen3Next", "Qwen3_5Text"}  # they cannot take tokens back
SAMPLED = head_pb2.Sampling(temperature=1.5, top_p=0.95, seed=7)
Pipelines = tuple[EdgePipeline, CloudPipeline]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Pipelines:
    return pipelines(tiny_decoder("Llama", tmp_path_factory.mktemp("llama")))


@pytest.fixture(scope="module")
def stateful(tmp_path_factory: pytest.TempPathFactory) -> Pipelines:
    """A model whose layers keep a state that cannot be taken back."""
    return pipelines(tiny_decoder("Qwen3Next", tmp_path_factory.mktemp("stateful")))


def through(of: Pipelines, body: Callable[[LocalEdge], Awaitable[Any]], *, unary: bool = False, **settings: Any) -> Any:
    """Runs a test's body on a pair."""

    async def run() -> Any:
        async with local_cloud(of[1], **settings) as cloud, local_edge(of[0], cloud.address, unary=unary) as edge:
            result = await body(edge)
            await eventually(lambda: cloud.service.sessions.budget.sequences == 0)
            assert cloud.service.sessions.budget.reserved == edge.service.budget.reserved == 0
            return result

    return asyncio.run(run())


@pytest.mark.parametrize("name", DECODERS)
def test_greedy_text_is_that_of_generate_for_every_class_with_drafts_and_without(name: str, tmp_path: Path) -> None:
    profile = tiny_decoder(name, tmp_path)
    whole = AutoModelForCausalLM.from_pretrained(weights_folder(profile.spec), dtype=torch.float32).eval()
    with torch.inference_mode():
        options = {"max_new_tokens": LENGTH, "do_sample": False, "pad_token_id": 0, "suppress_tokens": sorted(ENDS)}
        ids = whole.generate(torch.tensor([PROMPT]), **options)[0]
    expected = ids[len(PROMPT) :].tolist()

    async def body(edge: LocalEdge) -> None:
        ask: dict[str, Any] = {"prompt": text_of(PROMPT), "max_tokens": LENGTH, "sampling": UNENDING}
        plain = await edge.complete(**ask, drafts=OFF)
        assert plain.ids == expected
        assert plain.text == text_of(plain.ids)
        drafted = await edge.complete(**ask, drafts=ON)
        assert drafted.ids == expected
        assert plain.generated.drafted_tokens == 0
        assert (drafted.generated.drafted_tokens > 0) == (name not in STATES)

    through(pipelines(profile), body)


@pytest.mark.parametrize("unary", [False, True])
@pytest.mark.parametrize("sampling", [head_pb2.Sampling(), SAMPLED])
def test_drafts_bring_several_tokens_in_one_step_and_change_none(
    llama: Pipelines, sampling: head_pb2.Sampling, unary: bool
) -> None:
    sampling.logit_bias[17] = sampling.logit_bias[60] = 6.0  # a text that repeats itself

    async def body(edge: LocalEdge) -> None:
        ask: dict[str, Any] = {"prompt": text_of(PROMPT), "max_tokens": 60, "sampling": sampling}
        plain, drafted = await edge.complete(**ask, drafts=OFF), await edge.complete(**ask, drafts=ON)
        assert drafted.ids == plain.ids
        assert len(plain.ids) == 60
        assert 0 < drafted.generated.accepted_tokens <= drafted.generated.drafted_tokens
        if sampling.temperature:
            assert drafted.generated.accepted_tokens < drafted.generated.drafted_tokens

    through(llama, body, unary=unary)


def test_a_model_that_cannot_take_tokens_back_gets_no_drafts(stateful: Pipelines) -> None:
    async def body(edge: LocalEdge) -> None:
        reply = await edge.complete(prompt=text_of([4, 5] * 6), max_tokens=20, drafts=ON)
        assert reply.generated.drafted_tokens == 0

    through(stateful, body)


def test_the_same_seed_gives_the_same_text_and_another_one_another(llama: Pipelines) -> None:
    async def body(edge: LocalEdge) -> None:
        ask: dict[str, Any] = {"prompt": text_of(PROMPT), "max_tokens": 30}
        first = await edge.complete(**ask, sampling=SAMPLED)
        assert first.generated.seed == 7
        assert (await edge.complete(**ask, sampling=SAMPLED)).ids == first.ids
        free = head_pb2.Sampling(temperature=1.5, top_p=0.95)
        one, other = await edge.complete(**ask, sampling=free), await edge.complete(**ask, sampling=free)
        assert one.ids != other.ids
        assert one.generated.seed != other.generated.seed
        free.seed = one.generated.seed
        assert (await edge.complete(**ask, sampling=free)).ids == one.ids

    through(llama, body)


def test_several_texts_at_once_are_each_what_they_are_alone(llama: Pipelines) -> None:
    async def body(edge: LocalEdge) -> None:
        asks: list[dict[str, Any]] = [
            {"prompt": text_of(range(5 + n, 20 + 3 * n)), "max_tokens": 12 + n} for n in range(8)
        ]
        asks += [{"prompt": text_of([n]), "max_tokens": 12} for n in range(4)]
        alone = [(await edge.complete(**ask)).ids for ask in asks]
        together = await asyncio.gather(*(edge.complete(**ask) for ask in asks))
        assert [reply.ids for reply in together] == alone
        passes, sequences = (
            edge.telemetry.registry.get_sample_value(f"dtufc_edge_pass_sequences_{name}", {"model": "tiny"}) or 0.0
            for name in ("count", "sum")
        )
        assert sequences > passes, "no pass was shared"

    through(llama, body)


@pytest.mark.parametrize("unary", [False, True])
@pytest.mark.parametrize("end", ["die", "drain"])
@pytest.mark.parametrize("sampling", [head_pb2.Sampling(), SAMPLED])
def test_the_text_goes_on_where_its_cloud_dies_or_drains(
    llama: Pipelines, end: str, unary: bool, sampling: head_pb2.Sampling
) -> None:
    edge_pipeline, cloud_pipeline = llama

    async def run() -> None:
        async with AsyncExitStack() as stack:
            clouds = [await stack.enter_async_context(local_cloud(cloud_pipeline)) for _ in range(2)]
            target = f"ipv4:{','.join(cloud.address for cloud in clouds)}"
            edge = await stack.enter_async_context(local_edge(edge_pipeline, target, unary=unary))
            ask: dict[str, Any] = {"prompt": text_of(PROMPT), "max_tokens": 40, "sampling": sampling}
            expected = (await edge.complete(**ask)).ids
            ids = []
            async for reply in edge.stream(**ask):
                if reply.HasField("token"):
                    ids.append(reply.token.token_id)
                if len(ids) == 11 and len(clouds) == 2:
                    busy = [cloud for cloud in clouds if cloud.service.sessions.budget.sequences]
                    clouds.remove(busy[0])
                    await (busy[0].die() if end == "die" else busy[0].server.stop(0.5))
            assert ids == expected
            assert reply.generated.recoveries >= 1

    asyncio.run(run())


def test_the_text_waits_for_the_only_cloud_to_come_back(llama: Pipelines) -> None:
    async def run() -> None:
        async with AsyncExitStack() as stack:
            first = await stack.enter_async_context(local_cloud(llama[1]))
            edge = await stack.enter_async_context(local_edge(llama[0], first.address))
            ask: dict[str, Any] = {"prompt": text_of(PROMPT), "max_tokens": 20}
            expected = (await edge.complete(**ask)).ids
            ids = []
            async for reply in edge.stream(**ask):
                ids.append(reply.token.token_id)
                if len(ids) == 5:
                    await first.die()
                    await asyncio.sleep(0.2)
                    await stack.enter_async_context(local_cloud(llama[1], first.address))
            assert ids[:-1] == expected

    asyncio.run(run())


def test_a_cloud_that_never_comes_back_is_unavailable_before_the_deadline(llama: Pipelines) -> None:
    async def run() -> None:
        async with local_cloud(llama[1]) as cloud, local_edge(llama[0], cloud.address) as edge:
            stream = edge.stream(timeout_s=2, prompt=text_of(PROMPT), max_tokens=100)
            await anext(stream)
            await cloud.die()
            with pytest.raises(Unavailable):
                await anext(stream)

    start = time.monotonic()
    asyncio.run(run())
    assert 1 < time.monotonic() - start < 2.5


def test_a_text_that_cannot_fit_is_rejected_at_its_opening_with_the_number(llama: Pipelines) -> None:
    one = llama[1].head.cache_bytes(len(PROMPT) + 19)

    async def too_large(edge: LocalEdge) -> None:
        with pytest.raises(InputError, match=f"the limit is {one - 1}"):
            await edge.complete(prompt=text_of(PROMPT), max_tokens=20)

    through(llama, too_large, max_cache_bytes=one - 1)

    async def too_many(edge: LocalEdge) -> None:
        stream = edge.stream(prompt=text_of(PROMPT), max_tokens=20)
        await anext(stream)
        with pytest.raises(CacheFull, match=f"{one // 2} of {one + one // 2} are free"):
            await edge.complete(prompt=text_of(PROMPT), max_tokens=20)
        await stream.aclose()

    through(llama, too_many, max_cache_bytes=one + one // 2)

    async def too_many_sessions(edge: LocalEdge) -> None:
        stream = edge.stream(prompt=text_of(PROMPT), max_tokens=20)
        await anext(stream)
        with pytest.raises(Overloaded):
            await edge.complete(prompt=text_of(PROMPT), max_tokens=20)
        await stream.aclose()

    through(llama, too_many_sessions, max_sessions=1)


def test_a_question_counts_against_the_edges_cache_too(llama: Pipelines) -> None:
    async def run() -> None:
        request = inference_pb2.AnswerRequest(question="Which?", choices=["a", "b"])
        async with local_cloud(llama[1]) as cloud, local_edge(llama[0], cloud.address, max_cache_bytes=1) as edge:
            with pytest.raises(InputError, match="the limit is 1"):
                await anext(edge.service.replies("answer", request, 60))

    asyncio.run(run())


def test_a_reader_that_leaves_frees_both_sides(llama: Pipelines) -> None:
    async def run() -> None:
        async with local_cloud(llama[1]) as cloud, local_edge(llama[0], cloud.address) as edge:
            stream = edge.stream(prompt=text_of(PROMPT), max_tokens=100)
            await anext(stream)
            assert cloud.service.sessions.budget.sequences == edge.service.budget.sequences == 1
            await stream.aclose()
            assert edge.service.budget.sequences == 0
            await eventually(lambda: cloud.service.sessions.budget.sequences == 0, timeout_s=1)

    asyncio.run(run())


@pytest.mark.parametrize("unary", [False, True])
def test_a_session_that_was_idle_ends_and_its_text_goes_on(llama: Pipelines, unary: bool) -> None:
    async def run() -> None:
        async with (
            local_cloud(llama[1], session_idle_s=0.2) as cloud,
            local_edge(llama[0], cloud.address, unary=unary) as edge,
        ):
            ask: dict[str, Any] = {"prompt": text_of(PROMPT), "max_tokens": 12}
            expected = (await edge.complete(**ask)).ids
            ids = []
            async for reply in edge.stream(**ask):
                ids.append(reply.token.token_id)
                if len(ids) == 4:
                    await eventually(lambda: cloud.service.sessions.budget.sequences == 0)
            assert ids[:-1] == expected
            assert reply.generated.recoveries == 1

    asyncio.run(run())


def test_a_cloud_that_is_lost_at_any_moment_loses_no_text(llama: Pipelines) -> None:
    """Also while the edge writes to it."""
    rng = random.Random(5)

    async def one(end: str) -> None:
        async with AsyncExitStack() as stack:
            clouds = [await stack.enter_async_context(local_cloud(llama[1])) for _ in range(2)]
            target = f"ipv4:{','.join(cloud.address for cloud in clouds)}"
            edge = await stack.enter_async_context(local_edge(llama[0], target))
            ask: dict[str, Any] = {"prompt": text_of(PROMPT), "max_tokens": 60, "sampling": UNENDING}
            expected = (await edge.complete(**ask)).ids
            going = asyncio.ensure_future(edge.complete(**ask))
            await eventually(lambda: any(cloud.service.sessions.budget.sequences for cloud in clouds))
            await asyncio.sleep(rng.uniform(0.02, 0.2))
            busy = [cloud for cloud in clouds if cloud.service.sessions.budget.sequences]
            if busy:
                await (busy[0].die() if end == "die" else busy[0].server.stop(0.5))
            assert (await going).ids == expected

    for index in range(16):
        asyncio.run(one("die" if index % 2 else "drain"))


def test_a_text_whose_numbers_overflow_leaves_those_that_share_its_passes_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edge_pipeline, cloud_pipeline = pipelines(tiny_decoder("GPT2", tmp_path))
    head, wrong = cloud_pipeline.head, 0

    def overflowing(logits: torch.Tensor) -> torch.Tensor:
        nonlocal wrong
        wrong += 1
        return check_finite(logits * float("inf") if wrong == 40 else logits)

    monkeypatch.setattr("dtufc_cloud.heads.decoder.check_finite", overflowing)

    async def body(edge: LocalEdge) -> None:
        asks: list[dict[str, Any]] = [{"prompt": text_of(range(5 + n, 15 + n)), "max_tokens": 20} for n in range(6)]
        results = await asyncio.gather(
            *(edge.complete(**ask, sampling=UNENDING) for ask in asks), return_exceptions=True
        )
        assert [type(result) for result in results].count(InputError) == 1
        assert sum(isinstance(result, Reply) and len(result.ids) == 20 for result in results) == 5

    through((edge_pipeline, cloud_pipeline), body)
    assert head.shares_passes
