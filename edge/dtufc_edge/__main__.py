"""`python -m dtufc_edge`: takes prompts and images, runs the backbones, and asks the cloud for the rest."""

import sys
from functools import partial

from dtufc.models.device import pick_device, pick_dtype
from dtufc.serving.lifecycle import run, serve
from dtufc.serving.reload import Side, Swap, loaded_profiles, settle_after
from dtufc.serving.telemetry import Telemetry
from dtufc.serving.transport import Server, channel
from dtufc.serving.worker import Worker
from dtufc_edge.cloud import Cloud
from dtufc_edge.http.server import HttpServer
from dtufc_edge.served import Served, ServedProfile
from dtufc_edge.service import InferenceService
from dtufc_edge.settings import EdgeSettings


async def start(settings: EdgeSettings) -> None:
    """Runs the edge until it is told to stop."""

    async def add(server: Server, worker: Worker, telemetry: Telemetry) -> Side[EdgeSettings]:
        service = InferenceService(worker, telemetry, settings)
        http = HttpServer(settings) if settings.http_listen else None
        if http is not None:
            await http.start(service, telemetry.registry)
            server.beside.append(http.stop)

        async def load(settings: EdgeSettings) -> Swap:
            sticky = settings.cloud_calls == "unary"
            to_cloud = channel(settings.cloud, settings.cloud_tls, settings.max_message_bytes, sticky=sticky)
            before = service.served if service.is_loaded else None
            device, dtype = pick_device(settings.device), pick_dtype(settings.dtype)
            load_one = partial(ServedProfile.load, device, dtype, worker, telemetry)
            profiles = await loaded_profiles(settings, before.profiles if before else {}, load_one, worker)
            digests = {name: one.pipeline.profile.digest for name, one in profiles.items()}
            cloud = Cloud(to_cloud, settings.cloud, digests, unary=sticky)
            certificates = http.read_certificates() if http is not None else None

            def swap() -> None:
                service.serve(Served(profiles=profiles, cloud=cloud))
                if http is not None:
                    http.use(certificates)
                settle_after(before)

            return swap

        async def close() -> None:
            await service.served.cloud.close()

        return Side(services=service.add_to(server.grpc), load=load, close=close)

    await serve(settings, Telemetry("edge"), add)


if __name__ == "__main__":
    sys.exit(run(EdgeSettings, start))
