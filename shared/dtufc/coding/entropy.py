"""Entropy coding with integer tables: same symbols and tables, same bytes, everywhere.

Hides constriction's rANS coder (24-bit probabilities, 32-bit words) and the escape for symbols that a table does
not hold. No probability is ever computed here: tables are integers from the profile. Where constriction has no wheel,
`rans` codes the same bytes. `docs/bitstream.md`, "Coded symbols", is the specification.
"""

import zlib
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any, Final

import numpy as np
from jaxtyping import Int32, UInt32

from dtufc.coding import rans
from dtufc.coding.arrays import Array
from dtufc.coding.bitstream import read_varint, write_varint
from dtufc.errors import BitstreamError, Corrupt, Desync, InputError
from dtufc.interruption import checkpoint

PRECISION: Final = 24
TOTAL: Final = 1 << PRECISION
_PIECE: Final = 1 << 18  # symbols that are coded between two checkpoints


def _implementation() -> tuple[Callable[..., Any], Callable[[UInt32[Array, " entries"]], Any]]:
    """The stack coder, and what makes its model of a row; constriction's wherever it is installed.

    constriction's fast construction gives entry i the cumulative `floor(scale * sum p_j) + i`, with
    `scale = (2^24 - entries) / sum p`. For p = frequency - 1 the scale is exactly 1 and every sum an integer below
    2^24, exact in float32: the cumulatives are the integers of the table.
    """
    if find_spec("constriction") is None:
        return rans.AnsCoder, rans.Model
    from constriction import stream

    return stream.stack.AnsCoder, lambda row: stream.model.Categorical(
        (row - np.uint32(1)).astype(np.float32), perfect=False
    )


_AnsCoder, _model_of = _implementation()


class Tables:
    """Rows of integer frequencies, each over its own alphabet.

    Without an escape, entry i stands for the symbol i. With an escape, entry i stands for i - radius, where radius is
    (entries - 2) / 2, and the last entry stands for every symbol of a larger magnitude.

    Attributes:
        rows: each sums to 2^24, no entry is zero.
        escape: whether the last entry of each row is the escape.
    """

    def __init__(self, rows: Sequence[UInt32[Array, " entries"]], *, escape: bool) -> None:
        for row in rows:
            sized = len(row) >= 4 and len(row) % 2 == 0 if escape else len(row) >= 2
            if not sized or int(row.sum(dtype=np.int64)) != TOTAL or row.min() < 1:
                raise InputError(
                    field="tables", problem="a row does not sum to 2^24 or holds a zero", remedy="Fit the profile anew"
                )
        self.rows = rows
        self.escape = escape
        self._models: dict[int, Any] = {}

    def radius(self, row: int) -> int:
        """The number that is added to a symbol to give its entry."""
        return (len(self.rows[row]) - 2) // 2 if self.escape else 0

    def model(self, row: int) -> Any:
        """The coder's model with exactly these frequencies."""
        if row not in self._models:
            self._models[row] = _model_of(self.rows[row])
        return self._models[row]


class Encoder:
    """Collects runs of symbols, each under one row of some table, and writes them as one stream."""

    def __init__(self) -> None:
        self._runs: list[tuple[Array, Any]] = []
        self._escapes = bytearray()
        self.crc = 0

    def write(self, tables: Tables, row: int, symbols: Int32[Array, " n"]) -> None:
        """Appends a run of symbols coded with one row."""
        checkpoint()
        radius = tables.radius(row)
        entries = symbols + np.int32(radius)
        if tables.escape:
            beyond = np.flatnonzero(np.abs(symbols) > radius)
            entries[beyond] = 2 * radius + 1
            for symbol in symbols[beyond].tolist():
                self._escapes += write_varint(2 * (abs(symbol) - radius - 1) + (symbol < 0))
        self.crc = zlib.crc32(entries.astype("<u2").tobytes(), self.crc)
        self._runs.append((entries, tables.model(row)))

    def finish(self) -> bytes:
        """The stream: length of the escapes, the escapes, the words of the coder."""
        coder = _AnsCoder()
        for entries, model in reversed(self._runs):  # a stack: the last run is written first
            for start in reversed(range(0, len(entries), _PIECE)):
                checkpoint()
                coder.encode_reverse(entries[start : start + _PIECE], model)
        words = coder.get_compressed().astype("<u4").tobytes()
        return write_varint(len(self._escapes)) + bytes(self._escapes) + words


class Decoder:
    """Reads back what an Encoder wrote, run by run, in the same order."""

    def __init__(self, data: bytes) -> None:
        """Raises BitstreamError if the stream is malformed."""
        num_escapes, start = read_varint(data, 0)
        self._escapes, words = data[start : start + num_escapes], data[start + num_escapes :]
        if len(self._escapes) < num_escapes or len(words) % 4:
            raise Corrupt(problem=f"{len(data)} bytes of coded symbols")
        compressed = np.frombuffer(words, dtype="<u4").astype(np.uint32)
        if compressed.size and compressed[-1] == 0:
            raise Corrupt(problem="coded symbols end in a zero word")
        self._coder = _AnsCoder(compressed)
        self._next_escape = 0
        self._problem = ""
        self.crc = 0

    def read(self, tables: Tables, row: int, count: int) -> Int32[Array, " n"]:
        """The next `count` symbols, coded with this row. They can be trusted once `finish` has returned."""
        entries = self._decoded(tables.model(row), count)
        self.crc = zlib.crc32(entries.astype("<u2").tobytes(), self.crc)
        radius = tables.radius(row)
        symbols = entries - np.int32(radius)
        if tables.escape:
            for index in np.flatnonzero(entries == 2 * radius + 1).tolist():
                symbols[index] = self._read_escape(radius)
        return symbols

    def finish(self, symbol_crc: int) -> None:
        """Checks what was read.

        Raises:
            Desync: the symbols differ from those that were encoded; other problems may follow from it.
            Corrupt: the symbols match, but an escape is missing or malformed, or data is left over.
        """
        if self.crc != symbol_crc:
            raise Desync(expected=f"{symbol_crc:08x}", found=f"{self.crc:08x}")
        if self._problem or self._next_escape != len(self._escapes) or not self._coder.is_empty():
            raise Corrupt(problem=self._problem or "coded symbols are left over")

    def _decoded(self, model: Any, count: int) -> Int32[Array, " n"]:
        parts = []
        for start in range(0, max(count, 1), _PIECE):
            checkpoint()
            parts.append(self._coder.decode(model, min(_PIECE, count - start)))
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _read_escape(self, radius: int) -> int:
        try:
            folded, self._next_escape = read_varint(self._escapes, self._next_escape)
        except BitstreamError as error:
            self._problem = str(error)
            return 0
        magnitude = (folded >> 1) + radius + 1
        if magnitude >= 1 << 31:
            self._problem = "an escaped symbol beyond 32 bits"
            return 0
        return -magnitude if folded & 1 else magnitude


def quantize_frequencies(weights: Array, total: int = TOTAL) -> UInt32[Array, " entries"]:
    """Non-negative weights -> integers of the same proportions that sum to `total`, none zero.

    For fitting only: the result is stored, and never computed again from floats.
    """
    share = weights / weights.sum() * (total - len(weights))
    frequencies = 1 + np.floor(share).astype(np.int64)
    frequencies[share.argmax()] += total - frequencies.sum()
    return frequencies.astype(np.uint32)
