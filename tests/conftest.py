"""The seed of the tests' randomness, and the flag that writes golden frames."""

import numpy as np
import pytest
import torch
from hypothesis import settings

from dtufc.coding.codecs.learned import can_run

# Where CompressAI has no wheels there are no learned codecs: `dtufc.coding.codecs.learned.can_run`.
_OF_NETWORKS = ("coding/*learned*.py", "research/test_train.py")
collect_ignore_glob = [] if can_run() else [*_OF_NETWORKS]

settings.register_profile("here", deadline=None)  # a busy machine is no failure; pytest-timeout bounds each test
settings.load_profile("here")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """As the services of the tests run: the same order of summation, and tiny models do not wait for threads."""
    torch.set_num_threads(1)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20260101)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-golden", action="store_true", help="write the golden frames that are missing")
