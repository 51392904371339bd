"""The life of a service process, the same on both sides: settings, models, metrics, server, graceful stop."""

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar
from wsgiref.simple_server import WSGIServer

from prometheus_client import start_http_server

from dtufc.errors import DtufcError, InputError
from dtufc.models.profile import Profile, load_profile
from dtufc.serving.settings import ServiceSettings
from dtufc.serving.telemetry import Telemetry, configure_logging
from dtufc.serving.transport import Server
from dtufc.serving.worker import Worker

_log = logging.getLogger(__name__)
S = TypeVar("S", bound=ServiceSettings)
Register = Callable[[Server, Worker, Telemetry], Awaitable[str]]


def served_profiles(settings: ServiceSettings) -> list[Profile]:
    """The profiles that the settings name; NAME@K is NAME split after layer K."""
    profiles = []
    for entry in settings.profiles:
        name, _, split = entry.rpartition("@")
        profiles.append(load_profile(name, int(split)) if name and split.isdecimal() else load_profile(entry))
    names = [profile.name for profile in profiles]
    if not names or len(set(names)) < len(names):
        raise InputError(field="profiles", problem=f"{names}", remedy="Name each profile once, and at least one")
    return profiles


async def serve(settings: ServiceSettings, telemetry: Telemetry, register: Register) -> None:
    """Runs one side until it is told to stop.

    Args:
        settings: of this side.
        telemetry: of this side.
        register: loads the models, adds the service to the server, and returns the service's name.
    """
    host, _, port = settings.metrics_listen.rpartition(":")
    metrics = _metrics(host, int(port), telemetry)
    worker = Worker(threads=settings.threads, queue_limit=settings.queue_limit)
    telemetry.watch_queue(lambda: worker.admitted, worker.slots)
    server = Server(settings.listen, settings.server_tls, settings.max_message_bytes)
    service = await register(server, worker, telemetry)
    address = await server.start([service])
    _log.info("serving", extra={"fields": {"address": address, "metrics": settings.metrics_listen}})
    await server.serve_until_signal(settings.drain_s)
    await worker.close(settings.drain_s)
    metrics.shutdown()
    _log.info("stopped")


def run(settings_class: type[S], start: Callable[[S], Coroutine[Any, Any, None]]) -> int:
    """The body of a side's `__main__`; returns the exit status: 2 for settings that cannot be."""
    try:
        settings = settings_class.from_command_line()
        configure_logging(settings.log_level)
        asyncio.run(start(settings))
    except DtufcError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _metrics(host: str, port: int, telemetry: Telemetry) -> WSGIServer:
    try:
        server, _ = start_http_server(port, host, telemetry.registry)
    except OSError as error:
        raise InputError(field="metrics_listen", problem=str(error), remedy="Choose a free address") from error
    return server
