"""Edge and cloud in one process, over gRPC on loopback, for models that are small enough to be made by a test."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

import dtufc_cloud.served
import dtufc_edge.served
from dtufc.models.profile import Profile
from dtufc.serving.telemetry import Telemetry
from dtufc.serving.transport import Server, channel
from dtufc.serving.worker import Worker
from dtufc.v1 import inference_pb2
from dtufc_cloud.pipeline import CloudPipeline
from dtufc_cloud.service import HeadService
from dtufc_cloud.settings import CloudSettings
from dtufc_edge.cloud import PURE, Cloud
from dtufc_edge.pipeline import EdgePipeline
from dtufc_edge.service import InferenceService
from dtufc_edge.settings import EdgeSettings
from dtufc_research.evaluation.tiny import CHARACTERS, tiny_decoder

__all__ = ["tiny_decoder"]  # other tests find it here

CPU = torch.device("cpu")


def text_of(ids: Sequence[int]) -> str:
    """The text of these tokens."""
    return "".join(CHARACTERS[index] for index in ids).translate(str.maketrans("ĠĊĉ", " \n\t"))


@dataclass
class LocalCloud:
    """A cloud that can be stopped as if it died, or drained."""

    server: Server
    service: HeadService
    address: str
    telemetry: Telemetry

    async def die(self) -> None:
        await self.server.grpc.stop(None)


def cloud_served(pipeline: CloudPipeline, worker: Worker, telemetry: Telemetry) -> dtufc_cloud.served.Served:
    """One profile and no other."""
    profile = dtufc_cloud.served.ServedProfile.of(pipeline, worker, telemetry)
    return dtufc_cloud.served.Served(profiles={pipeline.profile.name: profile})


@asynccontextmanager
async def local_cloud(
    pipeline: CloudPipeline, address: str = "127.0.0.1:0", **settings: Any
) -> AsyncIterator[LocalCloud]:
    worker, telemetry = Worker(threads=1, queue_limit=32), Telemetry("cloud")
    server = Server(address, rejected=telemetry.rejected)
    address = server.bind()
    service = HeadService(worker, telemetry, CloudSettings(listen=address, **settings))
    service.serve(cloud_served(pipeline, worker, telemetry))
    del pipeline  # the service alone holds it
    server.on_drain.append(service.drain)
    service.add_to(server)
    await server.start([])
    try:
        yield LocalCloud(server, service, address, telemetry)
    finally:
        await server.stop(0)
        await worker.close(5)


@dataclass
class Reply:
    """What one completion came to."""

    replies: list[inference_pb2.CompleteReply] = field(default_factory=list)

    @property
    def ids(self) -> list[int]:
        return [reply.token.token_id for reply in self.replies if reply.HasField("token")]

    @property
    def text(self) -> str:
        return "".join(reply.text for reply in self.replies)

    @property
    def generated(self) -> inference_pb2.Generated:
        return self.replies[-1].generated


@dataclass
class LocalEdge:
    service: InferenceService
    telemetry: Telemetry

    async def complete(self, timeout_s: float = 60, **fields: Any) -> Reply:
        """A completion without the chat template, in `raw` where no codec is named."""
        found = Reply()
        async for reply in self.stream(timeout_s, **fields):
            found.replies.append(reply)
        return found

    async def stream(self, timeout_s: float = 60, **fields: Any) -> AsyncGenerator[inference_pb2.CompleteReply, None]:
        fields.setdefault("coding", inference_pb2.Coding(codec="raw"))
        request = inference_pb2.CompleteRequest(plain=True, **fields)
        async with aclosing(self.service.replies("complete", request, timeout_s)) as replies:
            async for reply in replies:
                assert isinstance(reply, inference_pb2.CompleteReply)
                yield reply


@asynccontextmanager
async def local_edge(
    pipeline: EdgePipeline, clouds: str, *, unary: bool = False, **settings: Any
) -> AsyncIterator[LocalEdge]:
    worker, telemetry = Worker(threads=1, queue_limit=32), Telemetry("edge")
    name = pipeline.profile.name
    async with channel(clouds, sticky=unary, retried=PURE) as to_cloud:
        cloud = Cloud(to_cloud, clouds, {name: pipeline.profile.digest}, unary=unary)
        service = InferenceService(worker, telemetry, EdgeSettings(cloud=clouds, **settings))
        profile = dtufc_edge.served.ServedProfile.of(pipeline, worker, telemetry)
        service.serve(dtufc_edge.served.Served(profiles={name: profile}, cloud=cloud))
        del pipeline, profile  # the service alone holds them
        yield LocalEdge(service, telemetry)
        await cloud.close()
        await worker.close(5)


def pipelines(profile: Profile) -> tuple[EdgePipeline, CloudPipeline]:
    return EdgePipeline(profile, CPU, torch.float32), CloudPipeline(profile, CPU, torch.float32)


async def eventually(condition: Any, timeout_s: float = 5) -> None:
    end = asyncio.get_running_loop().time() + timeout_s
    while not condition():
        assert asyncio.get_running_loop().time() < end, "it never came true"
        await asyncio.sleep(0.02)
