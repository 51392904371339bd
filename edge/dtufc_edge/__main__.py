"""`python -m dtufc_edge`: takes prompts and images, runs the backbones, and asks the cloud for the rest."""

import asyncio
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack

from dtufc.models.device import pick_device, pick_dtype
from dtufc.serving.lifecycle import run, serve, served_profiles
from dtufc.serving.telemetry import Telemetry
from dtufc.serving.transport import Server, channel
from dtufc.serving.worker import Worker
from dtufc_edge.cloud import PURE, Cloud
from dtufc_edge.http.server import HttpServer
from dtufc_edge.pipeline import EdgePipeline
from dtufc_edge.service import InferenceService
from dtufc_edge.settings import EdgeSettings


async def start(settings: EdgeSettings) -> None:
    """Runs the edge until it is told to stop."""
    unary = settings.cloud_calls == "unary"
    to_cloud = channel(settings.cloud, settings.cloud_tls, settings.max_message_bytes, sticky=unary, retried=PURE)
    async with to_cloud, AsyncExitStack() as stack:

        async def register(server: Server, worker: Worker, telemetry: Telemetry) -> Sequence[str]:
            http = HttpServer(settings) if settings.http_listen else None
            device, dtype = pick_device(settings.device), pick_dtype(settings.dtype)
            pipelines = {
                profile.name: await asyncio.to_thread(EdgePipeline, profile, device, dtype)
                for profile in served_profiles(settings)
            }
            for name, pipeline in pipelines.items():
                telemetry.expect(name, pipeline.codec.codecs)
            digests = {name: p.profile.digest for name, p in pipelines.items()}
            cloud = Cloud(to_cloud, settings.cloud, digests, unary=unary)
            stack.push_async_callback(cloud.close)
            service = InferenceService(pipelines, cloud, worker, telemetry, settings)
            if http is not None:
                await http.start(service, telemetry.registry)
                server.beside.append(http.stop)
            return service.add_to(server.grpc)

        await serve(settings, Telemetry("edge"), register)


if __name__ == "__main__":
    sys.exit(run(EdgeSettings, start))
