"""What every call of a service goes through: errors to status, telemetry, admission, deadline. Written once."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc

from dtufc.errors import DeadlineExceeded, DtufcError, Internal
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
    async def admit(self, task: str, context: grpc.aio.ServicerContext) -> AsyncIterator[Admitted]:
        """Wraps the whole of one call. What is raised inside ends it with the status of that error.

        Its deadline is the caller's, or `timeout_s` from now where the caller set none. It holds for waiting and for
        work alike; work that a thread has begun runs to its end, and its result is dropped.

        Args:
            task: the name that metrics and logs have for it.
            context: of the call.
        """
        remaining = context.time_remaining()
        timeout_s = self._timeout_s if remaining is None else float(remaining)
        try:
            with self._telemetry.request(task) as record, self._worker.admit():
                try:
                    async with asyncio.timeout(timeout_s) as timeout:
                        yield Admitted(record=record, deadline=time.monotonic() + timeout_s)
                except TimeoutError as error:
                    if not timeout.expired():  # something else's: of a file, of a socket
                        raise
                    raise DeadlineExceeded(
                        peer=self._service, address=self._address, timeout_s=round(timeout_s, 3)
                    ) from error
        except DtufcError as error:
            await abort(context, error)
        except grpc.aio.AbortError:
            raise
        except Exception:  # the border: nothing of an unknown fault may reach the caller
            _log.exception("unexpected")
            await abort(context, Internal())
