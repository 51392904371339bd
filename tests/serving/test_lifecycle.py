"""A side's process: its threads share the cores, and its log tells where it serves. Each in a process of its own."""

import json
import os
import subprocess
import sys
import urllib.request

import pytest

from dtufc.serving.transport import check_health

SHARES = """
import json, sys, threading
import numpy, torch
from threadpoolctl import threadpool_info
from dtufc.serving.lifecycle import share_cores

def blas():
    return max((pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"), default=1)

before = torch.get_num_threads(), blas()
share_cores(int(sys.argv[1]))
found = []
thread = threading.Thread(target=lambda: found.extend((torch.get_num_threads(), blas())))
thread.start()
thread.join()
print(json.dumps([before, found]))
"""


@pytest.mark.parametrize("threads", [1, 2, 64])
def test_each_thread_of_the_worker_has_its_share_of_the_cores(threads: int) -> None:
    variables = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, "-c", SHARES, str(threads)], env=variables, capture_output=True, text=True, check=True
    )
    before, after = json.loads(done.stdout)
    assert after == [max(1, cores // threads) for cores in before]


SERVES = """
import asyncio, os, signal, sys, urllib.request
from dtufc.serving.lifecycle import serve
from dtufc.serving.reload import Side
from dtufc.serving.telemetry import Telemetry, configure_logging
from dtufc_cloud.settings import CloudSettings

async def add(server, worker, telemetry):
    async def load(settings):
        return lambda: None

    return Side(services=[], load=load)

configure_logging("INFO")
asyncio.run(serve(CloudSettings(listen="[::1]:0", metrics_listen="[::1]:0"), Telemetry("cloud"), add))
"""


def test_ports_that_are_left_to_the_system_are_told_and_answer_on_ipv6_too() -> None:
    command = [sys.executable, "-c", SERVES]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        told = next(entry for entry in map(json.loads, process.stderr) if entry["message"] == "serving")
        check_health(told["address"])
        with urllib.request.urlopen(f"http://{told['metrics']}/metrics", timeout=10) as page:
            assert b"dtufc_cloud" in page.read()
        process.terminate()
        assert process.wait(30) == 0
    assert told["address"].startswith("[::1]:")
