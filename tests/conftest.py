"""The seed of the tests' randomness, and the flag that writes golden frames."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from hypothesis import settings

# Training, and comparisons with CompressAI, need it; it has wheels for some platforms only.
_OF_COMPRESSAI = [
    "coding/test_learned_determinism.py",
    *(f"research/test_{n}.py" for n in ("train", "exactness", "results")),
]
collect_ignore = [] if find_spec("compressai") else _OF_COMPRESSAI

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
