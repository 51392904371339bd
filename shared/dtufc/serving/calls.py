"""What every call of a service goes through: errors to status, telemetry, admission, deadline. Written once."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import grpc

from dtufc.errors import DeadlineExceeded, DtufcError, Internal
from dtufc.serving.limits import MAX_TIMEOUT_S
from dtufc.serving.status import abort
from dtufc.serving.telemetry import Record, Telemetry
from dtufc.serving.worker import Worker

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """One call that is being worked on.

    Attributes:
        record: what is known of it so far.
        deadline: of time.monotonic(), in seconds.
    """

    record: Record
    deadline: float

    @property
    def remaining_s(self) -> float:
        """What is left until the deadline, not below zero."""
        return max(0.0, self.deadline - time.monotonic())


class Calls:
    """Admits the calls of one service."""

    def __init__(self, worker: Worker, telemetry: Telemetry, *, service: str, address: str, timeout_s: float) -> None:
        self._worker = worker
        self._telemetry = telemetry
        self._service, self._address = service, address
        self._timeout_s = timeout_s

    @asynccontextmanager
    async def admit(self, task: str, timeout_s: float | None) -> AsyncIterator[Admitted]:
        """Wraps the whole of one call.

        Its deadline holds for waiting and for work alike; work that a thread has begun runs to its end, and its result
        is dropped.

        Args:
            task: the name that metrics and logs have for it.
            timeout_s: until the deadline. None: the service's own.

        Raises:
            DtufcError: what was raised inside. A fault of another kind is logged, and becomes Internal.
            Overloaded: all places are taken.
            DeadlineExceeded: the deadline has passed.
        """
        with _known_errors(), self._telemetry.request(task) as record, self._worker.admit():
            async with self.deadline(timeout_s) as deadline:
                yield Admitted(record=record, deadline=deadline)

    @asynccontextmanager
    async def deadline(self, timeout_s: float | None) -> AsyncIterator[float]:
        """Ends what is inside at a deadline, which it gives, of time.monotonic().

        Args:
            timeout_s: until then. None: the service's own. Some clients write "none" as a deadline in a century, which
                could not be passed on: one in more than a day is one in a day.

        Raises:
            DeadlineExceeded: it has passed.
        """
        timeout_s = self._timeout_s if timeout_s is None else min(timeout_s, MAX_TIMEOUT_S)
        try:
            async with asyncio.timeout(timeout_s) as timeout:
                yield time.monotonic() + timeout_s
        # GeneratorExit: a generator holds this call, and is closed since the deadline met its reader, not its work.
        except (TimeoutError, GeneratorExit) as error:
            if not timeout.expired():  # something else's: of a file, of a socket, of a reader that has enough
                raise
            raise DeadlineExceeded(peer=self._service, address=self._address, timeout_s=round(timeout_s, 3)) from error


@asynccontextmanager
async def grpc_status(context: grpc.aio.ServicerContext) -> AsyncIterator[None]:
    """Wraps a gRPC method: what is raised inside ends the call with the status of that error."""
    try:
        with _known_errors():
            yield
    except DtufcError as error:
        await abort(context, error)


@contextmanager
def _known_errors() -> Iterator[None]:
    """The border: nothing of an unknown fault may reach the caller."""
    try:
        yield
    except DtufcError:
        raise
    except Exception as fault:
        _log.exception("unexpected")
        raise Internal from fault
