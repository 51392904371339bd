"""The tasks over gRPC: chooses a profile for each request, and wraps every task alike.

What is served is replaced as a whole; each request takes it once.

request --> admission, deadline --> task: backbone --> encode --cloud--> result --> reply
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from typing import Any, Final

from google.protobuf.message import Message

from dtufc.coding.rate import Rate
from dtufc.errors import InputError
from dtufc.models import plugins
from dtufc.serving.border import Incoming, Rpc
from dtufc.serving.cache_budget import CacheBudget
from dtufc.serving.calls import Admitted, Calls
from dtufc.serving.reload import Serves
from dtufc.serving.telemetry import Telemetry
from dtufc.serving.transport import Server
from dtufc.serving.worker import Worker
from dtufc.v1 import inference_pb2
from dtufc_edge.exchange import Exchange
from dtufc_edge.image_decoding import ImageDecoders
from dtufc_edge.served import Served
from dtufc_edge.settings import EdgeSettings
from dtufc_edge.tasks import Call, Task

_SERVICE: Final = inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name


class InferenceService(Serves[Served]):
    """Serves the tasks of some profiles, once they are loaded.

    Attributes:
        images: what decodes image files: start it before what takes images is served, and close it.
    """

    def __init__(self, worker: Worker, telemetry: Telemetry, settings: EdgeSettings) -> None:
        super().__init__("the edge", settings.listen)
        self._worker = worker
        self._telemetry = telemetry
        self._settings = settings
        self._calls = Calls(
            worker,
            telemetry,
            service="the edge",
            address=settings.listen,
            timeout_s=settings.timeout_s,
            max_message_bytes=settings.max_message_bytes,
            max_pending_bytes=settings.max_pending_bytes,
        )
        self.budget = CacheBudget(settings.max_cache_bytes)
        telemetry.watch_cache(self.budget)
        self.images = ImageDecoders(settings.image_limits, settings.threads, telemetry.image_decoder_ended)

    def add_to(self, server: Server) -> Sequence[str]:
        """Adds every task's method to the server; returns the names of the services that have any."""
        listing = Rpc(name="ListModels", request=inference_pb2.ListModelsRequest, handle=self._list_models, kind="list")
        methods: dict[str, dict[str, Rpc[Any]]] = {_SERVICE: {listing.name: listing}}
        for task in (plugins.load(plugins.EDGE_TASKS, name)() for name in plugins.names(plugins.EDGE_TASKS)):
            of_service = methods.setdefault(task.method.service, {})
            if task.method.name in of_service:
                problem = f"{task.name} is served as {task.method.service}/{task.method.name}, which is taken"
                raise InputError(field="task", problem=problem, remedy="Give it a method of its own")
            of_service[task.method.name] = self._rpc(task)
        for service, rpcs in methods.items():
            server.add(service, list(rpcs.values()))
        return list(methods)

    def replies(self, task: Task | str, request: Message, timeout_s: float | None) -> AsyncGenerator[Message, None]:
        """One request's replies, however it came. Read it to the end, or close it: that ends the work.

        Args:
            task: or its name.
            request: the message of the task's method.
            timeout_s: until the deadline. None: that of the settings.

        Raises:
            DtufcError: the request cannot be served. Closing raises DeadlineExceeded where the deadline is the cause.
        """
        task = plugins.load(plugins.EDGE_TASKS, task)() if isinstance(task, str) else task
        return self._replies(task, nullcontext(request), timeout_s)

    async def _list_models(self, call: Incoming[inference_pb2.ListModelsRequest]) -> inference_pb2.ListModelsReply:
        await call.brief()
        return inference_pb2.ListModelsReply(profiles=[one.info for one in self.served.profiles.values()])

    async def _replies(
        self, task: Task, arriving: AbstractAsyncContextManager[Message], timeout_s: float | None
    ) -> AsyncGenerator[Message, None]:
        async with self._calls.admit(task.name, timeout_s) as admitted, arriving as request:
            served = self.served  # is held to the end: what was replaced is freed with the last call that holds it
            call = self._call(served, task, getattr(request, "coding", inference_pb2.Coding()), admitted)
            async with aclosing(task.run(call, request)) as replies:  # type: ignore[type-var]
                async for reply in replies:
                    yield reply

    def _rpc(self, task: Task) -> Rpc[Any]:
        async def handle(call: Incoming[Any]) -> Message | None:
            async with aclosing(self._replies(task, self._calls.received(call), call.timeout_s)) as replies:
                if not task.method.streams:
                    (only,) = [reply async for reply in replies]
                    return only
                async for reply in replies:
                    await call.write(reply)
            return None

        method = task.method
        return Rpc(name=method.name, request=method.request, handle=handle, streams=method.streams)

    def _call(self, served: Served, task: Task, coding: inference_pb2.Coding, admitted: Admitted) -> Call:
        profile, record = served.able(task.name, coding.profile), admitted.record
        pipeline = profile.pipeline
        record.model = pipeline.profile.name
        codec = coding.codec or pipeline.codec.default_codec
        if codec not in pipeline.codec.codecs:
            known = ", ".join(pipeline.codec.codecs)
            problem = f"{codec} is none of {pipeline.profile.name} at split {pipeline.profile.split}"
            raise InputError(field="codec", problem=problem, remedy=f"Use one of {known}")
        record.codec = codec
        kind = coding.WhichOneof("rate")
        rate = Rate() if kind is None else Rate(**{kind: getattr(coding, kind)})
        pipeline.codec.check_rate(codec, rate)
        exchange = Exchange(pipeline, served.cloud, self._worker, self._telemetry, admitted, codec=codec, rate=rate)
        return Call(
            pipeline=pipeline,
            settings=self._settings,
            admitted=admitted,
            worker=self._worker,
            exchange=exchange,
            passes=profile.passes,
            budget=self.budget,
            images=self.images,
        )
