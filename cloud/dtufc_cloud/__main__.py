"""`python -m dtufc_cloud`: decodes features and runs the heads."""

import asyncio
import sys
from collections.abc import Sequence

from dtufc.models.device import pick_device, pick_dtype
from dtufc.serving.lifecycle import run, serve, served_profiles
from dtufc.serving.telemetry import Telemetry
from dtufc.serving.transport import Server
from dtufc.serving.worker import Worker
from dtufc_cloud.pipeline import CloudPipeline
from dtufc_cloud.service import HeadService
from dtufc_cloud.settings import CloudSettings


async def start(settings: CloudSettings) -> None:
    """Runs the cloud until it is told to stop."""

    async def register(server: Server, worker: Worker, telemetry: Telemetry) -> Sequence[str]:
        device, dtype = pick_device(settings.device), pick_dtype(settings.dtype)
        pipelines = {
            profile.name: await asyncio.to_thread(CloudPipeline, profile, device, dtype, settings.max_tokens)
            for profile in served_profiles(settings)
        }
        bound = settings.model_copy(update={"listen": server.addresses["address"]})
        service = HeadService(pipelines, worker, telemetry, bound)
        server.on_drain.append(service.drain)
        return service.add_to(server)

    await serve(settings, Telemetry("cloud"), register)


if __name__ == "__main__":
    sys.exit(run(CloudSettings, start))
