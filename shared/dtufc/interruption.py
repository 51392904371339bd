"""Work that ends with its call: long work says where it may end, and whoever runs it says when.

Work in a thread cannot be stopped from outside. So it goes in pieces, and calls `checkpoint` between them: before a
layer of a model, a trial of a rate search, a run of symbols. Where nobody waits any more, that ends it.

Beside `errors`, this is what every floor of the library may use.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final


class Interrupted(BaseException):
    """Ends work for which nobody waits. No error: nothing may catch it on the way, or log it."""


def _never() -> bool:
    return False


_has_ended: Final = ContextVar("has_ended", default=_never)


@contextmanager
def until(has_ended: Callable[[], bool]) -> Iterator[None]:
    """What runs inside, in this thread, ends at the first checkpoint at which `has_ended` says so."""
    token = _has_ended.set(has_ended)
    try:
        yield
    finally:
        _has_ended.reset(token)


def checkpoint() -> None:
    """A place between two pieces of work.

    Raises:
        Interrupted: nobody waits for the work any more.
    """
    if _has_ended.get()():
        raise Interrupted
