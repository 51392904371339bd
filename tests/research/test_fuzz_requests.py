"""Hostile requests: the same of a seed each time, and none that ends in a fault of a pair."""

import asyncio
from collections.abc import Iterator
from random import Random

import pytest

from dtufc_research.evaluation.faults_page import page
from dtufc_research.evaluation.fuzz_http import hostile_request
from dtufc_research.evaluation.fuzz_requests import Target, faults_of, logged, measure, target

COUNT = 400


@pytest.fixture(scope="module")
def against() -> Iterator[Target]:
    with target() as started:
        yield started


def test_the_same_seed_and_number_make_the_same_request(against: Target) -> None:
    for number in range(200):
        calls = [against.calls.hostile(Random(f"5:{number}")) for _ in range(2)]
        requests = [hostile_request(Random(f"5:{number}")) for _ in range(2)]
        assert calls[0] == calls[1]
        assert requests[0] == requests[1]
    assert len({against.calls.hostile(Random(f"5:{number}")).messages for number in range(200)}) > 150


def test_hostile_requests_end_in_no_fault_of_the_pair(against: Target) -> None:
    found = asyncio.run(measure(against, 5, COUNT))
    assert sum(sum(tallied.values()) for tallied in found["codes"].values()) == COUNT
    assert {"OK", "INVALID_ARGUMENT"} <= set().union(*found["codes"].values())
    assert faults_of(found) == []
    assert f"Of {COUNT} hostile requests none ended" in page({"fuzz": {**found, "faults": []}})


def test_a_trace_and_a_line_that_is_no_json_are_found_in_a_log() -> None:
    log = '{"level": "INFO"}\n{"level": "ERROR", "message": "m", "trace": "at\\nValueError: x"}\nTraceback\n'
    assert logged(log) == {"trace: ValueError: x": 1, "no JSON: Traceback": 1}
