"""The tasks over gRPC: chooses a profile for each request, and wraps every task alike.

request --> admission, deadline --> task: backbone --> encode --cloud--> result --> reply
"""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from typing import Any, Final

from google.protobuf.message import Message
from torch import Tensor

from dtufc.coding.rate import Rate
from dtufc.errors import InputError
from dtufc.models import plugins
from dtufc.models.capabilities import ImageFeatures, PatchFeatures, TokenFeatures
from dtufc.serving.border import Incoming, Rpc
from dtufc.serving.cache_budget import CacheBudget
from dtufc.serving.calls import Admitted, Calls
from dtufc.serving.describe import profile_info
from dtufc.serving.passes import Passes
from dtufc.serving.telemetry import Telemetry
from dtufc.serving.transport import Server
from dtufc.serving.worker import Worker
from dtufc.v1 import inference_pb2
from dtufc_edge.cloud import Cloud
from dtufc_edge.detokenizer import TokenTexts
from dtufc_edge.exchange import Exchange
from dtufc_edge.image_decoding import ImageDecoders
from dtufc_edge.pipeline import EdgePipeline
from dtufc_edge.settings import EdgeSettings
from dtufc_edge.tasks import Call, Task

_SERVICE: Final = inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name


def tasks_of(pipelines: Mapping[str, EdgePipeline]) -> dict[str, Task]:
    """The tasks that these profiles list, by name.

    Raises:
        InputError: a task that no package has, or one that a profile's family cannot do.
    """
    tasks: dict[str, Task] = {}
    for pipeline in pipelines.values():
        for name in pipeline.profile.spec.tasks:
            task = tasks.setdefault(name, plugins.load(plugins.EDGE_TASKS, name)())
            if not isinstance(pipeline.backbone, task.needs):
                family = pipeline.profile.spec.family
                problem = f"{pipeline.profile.name} lists {name}, and family {family} has no {task.needs.__name__}"
                raise InputError(field="tasks", problem=problem, remedy="List tasks that the family can do")
    return tasks


class InferenceService:
    """Serves the tasks of some profiles.

    Attributes:
        infos: what it says of each profile.
        token_texts: of each profile that completes.
        images: what decodes image files: start it before the first request where `takes_images`, and close it.
    """

    def __init__(
        self,
        pipelines: Mapping[str, EdgePipeline],
        cloud: Cloud,
        worker: Worker,
        telemetry: Telemetry,
        settings: EdgeSettings,
    ) -> None:
        self._pipelines = pipelines
        self._tasks = tasks_of(pipelines)
        self._cloud = cloud
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
        self._passes = {
            name: Passes(worker, _together(p.backbone), telemetry.watch_passes(name)) for name, p in pipelines.items()
        }
        self.token_texts = {
            name: TokenTexts(p.backbone.decode, p.backbone.plain_ids("a"))
            for name, p in pipelines.items()
            if "complete" in p.profile.spec.tasks
        }
        self.infos = [profile_info(p.profile, p.codec, p.backbone.num_layers) for p in pipelines.values()]

    @property
    def takes_images(self) -> bool:
        """Whether a profile has a task of images."""
        return any(isinstance(p.backbone, ImageFeatures | PatchFeatures) for p in self._pipelines.values())

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
        return inference_pb2.ListModelsReply(profiles=self.infos)

    async def _replies(
        self, task: Task, arriving: AbstractAsyncContextManager[Message], timeout_s: float | None
    ) -> AsyncGenerator[Message, None]:
        async with self._calls.admit(task.name, timeout_s) as admitted, arriving as request:
            call = self._call(task, getattr(request, "coding", inference_pb2.Coding()), admitted)
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

    def _call(self, task: Task, coding: inference_pb2.Coding, admitted: Admitted) -> Call:
        pipeline, record = self._pipeline(task, coding.profile), admitted.record
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
        exchange = Exchange(pipeline, self._cloud, self._worker, self._telemetry, admitted, codec=codec, rate=rate)
        return Call(
            pipeline=pipeline,
            settings=self._settings,
            admitted=admitted,
            worker=self._worker,
            exchange=exchange,
            passes=self._passes[pipeline.profile.name],
            budget=self.budget,
            images=self.images,
        )

    def _pipeline(self, task: Task, name: str) -> EdgePipeline:
        able = {n: p for n, p in self._pipelines.items() if task.name in p.profile.spec.tasks}
        if name and name not in self._pipelines:
            known = ", ".join(self._pipelines)
            raise InputError(field="profile", problem=f"no profile {name} here", remedy=f"Use one of {known}")
        if not able or (name and name not in able):
            known = ", ".join(able) or "none is served here"
            raise InputError(field="profile", problem=f"{name or 'none'} can {task.name}", remedy=f"These can: {known}")
        return able[name] if name else next(iter(able.values()))


def _together(backbone: Any) -> Callable[[Sequence[Any], Sequence[Sequence[int]]], Sequence[Tensor]] | None:
    """One pass for a token of each of several sequences; None where the family has no sequences, or cannot."""
    if not isinstance(backbone, TokenFeatures):
        return None
    backbone.cache_bytes(1)  # is measured now, and not in the first request
    if not backbone.shares_passes:
        return None
    return lambda states, parts: backbone.features_together(states, [part[0] for part in parts])
