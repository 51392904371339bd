"""Faults of disks: full when a service starts, and full while it writes its log. Linux and root."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from dtufc_research.evaluation.fault_bench import Bench
from dtufc_research.evaluation.fault_calls import OK, Asked, Seen

_START_S: Final = 60.0
_LATE_S: Final = 120.0


def cache_full(_: Bench) -> list[Seen]:
    """disk of the weights' cache full at the start"""
    return [Asked(f"{side} starts", _START_S, _start(side)).seen(["exit"]) for side in ("edge", "cloud")]


def _start(side: str) -> Callable[[Asked], str]:
    def work(_: Asked) -> str:
        with small_disk() as disk:
            fill(disk)
            listen = ("--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0", "--profiles", "smollm2-135m")
            command = [sys.executable, "-m", f"dtufc_{side}", *listen]
            env = {**os.environ, "DTUFC_CACHE": str(disk / "cache")}
            ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=_START_S, check=False)
        lines = ended.stderr.splitlines()
        if ended.returncode == 2 and len(lines) == 1:
            return f"exit 2: {lines[0].replace(str(disk), 'DISK')}"
        return f"status {ended.returncode}, {len(lines)} lines, the last: {lines[-1] if lines else ''}"

    return work


def log_full(bench: Bench) -> list[Seen]:
    """disk of both sides' logs full while they serve"""
    if not os.path.ismount(bench.logs):
        raise PermissionError("needs root: a small file system")
    client = bench.client
    rest = fill(bench.logs)
    try:
        asked = [client.ask(kind, _LATE_S, "new") for kind in bench.kinds]
        rows = [each.seen() for each in asked]
    finally:
        rest.unlink()
    rows.append(client.ask("answer", _LATE_S, "once there is room again").seen())
    size = len(bench.edge.log_text())
    client.ask("answer", _LATE_S, "again").seen()
    logged = len(bench.edge.log_text()) > size
    verdict = "" if logged else "it is silent"
    rows.append(Seen(call="the log goes on", outcome=OK if logged else "no", seconds=0, deadline_s=0, verdict=verdict))
    return rows


@contextmanager
def small_disk() -> Iterator[Path]:
    """A file system of a megabyte. Raises PermissionError where this process may make none."""
    if os.geteuid() != 0:
        raise PermissionError("needs root: a small file system")
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=True)
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "-l", folder], check=True)


def fill(folder: Path) -> Path:
    """Writes a file until the disk is full; the file."""
    path = folder / "rest"
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while file.write(bytes(1 << 12)):
            pass
    return path
