"""The quick part of the fault suite, and its means: lines that lose packets, connections that are cut."""

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dtufc_research.evaluation.faults import QUICK, main
from dtufc_research.evaluation.lossy_line import LossyLine, can_make_lines
from dtufc_research.evaluation.pair import Forwarder

NEEDS_ROOT = pytest.mark.skipif(not can_make_lines(), reason="makes a network: needs root, ip and tc")


def test_under_real_faults_nothing_hangs_and_nothing_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "faults.json"
    status = main(["--quick", "--output", str(path)])
    rows = json.loads(path.read_text(encoding="utf-8"))["faults"]["rows"]
    assert list(rows) == list(QUICK)
    bad = [row for fault in rows.values() for row in fault["seen"] if row["verdict"]]
    assert (status, bad) == (0, [])
    assert "100 kB" in path.with_suffix(".md").read_text(encoding="utf-8")


def test_a_fault_that_is_named_wrongly_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main(["kiled", "--output", str(tmp_path / "faults.json")])
    assert not list(tmp_path.iterdir())


@pytest.fixture
def line() -> Iterator[LossyLine]:
    line = LossyLine()
    yield line
    line.close()


@NEEDS_ROOT
@pytest.mark.parametrize(("share", "fewest", "most"), [(0, 1000, 1000), (0.3, 600, 800), (1, 0, 0)])
def test_a_line_loses_the_share_of_packets_that_it_is_told(
    line: LossyLine, share: float, fewest: int, most: int
) -> None:
    line.lose(share)
    counter = f"""
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here:
    here.bind(("{line.host}", 9))
    here.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    print("bound", flush=True)
    input()
    here.setblocking(False)
    count = 0
    try:
        while here.recv(1):
            count += 1
    except BlockingIOError:
        print(count)
"""
    command = [*line.before, sys.executable, "-c", counter]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "bound\n"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as near:
            for _ in range(1000):
                near.sendto(b"x", (line.host, 9))
        told, _ = process.communicate("\n", timeout=30)
    assert fewest <= int(told) <= most


def test_a_forwarder_cuts_the_connection_where_it_is_told() -> None:
    def cut(data: bytes) -> bytes:
        raise ConnectionResetError

    with socket.create_server(("127.0.0.1", 0)) as listener:
        forwarder = Forwarder("{}:{}".format(*listener.getsockname()))
        accepted: list[socket.socket] = []
        thread = threading.Thread(target=lambda: accepted.append(listener.accept()[0]))
        thread.start()
        host, _, port = forwarder.address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            thread.join()
            connection.sendall(b"a")
            assert accepted[0].recv(1) == b"a"
            forwarder.alter = cut
            connection.sendall(b"b")
            assert has_ended(connection)
            with accepted[0]:
                assert has_ended(accepted[0])
        forwarder.close()


def has_ended(connection: socket.socket) -> bool:
    """By a reset, or by an end where nothing was left unread."""
    connection.settimeout(30)
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True
