"""Names that a peer made up never become labels of a metric; a text's metrics move by what happened to it."""

import asyncio
import json
import logging
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest

from dtufc.errors import DtufcError, Internal, SessionLost
from dtufc.serving.cache_budget import CacheBudget
from dtufc.serving.telemetry import SESSION_ENDS, JsonLines, Telemetry
from dtufc.v1 import inference_pb2
from tests.serving.local_pair import eventually, local_cloud, local_edge, pipelines, text_of, tiny_decoder

LABELS = {"model": "tiny", "codec": "raw"}
REPEATS = text_of([5, 17, 60] * 6)


def value(telemetry: Telemetry, name: str, labels: Mapping[str, str] = LABELS) -> float:
    return telemetry.registry.get_sample_value(name, dict(labels)) or 0.0


def tokens(telemetry: Telemetry, side: str, kind: str) -> float:
    return value(telemetry, f"dtufc_{side}_tokens_total", {"kind": kind, **LABELS})


def ends(telemetry: Telemetry, **expected: int) -> bool:
    """Whether the sessions of the tiny model ended as often as this, and no others did."""
    found = {
        end: value(telemetry, "dtufc_cloud_sessions_total", {"reason": end, "model": "tiny"}) for end in SESSION_ENDS
    }
    return found == dict.fromkeys(SESSION_ENDS, 0) | expected


def test_stages_that_a_peer_made_up_are_counted_as_other() -> None:
    telemetry = Telemetry("edge")
    with telemetry.request("answer") as record:
        record.stages.add("cloud.head", 0.5)
        for number in range(1000):
            record.stages.add(f"made-up-{number}", 0.001)
    page = generate_latest(telemetry.registry).decode()
    assert "made-up" not in page
    assert 'dtufc_edge_stage_seconds_count{codec="unknown",model="unknown",stage="cloud.head"} 1.0' in page
    assert 'dtufc_edge_stage_seconds_count{codec="unknown",model="unknown",stage="other"} 1000.0' in page


def test_the_tokens_of_one_step_share_its_time_and_those_of_the_first_are_the_first(
    caplog: pytest.LogCaptureFixture,
) -> None:
    telemetry = Telemetry("edge")
    telemetry.expect("tiny", ["raw", "klt"])
    assert value(telemetry, "dtufc_edge_recoveries_total", LABELS | {"codec": "klt"}) == 0
    with caplog.at_level(logging.INFO, "dtufc.request"), telemetry.request("complete") as record:
        record.model, record.codec = "tiny", "raw"
        telemetry.generated(record, 2.0, prompt=9, new=1, drafted=0)
        telemetry.generated(record, 0.3, prompt=0, new=3, drafted=4)
        telemetry.recovered(record)
    assert value(telemetry, "dtufc_edge_first_token_seconds_count") == 1
    assert value(telemetry, "dtufc_edge_first_token_seconds_sum") == 2.0
    assert value(telemetry, "dtufc_edge_token_seconds_count") == 3
    assert value(telemetry, "dtufc_edge_token_seconds_bucket", LABELS | {"le": "0.1"}) == 3
    assert value(telemetry, "dtufc_edge_recoveries_total") == 1
    kinds = {"prompt": 9, "new": 4, "drafted": 4, "accepted": 2}
    assert {kind: tokens(telemetry, "edge", kind) for kind in kinds} == kinds
    line = json.loads(JsonLines().format(caplog.records[-1]))
    assert (line["tokens"], line["recoveries"]) == (kinds, 1)


def test_a_request_without_tokens_has_none_in_its_log_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "dtufc.request"), Telemetry("edge").request("answer"):
        pass
    assert not {"tokens", "recoveries"} & set(json.loads(JsonLines().format(caplog.records[-1])))


def test_a_sessions_seconds_are_those_of_its_steps_and_not_of_its_client() -> None:
    telemetry = Telemetry("cloud")
    with telemetry.request("complete") as record:
        record.model, record.codec = "tiny", "raw"
        telemetry.stepped(record, 20.0, sampled=0, drafted=0)  # held
        telemetry.stepped(record, 5.0, sampled=3, drafted=2)
    assert value(telemetry, "dtufc_cloud_step_seconds_count") == 2
    assert value(telemetry, "dtufc_cloud_request_seconds_sum", {"task": "complete", **LABELS}) == 25.0
    kinds = {"sampled": 3, "drafted": 2, "accepted": 2}
    assert {kind: tokens(telemetry, "cloud", kind) for kind in kinds} == kinds


@pytest.mark.parametrize(
    ("error", "end"),
    [
        (None, "closed"),
        (SessionLost(problem="no rows", end="idle"), "idle"),
        (SessionLost(problem="rows cannot be taken back"), "error"),
        (Internal(), "error"),
        (ValueError("a fault"), "error"),
        (asyncio.CancelledError(), "lost"),
    ],
)
def test_sessions_are_counted_by_their_end(error: BaseException | None, end: str) -> None:
    telemetry = Telemetry("cloud")
    telemetry.expect_sessions("tiny")
    with pytest.raises(type(error)) if error else nullcontext(), telemetry.session("tiny"):
        if error is not None:
            raise error
    assert ends(telemetry, **{end: 1})


def test_the_gauges_of_the_cache_ask_its_budget() -> None:
    telemetry, budget = Telemetry("edge"), CacheBudget(1000)
    telemetry.watch_cache(budget)
    names = ("dtufc_edge_sequences", "dtufc_edge_cache_bytes", "dtufc_edge_cache_limit_bytes")
    with budget.reserve(300, 4):
        assert [value(telemetry, name, {}) for name in names] == [1, 300, 1000]
    assert [value(telemetry, name, {}) for name in names] == [0, 0, 1000]


@pytest.mark.parametrize("unary", [False, True])
def test_a_text_moves_the_metrics_of_both_sides(unary: bool, tmp_path: Path) -> None:
    edge_pipeline, cloud_pipeline = pipelines(tiny_decoder("Llama", tmp_path))

    async def run() -> None:
        async with (
            local_cloud(cloud_pipeline) as cloud,
            local_edge(edge_pipeline, cloud.address, unary=unary) as edge,
        ):
            ask: dict[str, Any] = {"prompt": REPEATS, "max_tokens": 30, "drafts": inference_pb2.DRAFTS_ON}
            generated = (await edge.complete(**ask)).generated
            await eventually(lambda: ends(cloud.telemetry, closed=1))
            assert tokens(edge.telemetry, "edge", "prompt") == generated.prompt_tokens == 18
            assert tokens(edge.telemetry, "edge", "new") == generated.new_tokens
            assert tokens(cloud.telemetry, "cloud", "sampled") == generated.new_tokens
            assert generated.drafted_tokens > 0
            for telemetry, side in ((edge.telemetry, "edge"), (cloud.telemetry, "cloud")):
                assert tokens(telemetry, side, "drafted") == generated.drafted_tokens
                assert tokens(telemetry, side, "accepted") == generated.accepted_tokens
                passes = value(telemetry, f"dtufc_{side}_pass_sequences_count", {"model": "tiny"})
                assert passes == generated.new_tokens - generated.accepted_tokens
            assert value(cloud.telemetry, "dtufc_cloud_step_seconds_count") == passes
            assert value(edge.telemetry, "dtufc_edge_token_seconds_count") == generated.new_tokens - 1
            first_s = value(edge.telemetry, "dtufc_edge_first_token_seconds_sum")
            assert first_s == pytest.approx(generated.first_token_seconds, abs=0.05)

    asyncio.run(run())


@pytest.mark.parametrize("unary", [False, True])
def test_a_text_that_goes_on_after_its_session_was_idle_is_a_recovery_and_one_that_cannot_is_none(
    unary: bool, tmp_path: Path
) -> None:
    edge_pipeline, cloud_pipeline = pipelines(tiny_decoder("Llama", tmp_path))

    async def run() -> None:
        async with (
            local_cloud(cloud_pipeline, session_idle_s=0.3) as cloud,
            local_edge(edge_pipeline, cloud.address, unary=unary) as edge,
        ):
            ask: dict[str, Any] = {"prompt": REPEATS, "max_tokens": 12}
            stream = edge.stream(**ask)
            await anext(stream)
            await eventually(lambda: ends(cloud.telemetry, idle=1))
            assert [reply async for reply in stream][-1].generated.recoveries == 1
            await eventually(lambda: ends(cloud.telemetry, idle=1, closed=1))
            assert value(edge.telemetry, "dtufc_edge_recoveries_total") == 1
            stream = edge.stream(timeout_s=1, **ask)
            await anext(stream)
            cloud.service.drain()
            with pytest.raises(DtufcError):  # there is no other cloud
                await anext(stream)
            await eventually(lambda: ends(cloud.telemetry, idle=1, closed=1, drained=1))
            assert value(edge.telemetry, "dtufc_edge_recoveries_total") == 1, "the text did not go on"

    asyncio.run(run())


def test_a_session_whose_edge_is_gone_is_lost(tmp_path: Path) -> None:
    edge_pipeline, cloud_pipeline = pipelines(tiny_decoder("Llama", tmp_path))

    async def run() -> None:
        async with local_cloud(cloud_pipeline) as cloud:
            async with local_edge(edge_pipeline, cloud.address) as edge:
                stream = edge.stream(prompt=REPEATS, max_tokens=12)
                await anext(stream)
            await eventually(lambda: ends(cloud.telemetry, lost=1))
            await stream.aclose()

    asyncio.run(run())
