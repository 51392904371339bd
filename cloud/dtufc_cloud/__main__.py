"""`python -m dtufc_cloud`: decodes features and runs the heads."""

import sys
from functools import partial

from dtufc.models.device import pick_device, pick_dtype
from dtufc.serving.lifecycle import run, serve
from dtufc.serving.reload import Side, Swap, loaded_profiles, settle_after
from dtufc.serving.telemetry import Telemetry
from dtufc.serving.transport import Server
from dtufc.serving.worker import Worker
from dtufc_cloud.served import Served, ServedProfile
from dtufc_cloud.service import HeadService
from dtufc_cloud.settings import CloudSettings


async def start(settings: CloudSettings) -> None:
    """Runs the cloud until it is told to stop."""

    async def add(server: Server, worker: Worker, telemetry: Telemetry) -> Side[CloudSettings]:
        bound = settings.model_copy(update={"listen": server.addresses["address"]})
        service = HeadService(worker, telemetry, bound)
        server.on_drain.append(service.drain)

        async def load(settings: CloudSettings) -> Swap:
            before = service.served if service.is_loaded else None
            device, dtype = pick_device(settings.device), pick_dtype(settings.dtype)
            load_one = partial(ServedProfile.load, device, dtype, settings.max_tokens, worker, telemetry)
            profiles = await loaded_profiles(settings, before.profiles if before else {}, load_one, worker)

            def swap() -> None:
                service.serve(Served(profiles=profiles))
                settle_after(before)

            return swap

        return Side(services=service.add_to(server), load=load)

    await serve(settings, Telemetry("cloud"), add)


if __name__ == "__main__":
    sys.exit(run(CloudSettings, start))
