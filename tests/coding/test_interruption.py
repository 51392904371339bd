"""Coding in pieces: an encoder or a decoder that nobody waits for ends soon, and goes on unchanged for those who do."""

from collections.abc import Callable
from itertools import count

import numpy as np
import pytest

from dtufc.coding import entropy
from dtufc.coding.entropy import TOTAL, Decoder, Encoder, Tables
from dtufc.interruption import Interrupted, until
from dtufc.models.fitting import load

FEATURES = np.random.default_rng(0).standard_normal((96, 576)).astype(np.float32)


def after(checkpoints: int) -> Callable[[], bool]:
    numbers = count()
    return lambda: next(numbers) >= checkpoints


@pytest.mark.parametrize("codec", ["klt", "levels", "hyperprior", "elic", "kltprior"])
def test_coding_can_be_left_after_any_of_many_pieces_and_comes_to_the_same_afterwards(codec: str) -> None:
    profile = load("smollm2-135m")
    frame = profile.encode(FEATURES, codec=codec)
    for checkpoints in (0, 5, 10):
        with pytest.raises(Interrupted), until(after(checkpoints)):
            profile.encode(FEATURES, codec=codec)
        with pytest.raises(Interrupted), until(after(checkpoints)):
            profile.decode(frame)
    assert profile.encode(FEATURES, codec=codec) == frame


def test_the_search_for_a_rate_can_be_left_between_two_trials() -> None:
    profile = load("smollm2-135m")
    trials = count()

    def at(setting: float) -> bytes:
        next(trials)
        return profile.encode(FEATURES, quality=setting)

    from dtufc.coding.rate import within

    with pytest.raises(Interrupted), until(lambda: next(trials) > 1):
        within(2000, FEATURES.size, at, True)


def test_symbols_are_coded_alike_in_pieces_of_any_length(monkeypatch: pytest.MonkeyPatch) -> None:
    tables = Tables([np.full(4, TOTAL // 4, np.uint32)], escape=True)
    symbols = np.random.default_rng(1).integers(-1, 2, 1000, dtype=np.int32)

    def coded() -> bytes:
        encoder = Encoder()
        encoder.write(tables, 0, symbols)
        encoder.write(tables, 0, symbols[:0])
        return encoder.finish()

    whole = coded()
    monkeypatch.setattr(entropy, "_PIECE", 7)
    assert coded() == whole
    decoder = Decoder(whole)
    assert decoder.read(tables, 0, 1000).tolist() == symbols.tolist()
    assert len(decoder.read(tables, 0, 0)) == 0
