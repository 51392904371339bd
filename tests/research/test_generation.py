"""The measurements of generation, at the smallest effort, and the page that is written of them."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dtufc_research.evaluation import generation
from dtufc_research.evaluation.generation import Effort, main, measure
from dtufc_research.evaluation.generation_page import page
from dtufc_research.evaluation.pair import Forwarder

ROUND_TRIP_S = 0.2


@pytest.fixture
def echo() -> Iterator[str]:
    """A server that sends back what it gets."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                while data := connection.recv(1 << 16):
                    connection.sendall(data)

        thread = threading.Thread(target=serve)
        thread.start()
        yield "{}:{}".format(*listener.getsockname())
        thread.join()


def test_a_forwarder_holds_all_that_passes_for_half_a_round_trip_each_way(echo: str) -> None:
    forwarder, sent = Forwarder(echo), bytes(range(256)) * 4096
    forwarder.round_trip_s = ROUND_TRIP_S
    host, _, port = forwarder.address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.settimeout(30)
        start, received = time.monotonic(), b""
        sender = threading.Thread(target=connection.sendall, args=(sent,))
        sender.start()
        while len(received) < len(sent):
            received += connection.recv(1 << 16)
            if len(received) <= 1 << 16:
                assert time.monotonic() - start >= ROUND_TRIP_S
        sender.join()
    forwarder.close()
    assert received == sent
    assert forwarder.num_bytes == 2 * len(sent)


def test_a_section_is_measured_on_the_pair_and_an_interrupted_one_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    path, effort = tmp_path / "generation.json", Effort(lengths=(12,))
    measure(path, "length", ["smollm2-135m"], effort)
    results = json.loads(path.read_text(encoding="utf-8"))
    rows = results["length"]["rows"]
    raw = {row["tokens"]: row["bytes"] for row in rows.values() if row.get("codec") == "raw"}
    assert raw[12] - raw[4] == raw[9] - raw[1] == 8 * (4 * 576 + 6)  # a row's values, and a step frame's own bytes
    assert all(row["new_tokens"] == row["tokens"] for row in rows.values() if "tokens" in row)
    assert main(["--page-only", "--output", str(path)]) == 0
    assert "| 12 |" in path.with_suffix(".md").read_text(encoding="utf-8")
    assert path.with_suffix(".png").is_file()

    results["length"]["done"] = False
    path.write_text(json.dumps(results), encoding="utf-8")
    measure(path, "length", ["smollm2-135m"], effort)
    assert json.loads(path.read_text(encoding="utf-8"))["length"]["rows"] == rows


def test_a_section_that_is_named_wrongly_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main(["lengths", "--output", str(tmp_path / "generation.json")])
    assert not list(tmp_path.iterdir())


def test_a_page_has_the_sections_that_are_done() -> None:
    costs = {
        "bytes": 1000,
        "seconds": 2.0,
        "new_tokens": 4,
        "drafted": 4,
        "accepted": 3,
        "on the way": 1200,
        "ids": [1],
    }
    moved = {"round_trip_ms": 20, "prompt": "code", **costs}
    group = {"tokens_per_s": 9.0, "first_s": 0.1, "worst_first_s": 0.2, "gap_s": 0.01, "worst_gap_s": 0.3}
    hit = {"clouds": 1, "equal": True, "recoveries": 1, "longest_pause_s": 9.0, "calm_pause_s": 0.1}
    told = {"bytes": 200.0, "perplexity": 8.0}
    stages = dict.fromkeys(("edge.backbone", "edge.encode", "cloud.parse", "cloud.decode", "cloud.head"), 0.1)
    stages |= {"round_trip": 0.5, "all": 1.0}
    speed = {
        "tokens": 4,
        "seconds": {"whole model": [1.0, 3.0, 2.0], "raw": [2.5], "klt": [4.0]},
        "stages": {"raw": stages, "klt": stages},
        "raw is the whole model's": True,
    }
    late = {"sessions": 2, **group, "prompt_tokens": 800, "its_first_token_s": 1.0}
    found = {
        "speed": {"m": speed},
        "distance": {f"20 code {drafts}": {"drafts": drafts, **moved} for drafts in ("off", "on")},
        "together": {"alone": {"sessions": 1, **group}, "long prompt": late},
        "recovery": {"1 0": hit, "1 1": {**hit, "equal": False, "longest_pause_s": 11.0}},
        "rate": {
            "coded m": {
                "channels": 8,
                "texts": 1,
                "tokens": 4,
                "dtype": "float32",
                "raw": told,
                "0.5": {"rows": told, "frame": told},
            },
            "tokens 0.5": {"mode": "tokens", "quality": 0.5, "tokens": 4, "same": [1, 4, 3]},
            "both 0.5": {"mode": "both", "quality": 0.5, "tokens": 4, "same": [1, 2, 1]},
        },
    }
    assert set(found) | {"length"} == set(generation.SECTIONS)
    of = {"profiles": ["m"], "machine": "a machine"}
    text = page({name: {"of": of, "quick": False, "done": True, "rows": rows} for name, rows in found.items()}, "x.png")
    for line in (
        "| m | raw | 1.60 | 0.80 | 0.9 | yes |",
        "| 20 | code | on | 2.00 | 1.00 | 0.75 of 4 | 300 | yes |",
        "| long prompt | 2 | 9.0 | 100 | 200 | 10 | 300 |",
        "| 1 | 2 | 1 | 2 | 10.00 | 11.00 | 0.10 |",
        "| 0.5 | 200 | 200 | 8.00 | 8.00 |",
        "| 0.5 | 3 | 1 of 3 | 1 | 0 of 3 |",
    ):
        assert line in text
    assert "quick mode" not in text
    assert "Length of the reply" not in page({"length": {"rows": {}}}, "x.png")
