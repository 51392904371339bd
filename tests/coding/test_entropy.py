"""Entropy coding: what constriction writes is what the plain-integer reference writes, and the tables are exact."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dtufc.coding import rans
from dtufc.coding.arrays import Array
from dtufc.coding.entropy import TOTAL, Decoder, Encoder, Tables, quantize_frequencies
from dtufc.errors import BitstreamError, Desync, InputError
from tests.coding import reference_rans

RNG = np.random.default_rng(1)


def rows(count: int) -> list[Array]:
    """Tables of many sizes, from flat to extremely peaky."""
    sizes = RNG.integers(2, 200, count)
    return [quantize_frequencies(RNG.gamma(RNG.choice([0.02, 0.3, 5.0]), size=2 * n) + 1e-12) for n in sizes]


@pytest.mark.parametrize("seed", range(20))
def test_words_are_those_of_the_integer_reference(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tables = Tables(rows(4), escape=False)
    runs = [(row, rng.integers(0, len(tables.rows[row]), rng.integers(0, 90)).astype(np.int32)) for row in range(4)]
    encoder = Encoder()
    for row, symbols in runs:
        encoder.write(tables, row, symbols)
    words = np.frombuffer(encoder.finish()[1:], "<u4").tolist()
    assert words == reference_rans.encode([(symbols.tolist(), tables.rows[row].tolist()) for row, symbols in runs])
    decoded = reference_rans.decode(words, [(len(symbols), tables.rows[row].tolist()) for row, symbols in runs])
    assert decoded == [symbols.tolist() for _, symbols in runs]


@pytest.mark.parametrize("seed", range(20))
def test_plain_integers_write_and_read_the_same_words(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tables = Tables(rows(4), escape=False)
    runs = [(row, rng.integers(0, len(tables.rows[row]), rng.integers(0, 90)).astype(np.int32)) for row in range(4)]
    encoder, plain = Encoder(), rans.AnsCoder()
    for row, symbols in runs:
        encoder.write(tables, row, symbols)
    models = [rans.Model(row) for row in tables.rows]
    for row, symbols in reversed(runs):
        plain.encode_reverse(symbols, models[row])
    words = np.frombuffer(encoder.finish()[1:], "<u4")
    assert plain.get_compressed().tolist() == words.tolist()
    reader = rans.AnsCoder(words)
    for row, symbols in runs:
        assert reader.decode(models[row], len(symbols)).tolist() == symbols.tolist()
    assert reader.is_empty()


@pytest.mark.skipif(find_spec("constriction") is None, reason="every test here runs without it")
@pytest.mark.slow
def test_without_constriction_golden_frames_decode_to_the_same_bits() -> None:
    tests = [str(Path(__file__).with_name(f"test_{name}.py")) for name in ("golden", "golden_learned")]
    program = "import sys; sys.modules['constriction'] = None; import pytest; sys.exit(pytest.main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@settings(deadline=None)
@given(st.lists(st.integers(-(2**31) + 1, 2**31 - 1), max_size=50), st.integers(1, 20))
def test_any_symbol_survives_the_escape(symbols: list[int], radius: int) -> None:
    tables = Tables([quantize_frequencies(np.ones(2 * radius + 2))], escape=True)
    encoder = Encoder()
    encoder.write(tables, 0, np.array(symbols, dtype=np.int32))
    decoder = Decoder(encoder.finish())
    assert decoder.read(tables, 0, len(symbols)).tolist() == symbols
    decoder.finish(encoder.crc)


@pytest.mark.parametrize("data", [b"", b"\x05", b"\x00abc", b"\x00" + bytes(8), b"\xff" * 9])
def test_malformed_streams_are_rejected(data: bytes) -> None:
    with pytest.raises(BitstreamError):
        Decoder(data)


def test_symbols_left_over_are_rejected() -> None:
    tables = Tables([quantize_frequencies(np.ones(8))], escape=False)
    encoder = Encoder()
    encoder.write(tables, 0, np.arange(8, dtype=np.int32).repeat(9))
    decoder = Decoder(encoder.finish())
    decoder.read(tables, 0, 8)
    with pytest.raises(BitstreamError, match="left over"):
        decoder.finish(decoder.crc)
    with pytest.raises(Desync):
        decoder.finish(encoder.crc)


@pytest.mark.parametrize(
    "row", [np.array([TOTAL], np.uint32), np.array([TOTAL - 1, 0, 1], np.uint32), np.array([5, 6], np.uint32)]
)
def test_tables_with_a_wrong_sum_are_rejected(row: Array) -> None:
    with pytest.raises(InputError, match="tables"):
        Tables([row], escape=False)
