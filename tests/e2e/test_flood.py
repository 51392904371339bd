"""Calls that are cancelled at random moments leave nothing behind."""

import asyncio
import random
import time

from dtufc_research.evaluation.flood import flood
from tests.e2e.services import Service

HELD = ("running", "sequences", "cache_bytes")


def test_a_flood_of_cancelled_calls_holds_no_place_and_no_memory(pair: tuple[Service, Service]) -> None:
    edge, cloud = pair
    before = [side.log_text().count('"trace"') for side in pair]
    ends = asyncio.run(flood(edge.address, None, 60, random.Random(0)))
    assert set(ends) <= {"cancelled", "done", "OVERLOADED"}
    end = time.monotonic() + 60
    while any(side.total(f"dtufc_{side.side}_{name}") for side in (edge, cloud) for name in HELD):
        assert time.monotonic() < end, "something is still held"
        time.sleep(0.1)
    assert [side.log_text().count('"trace"') for side in pair] == before
