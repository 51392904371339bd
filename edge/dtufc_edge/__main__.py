"""`python -m dtufc_edge`: takes prompts and images, runs the backbones, and asks the cloud for the rest."""

import logging
import os
import sys
from functools import partial

from dtufc.models.device import pick_device, pick_dtype
from dtufc.serving.lifecycle import run, serve
from dtufc.serving.reload import Side, Swap, loaded_profiles, settle_after
from dtufc.serving.telemetry import Telemetry
from dtufc.serving.transport import Server, channel
from dtufc.serving.worker import Worker
from dtufc_edge.cloud import PURE, Cloud
from dtufc_edge.http.server import HttpServer
from dtufc_edge.served import Served, ServedProfile
from dtufc_edge.service import InferenceService
from dtufc_edge.settings import EdgeSettings

_log = logging.getLogger(__name__)


async def start(settings: EdgeSettings) -> None:
    """Runs the edge until it is told to stop."""
    _tell_of_proxies(settings)

    async def add(server: Server, worker: Worker, telemetry: Telemetry) -> Side[EdgeSettings]:
        bound = settings.model_copy(update={"listen": server.addresses["address"]})
        service = InferenceService(worker, telemetry, bound)
        http = HttpServer(settings) if settings.http_listen else None
        if http is not None:
            await http.start(service, telemetry)
            server.addresses["http"] = http.address
            server.beside.append(http.stop)

        async def load(settings: EdgeSettings) -> Swap:
            sticky = settings.cloud_calls == "unary"
            to_cloud = channel(
                settings.cloud,
                settings.cloud_tls,
                settings.max_message_bytes,
                sticky=sticky,
                retried=PURE,
                proxy=settings.cloud_proxy,
            )
            before = service.served if service.is_loaded else None
            device, dtype = pick_device(settings.device), pick_dtype(settings.dtype)
            load_one = partial(ServedProfile.load, device, dtype, worker, telemetry)
            profiles = await loaded_profiles(settings, before.profiles if before else {}, load_one, worker)
            digests = {name: one.pipeline.profile.digest for name, one in profiles.items()}
            cloud = Cloud(to_cloud, settings.cloud_name, digests, unary=sticky)
            served = Served(profiles=profiles, cloud=cloud)
            certificates = http.read_certificates() if http is not None else None
            if served.takes_images:
                telemetry.expect_images()
                await service.images.start()

            def swap() -> None:
                service.serve(served)
                if http is not None:
                    http.use(certificates)
                settle_after(before)

            return swap

        async def close() -> None:
            await service.images.close()
            await service.served.cloud.close()

        return Side(services=service.add_to(server), load=load, close=close)

    await serve(settings, Telemetry("edge"), add)


def _tell_of_proxies(settings: EdgeSettings) -> None:
    """Where the environment has proxies, whoever set them may expect more of them than they do."""
    found = {name.lower() for name in os.environ}
    if settings.cloud_proxy is None and found & {"grpc_proxy", "http_proxy", "https_proxy"}:
        _log.info("the way to the cloud takes no proxy of the environment; cloud_proxy names one")
    if settings.cloud_proxy is not None and found & {"no_grpc_proxy", "no_proxy"}:
        _log.warning("no_proxy of the environment holds for cloud_proxy too")


if __name__ == "__main__":
    sys.exit(run(EdgeSettings, start))
