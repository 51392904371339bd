"""What every request goes through: telemetry, admission, deadline, and memory for its message. Written once."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Final

from dtufc.errors import DeadlineExceeded, DtufcError, Overloaded
from dtufc.serving.border import Incoming, M
from dtufc.serving.limits import MAX_MESSAGE_BYTES, MAX_PENDING_BYTES, MAX_TIMEOUT_S
from dtufc.serving.status import known_errors
from dtufc.serving.telemetry import Record, Telemetry
from dtufc.serving.turns import Places, Turns
from dtufc.serving.worker import Worker

_REQUEST: Final = "request"  # as rejections are counted


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
    """Admits the calls of one service.

    call --> place --> its client's turn for memory --> message --> work
    """

    def __init__(
        self,
        worker: Worker,
        telemetry: Telemetry,
        *,
        service: str,
        address: str,
        timeout_s: float,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        max_pending_bytes: int = MAX_PENDING_BYTES,
    ) -> None:
        """
        Args:
            worker: whose places are taken.
            telemetry: counts.
            service: as errors name it.
            address: as errors name it.
            timeout_s: until the deadline of a call that brings none.
            max_message_bytes: of one message.
            max_pending_bytes: of the messages of all calls; one client may hold all but the largest message of it.
        """
        self._worker = worker
        self._largest = max_message_bytes
        self._pending = Turns(max_pending_bytes, max(max_message_bytes, max_pending_bytes - max_message_bytes))
        self._beside = Places(worker.places.number)
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
        with known_errors(), self._telemetry.request(task) as record, self._place(self._worker.places):
            async with self.deadline(timeout_s) as deadline:
                yield Admitted(record=record, deadline=deadline)

    @asynccontextmanager
    async def received(self, call: Incoming[M], *, streams: bool = False) -> AsyncIterator[M]:
        """The message of a call that has a place, for as long as it is needed: its bytes count until then.

        Until they are known, as many count as a message may have.

        Args:
            call: whose message it is.
            streams: whether others may follow it.

        Raises:
            InputError: there is none, or none that can be parsed.
            DeadlineExceeded: it has not come within the service's own time, whatever the caller's deadline.
        """
        async with AsyncExitStack() as held:
            async with self.deadline(None):
                lease = await held.enter_async_context(self._pending.lease(self._largest))
                message = await (call.first() if streams else call.only())
                lease.shrink(min(call.num_bytes, self._largest))
            yield message

    @contextmanager
    def beside(self, task: str) -> Iterator[None]:
        """A place for a call whose message tells what to do with it, until that is read.

        There are as many as for requests. What is raised inside counts as the end of a request.

        Args:
            task: the name that metrics and logs have for it.

        Raises:
            Overloaded: all are taken.
        """
        try:
            with known_errors(), self._place(self._beside):
                yield
        except DtufcError:
            with self._telemetry.request(task):
                raise

    @contextmanager
    def _place(self, places: Places) -> Iterator[None]:
        with ExitStack() as held:
            try:
                held.enter_context(places.hold())
            except Overloaded as error:
                self._telemetry.rejected(_REQUEST, error.code)
                raise
            yield

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
