"""Memory for the keys and values of sequences: bounded, and reserved before a sequence starts."""

from collections.abc import Iterator
from contextlib import contextmanager

from dtufc.errors import CacheFull, InputError


class CacheBudget:
    """So many bytes for all sequences of a service.

    Attributes:
        limit: in bytes.
        reserved: in bytes, by the sequences that run.
        sequences: that run.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.reserved = 0
        self.sequences = 0

    @contextmanager
    def reserve(self, needed: int, tokens: int) -> Iterator[None]:
        """Holds bytes for one sequence of so many tokens.

        Raises:
            InputError: it could never fit.
            CacheFull: it does not fit beside the others.
        """
        if needed > self.limit:
            problem = f"a sequence of {tokens} tokens needs {needed} bytes of cache, and the limit is {self.limit}"
            raise InputError(field="max_tokens", problem=problem, remedy="Ask for fewer, or raise max_cache_bytes")
        if needed > self.limit - self.reserved:
            raise CacheFull(tokens=tokens, needed=needed, free=self.limit - self.reserved, limit=self.limit)
        self.reserved += needed
        self.sequences += 1
        try:
            yield
        finally:
            self.reserved -= needed
            self.sequences -= 1
