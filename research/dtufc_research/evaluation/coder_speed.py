"""`python -m dtufc_research.evaluation.coder_speed`: the entropy coder in plain integers beside constriction's.

Processor time for a frame's worth of symbols, under tables such as profiles have; printed as Markdown.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import numpy as np
from constriction import stream

from dtufc.coding import rans
from dtufc.coding.arrays import Array
from dtufc.coding.entropy import quantize_frequencies
from dtufc_research.evaluation.machine import machine

NUM_RUNS: Final = 384  # a run for each channel of dinov2-small,
RUN_LENGTH: Final = 1370  # of as many symbols as it has tokens
NUM_ENTRIES: Final = 34
REPEATS: Final = 3


def main() -> None:
    rng = np.random.default_rng(0)
    entries = np.arange(NUM_ENTRIES) - NUM_ENTRIES // 2
    rows = [quantize_frequencies(np.exp(-np.abs(entries) / scale)) for scale in rng.uniform(1, 4, NUM_RUNS)]
    runs = rng.laplace(NUM_ENTRIES // 2, 2, (NUM_RUNS, RUN_LENGTH)).round().clip(0, NUM_ENTRIES - 1).astype(np.int32)
    theirs = [stream.model.Categorical((row - np.uint32(1)).astype(np.float32), perfect=False) for row in rows]
    print(f"{machine()}\n\n| coder | encode, ms | decode, ms | symbols |\n|---|---:|---:|---:|")
    print(table_row("constriction", stream.stack.AnsCoder, theirs, runs))
    print(table_row("plain integers", rans.AnsCoder, [rans.Model(row) for row in rows], runs))


def table_row(name: str, coder: Callable[..., Any], models: Sequence[Any], runs: Array) -> str:
    words = encode(coder, models, runs)
    encoding = seconds(partial(encode, coder, models, runs))
    decoding = seconds(partial(decode, coder, models, words))
    return f"| {name} | {1e3 * encoding:.0f} | {1e3 * decoding:.0f} | {runs.size} |"


def encode(coder: Callable[..., Any], models: Sequence[Any], runs: Array) -> Array:
    stack = coder()
    for model, run in zip(reversed(models), runs[::-1], strict=True):
        stack.encode_reverse(run, model)
    words: Array = stack.get_compressed()
    return words


def decode(coder: Callable[..., Any], models: Sequence[Any], words: Array) -> None:
    stack = coder(words)
    for model in models:
        stack.decode(model, RUN_LENGTH)


def seconds(work: Callable[[], object]) -> float:
    """The least processor time of a few."""
    taken = []
    for _ in range(REPEATS):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return min(taken)


if __name__ == "__main__":
    main()
