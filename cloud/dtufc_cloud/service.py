"""HeadService over gRPC: wire messages to the pipeline's calls and back. Nothing else is decided here."""

from collections.abc import Mapping

import grpc

from dtufc.errors import InputError, ProfileMismatch
from dtufc.serving.limits import MAX_LABELS
from dtufc.serving.status import profile_info, reporting
from dtufc.serving.telemetry import Request, Telemetry
from dtufc.serving.worker import Worker
from dtufc.v1 import head_pb2, head_pb2_grpc
from dtufc_cloud.pipeline import CloudPipeline
from dtufc_cloud.settings import CloudSettings

_TASKS = {
    "answer": "answer",
    "next_token": "complete",
    "segment": "segment",
    "classify": "classify",
    "imagine": "imagine",
}


class HeadService(head_pb2_grpc.HeadServiceServicer):
    """Serves the heads of some profiles."""

    def __init__(
        self, pipelines: Mapping[str, CloudPipeline], worker: Worker, telemetry: Telemetry, settings: CloudSettings
    ) -> None:
        self._pipelines = pipelines
        self._worker = worker
        self._telemetry = telemetry
        self._settings = settings

    async def Describe(
        self, message: head_pb2.DescribeRequest, context: grpc.aio.ServicerContext
    ) -> head_pb2.DescribeReply:
        return head_pb2.DescribeReply(profiles=[profile_info(pipeline.codec) for pipeline in self._pipelines.values()])

    async def Run(self, message: head_pb2.RunRequest, context: grpc.aio.ServicerContext) -> head_pb2.RunReply:
        async with reporting(context):
            kind = message.WhichOneof("task")
            with self._telemetry.request(_TASKS.get(kind or "", "unknown")) as request, self._worker.admit():
                pipeline = self._pipeline(message.profile)
                request.model = pipeline.profile.name
                reply = await self._worker.run(self._run, pipeline, message, request)
            for stage, seconds in request.stages.seconds.items():
                reply.stages.add(name=stage, seconds=seconds)
            return reply
        raise AssertionError("reporting aborts the call")

    def _run(self, pipeline: CloudPipeline, message: head_pb2.RunRequest, request: Request) -> head_pb2.RunReply:
        match message.WhichOneof("task"):
            case "answer":
                values = pipeline.answer(message.frame, message.answer.token_ids, request)
                return head_pb2.RunReply(probabilities=head_pb2.Probabilities(values=values))
            case "next_token":
                return head_pb2.RunReply(token_id=pipeline.next_token(message.frame, request))
            case "segment":
                task = message.segment
                if not 0 < task.width * task.height <= self._settings.max_image_pixels:
                    limit = self._settings.max_image_pixels
                    problem = f"{task.width} x {task.height} pixels"
                    raise InputError(field="size", problem=problem, remedy=f"Ask for 1 to {limit} pixels")
                box = (task.left, task.top, task.right, task.bottom)
                png = pipeline.label_map(message.frame, box, (task.height, task.width), request)
                return head_pb2.RunReply(label_map_png=png)
            case "classify":
                if not 0 < message.classify.top_k <= MAX_LABELS:
                    problem = f"{message.classify.top_k} labels"
                    raise InputError(field="top_k", problem=problem, remedy=f"Ask for 1 to {MAX_LABELS}")
                found = pipeline.labels(message.frame, message.classify.top_k, request)
                labels = [head_pb2.Label(index=x.index, name=x.name, probability=x.probability) for x in found]
                return head_pb2.RunReply(labels=head_pb2.Labels(labels=labels))
            case "imagine":
                return head_pb2.RunReply(picture_png=pipeline.picture(message.frame, request))
            case _:
                raise InputError(field="task", problem="none is set", remedy=f"Set one of {', '.join(_TASKS)}")

    def _pipeline(self, name: str) -> CloudPipeline:
        if name not in self._pipelines:
            raise ProfileMismatch(profile=name, expected="not served", found="asked for")
        return self._pipelines[name]
