"""The worker's threads share the cores; each test in a process of its own, as the shares hold for all of one."""

import json
import os
import subprocess
import sys

import pytest

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
