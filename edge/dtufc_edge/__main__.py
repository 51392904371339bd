"""`python -m dtufc_edge`: takes prompts and images, runs the backbones, and asks the cloud for the rest."""

import asyncio
import logging
import os
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

_log = logging.getLogger(__name__)


async def start(settings: EdgeSettings) -> None:
    """Runs the edge until it is told to stop."""
    unary = settings.cloud_calls == "unary"
    _tell_of_proxies(settings)
    to_cloud = channel(
        settings.cloud,
        settings.cloud_tls,
        settings.max_message_bytes,
        sticky=unary,
        retried=PURE,
        proxy=settings.cloud_proxy,
    )
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
            cloud = Cloud(to_cloud, settings.cloud_name, digests, unary=unary)
            stack.push_async_callback(cloud.close)
            bound = settings.model_copy(update={"listen": server.addresses["address"]})
            service = InferenceService(pipelines, cloud, worker, telemetry, bound)
            stack.push_async_callback(service.images.close)
            if service.takes_images:
                telemetry.expect_images()
                await service.images.start()
            if http is not None:
                await http.start(service, telemetry)
                server.addresses["http"] = http.address
                server.beside.append(http.stop)
            return service.add_to(server)

        await serve(settings, Telemetry("edge"), register)


def _tell_of_proxies(settings: EdgeSettings) -> None:
    """Where the environment has proxies, whoever set them may expect more of them than they do."""
    found = {name.lower() for name in os.environ}
    if settings.cloud_proxy is None and found & {"grpc_proxy", "http_proxy", "https_proxy"}:
        _log.info("the way to the cloud takes no proxy of the environment; cloud_proxy names one")
    if settings.cloud_proxy is not None and found & {"no_grpc_proxy", "no_proxy"}:
        _log.warning("no_proxy of the environment holds for cloud_proxy too")


if __name__ == "__main__":
    sys.exit(run(EdgeSettings, start))
