"""HeadService over gRPC: finds the task of each request, and wraps every task alike.

request --> admission, deadline --> frame --> features --> task: head --> result
stream  --> session --> rows --> tokens
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError, Message

from dtufc.errors import InputError
from dtufc.models import plugins
from dtufc.serving.border import Incoming, Rpc
from dtufc.serving.calls import Calls
from dtufc.serving.reload import Serves
from dtufc.serving.telemetry import Record, Telemetry
from dtufc.serving.transport import Server
from dtufc.serving.worker import Worker
from dtufc.v1 import head_pb2
from dtufc_cloud.generation import Sessions, drains, idle
from dtufc_cloud.served import COMPLETE, Served
from dtufc_cloud.settings import CloudSettings
from dtufc_cloud.tasks import Task

_GROUP: Final = plugins.CLOUD_TASKS
_SERVICE: Final = head_pb2.DESCRIPTOR.services_by_name["HeadService"].full_name


def tasks_by_message(tasks: Iterable[Task]) -> dict[str, Task]:
    """Tasks by the full name of the message that asks for them. Raises InputError where two take the same one."""
    found: dict[str, Task] = {}
    for task in tasks:
        other = found.setdefault(task.request.DESCRIPTOR.full_name, task)
        if other is not task:
            problem = f"{other.name} and {task.name} both take {task.request.DESCRIPTOR.full_name}"
            raise InputError(field="task", problem=problem, remedy="Give each a message of its own")
    return found


class HeadService(Serves[Served]):
    """Serves the heads of some profiles, once they are loaded."""

    def __init__(self, worker: Worker, telemetry: Telemetry, settings: CloudSettings) -> None:
        super().__init__("the cloud", settings.listen)
        self._worker = worker
        self._settings = settings
        self._calls = Calls(
            worker,
            telemetry,
            service="the cloud",
            address=settings.listen,
            timeout_s=settings.timeout_s,
            max_message_bytes=settings.max_message_bytes,
            max_pending_bytes=settings.max_pending_bytes,
        )
        self._tasks = tasks_by_message(plugins.load(_GROUP, name)() for name in plugins.names(_GROUP))
        self._telemetry = telemetry
        self.sessions = Sessions(worker, telemetry, settings)
        self._draining = asyncio.Event()

    def add_to(self, server: Server) -> Sequence[str]:
        """Adds the service to the server; returns its name, as a list of one."""
        rpcs: list[Rpc[Any]] = [
            Rpc(name="Describe", request=head_pb2.DescribeRequest, handle=self._describe, kind="list"),
            Rpc(name="Run", request=head_pb2.RunRequest, handle=self._run),
            Rpc(name="Step", request=head_pb2.GenerateRequest, handle=self._step),
            Rpc(name="Generate", request=head_pb2.GenerateRequest, handle=self._generate, streams=True),
        ]
        server.add(_SERVICE, rpcs)
        return [_SERVICE]

    async def _describe(self, call: Incoming[head_pb2.DescribeRequest]) -> head_pb2.DescribeReply:
        await call.brief()
        return head_pb2.DescribeReply(profiles=[one.info for one in self.served.profiles.values()])

    async def _generate(self, call: Incoming[head_pb2.GenerateRequest]) -> None:
        async with AsyncExitStack() as received:
            message: head_pb2.GenerateRequest | None
            with self._calls.beside(COMPLETE):
                message = await received.enter_async_context(self._calls.received(call, streams=True))
            with self._telemetry.request(COMPLETE) as record:
                if not message.HasField("open"):
                    problem, remedy = "it is missing", "Open the session by the first message"
                    raise InputError(field="open", problem=problem, remedy=remedy)
                if self._draining.is_set():
                    raise drains()
                served = self.served  # is held to the end: what was replaced is freed with the last call that holds it
                with self.sessions.opened(served, message.open, record) as session:
                    while message is not None:
                        before = dict(record.stages.seconds)
                        async with self._calls.deadline(None):
                            reply = await session.handle(message, record)
                            _add_stages(reply, record, before)
                            await call.write(reply)
                        await received.aclose()  # what opened the session is not needed any more
                        message = await self._next_message(call)
                        if message is not None and message.HasField("open"):
                            raise InputError(
                                field="open", problem="it is open", remedy="Open another by a call of its own"
                            )

    async def _step(self, call: Incoming[head_pb2.GenerateRequest]) -> head_pb2.GenerateReply:
        async with AsyncExitStack() as received:
            with self._calls.beside(COMPLETE):
                message = await received.enter_async_context(self._calls.received(call))
            if message.close:  # takes no place: where all are taken, memory is what is needed
                self.sessions.close(message.session_id)
                return head_pb2.GenerateReply()
            async with self._calls.admit(COMPLETE, self._timeout_s(call)) as admitted:
                if self._draining.is_set():
                    raise self.sessions.drained(message.session_id)
                reply = await self.sessions.step(self.served, message, admitted.record)
                _add_stages(reply, admitted.record)
                return reply
        raise AssertionError("nothing is swallowed")

    def drain(self) -> None:
        """Tells every session to go on elsewhere, once the message that it works on is answered."""
        self._draining.set()

    async def _next_message(self, call: Incoming[head_pb2.GenerateRequest]) -> head_pb2.GenerateRequest | None:
        """None where the caller has ended the session. Raises SessionLost where it is idle, or this service stops."""
        reading, draining = asyncio.ensure_future(call.read()), asyncio.ensure_future(self._draining.wait())
        try:
            await asyncio.wait(
                (reading, draining), timeout=self._settings.session_idle_s, return_when=asyncio.FIRST_COMPLETED
            )
            if draining.done():
                raise drains()
            if not reading.done():
                raise idle(self._settings.session_idle_s)
            return reading.result()
        finally:
            reading.cancel()
            draining.cancel()

    async def _run(self, call: Incoming[head_pb2.RunRequest]) -> head_pb2.RunReply:
        async with (
            self._calls.admit("unknown", self._timeout_s(call)) as admitted,
            self._calls.received(call) as message,
        ):
            record = admitted.record
            task = self._tasks.get(message.task.TypeName())
            if task is not None:
                record.task = task.name
            served = self.served  # is held to the end: what was replaced is freed with the last call that holds it
            pipeline = served.pipeline(message.profile)
            record.model = pipeline.profile.name
            if task is None or task.name not in pipeline.profile.spec.tasks:
                problem = f"{pipeline.profile.name} has no task {message.task.TypeName() or '(none is set)'}"
                remedy = f"Set one of {', '.join(pipeline.profile.spec.tasks)}"
                raise InputError(field="task", problem=problem, remedy=remedy)
            arguments = _unpacked(message.task, task.request())
            task.check(arguments, self._settings)
            frame = await self._worker.run(pipeline.parse, message.frame, record)
            await self._worker.load(pipeline.codec, frame.codec.name)

            def run() -> Any:
                features = pipeline.decode(frame, len(message.frame), record)
                return task.run(pipeline.head, features, arguments, record)

            reply = head_pb2.RunReply()
            reply.result.Pack(await self._worker.run(run))
            _add_stages(reply, record)
            return reply
        raise AssertionError("nothing is swallowed")

    def _timeout_s(self, call: Incoming[Any]) -> float:
        """Until the caller's deadline, or as long as this service takes for any call."""
        most_s = self._settings.timeout_s
        return most_s if call.timeout_s is None else min(call.timeout_s, most_s)


def _unpacked(given: AnyMessage, arguments: Message) -> Message:
    try:
        if given.Unpack(arguments):
            return arguments
        problem = f"{given.type_url} is no type URL"
    except DecodeError as error:
        problem = f"{given.TypeName()} cannot be read: {error}"
    raise InputError(field="task", problem=problem, remedy="Pack the message as google.protobuf.Any")


def _add_stages(
    reply: head_pb2.RunReply | head_pb2.GenerateReply, record: Record, before: Mapping[str, float] | None = None
) -> None:
    """The stages of a record, less the seconds that they had before."""
    for stage, seconds in record.stages.seconds.items():
        reply.stages.add(name=stage, seconds=seconds - (before or {}).get(stage, 0.0))
