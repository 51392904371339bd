"""The life of a service process, the same on both sides: settings, models, metrics, server, graceful stop."""

import asyncio
import logging
import os
import re
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar
from wsgiref.simple_server import WSGIServer

from prometheus_client import start_http_server

from dtufc.errors import DtufcError, InputError
from dtufc.models.profile import Profile, load_profile
from dtufc.serving.given import address_of, listen_address
from dtufc.serving.settings import ServiceSettings
from dtufc.serving.telemetry import Telemetry, configure_logging
from dtufc.serving.transport import Server
from dtufc.serving.worker import Worker

_log = logging.getLogger(__name__)
_AT_SPLIT = re.compile(r"(.+)@([0-9]{1,9})")
_LAST_WORK_S = 0.5  # for work that is running once calls have been drained
S = TypeVar("S", bound=ServiceSettings)
Register = Callable[[Server, Worker, Telemetry], Awaitable[Sequence[str]]]


def served_profiles(settings: ServiceSettings) -> list[Profile]:
    """The profiles that the settings name; NAME@K is NAME split after layer K."""
    profiles = []
    for entry in settings.profiles:
        match = _AT_SPLIT.fullmatch(entry)
        profiles.append(load_profile(match[1], int(match[2])) if match else load_profile(entry))
    names = [profile.name for profile in profiles]
    if not names or len(set(names)) < len(names):
        raise InputError(field="profiles", problem=f"{names}", remedy="Name each profile once, and at least one")
    return profiles


async def serve(settings: ServiceSettings, telemetry: Telemetry, register: Register) -> None:
    """Runs one side until it is told to stop.

    Args:
        settings: of this side.
        telemetry: of this side.
        register: loads the models, adds the services to the server, and returns the services' names.
    """
    share_cores(settings.threads)
    metrics = _metrics(settings.metrics_listen, telemetry)
    worker = Worker(threads=settings.threads, queue_limit=settings.queue_limit)
    telemetry.watch_queue(lambda: worker.admitted, worker.slots)
    server = Server(settings.listen, settings.server_tls, settings.max_message_bytes, telemetry.rejected)
    server.bind()
    server.addresses["metrics"] = address_of(listen_address(settings.metrics_listen, "")[0], metrics.server_port)
    await server.start(await register(server, worker, telemetry))
    _log.info("serving", extra={"fields": server.addresses})
    await server.serve_until_signal(settings.drain_s)
    ended = await worker.close(_LAST_WORK_S)
    metrics.shutdown()
    _log.info("stopped")
    if not ended:  # a thread that computes cannot be stopped, and Python would wait for it
        logging.shutdown()
        os._exit(0)


def share_cores(threads: int) -> None:
    """Gives each of the worker's threads its share of the cores: more of them would take turns on the same ones."""
    import torch
    from threadpoolctl import threadpool_info, threadpool_limits

    torch.set_num_threads(max(1, torch.get_num_threads() // threads))
    most = max((pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"), default=1)
    threadpool_limits(max(1, most // threads), user_api="blas")


def run(settings_class: type[S], start: Callable[[S], Coroutine[Any, Any, None]]) -> int:
    """The body of a side's `__main__`; returns the exit status: 2 for settings that cannot be."""
    try:
        settings = settings_class.from_command_line()
        configure_logging(settings.log_level)
        for number in (signal.SIGTERM, signal.SIGINT):  # while models load; then the server drains first
            signal.signal(number, lambda number, _: os._exit(128 + number))
        asyncio.run(start(settings))
    except DtufcError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _metrics(address: str, telemetry: Telemetry) -> WSGIServer:
    host, port = listen_address(address, "metrics_listen")
    try:
        server, _ = start_http_server(port, host, telemetry.registry)
    except OSError as error:
        problem = f"cannot bind {address}: {error.strerror}"
        raise InputError(field="metrics_listen", problem=problem, remedy="Choose a free address") from error
    return server
