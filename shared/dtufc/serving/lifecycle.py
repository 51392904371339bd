"""The life of a service process, the same on both sides: settings, metrics, server, models, reloads, graceful stop.

From the first second it answers what its health is; it is ready once models are loaded and warmed up, until a stop is
asked for. It ends REST_S after its drain at the latest, whatever still runs in it.
"""

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar
from wsgiref.simple_server import WSGIServer

from prometheus_client import start_http_server

from dtufc.errors import DtufcError, InputError
from dtufc.serving import systemd
from dtufc.serving.given import address_of, listen_address
from dtufc.serving.reload import Side, reload_when_told
from dtufc.serving.settings import ServiceSettings
from dtufc.serving.telemetry import Telemetry, configure_logging
from dtufc.serving.transport import Server
from dtufc.serving.worker import Worker

REST_S: Final = 1.5  # from the end of a drain to the end of the process, at most
_LAST_WORK_S: Final = 0.3  # for work that is running once calls have been drained
_log = logging.getLogger(__name__)
S = TypeVar("S", bound=ServiceSettings)


async def serve(
    settings: S, telemetry: Telemetry, add: Callable[[Server, Worker, Telemetry], Awaitable[Side[S]]]
) -> None:
    """Runs one side until it is told to stop, and ends the process.

    Args:
        settings: of this side.
        telemetry: of this side.
        add: adds the services to the server. They answer Unavailable until the side has loaded its models.
    """
    share_cores(settings.threads)
    metrics = _metrics(settings.metrics_listen, telemetry)
    worker = Worker(threads=settings.threads, queue_limit=settings.queue_limit)
    telemetry.watch_queue(lambda: worker.places.taken, worker.places.number)
    server = Server(settings.listen, settings.server_tls, settings.max_message_bytes, telemetry.rejected)
    server.bind()
    server.addresses["metrics"] = address_of(listen_address(settings.metrics_listen, "")[0], metrics.server_port)
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, told.set)
    side = await add(server, worker, telemetry)
    await server.start(side.services, is_ready=False)
    systemd.starting()
    try:
        (await side.load(settings))()
    except BaseException:
        await server.stop(0)
        raise
    await server.ready()
    _log.info("serving", extra={"fields": server.addresses})
    systemd.ready()
    reloading = asyncio.create_task(reload_when_told(told, settings, side, server, telemetry))
    server.on_drain += [systemd.stopping, lambda: _end_after(settings.drain_s + REST_S)]
    await server.serve_until_signal(settings.drain_s)
    reloading.cancel()
    await side.close()
    await worker.close(_LAST_WORK_S)
    _end()


def share_cores(threads: int) -> None:
    """Gives each of the worker's threads its share of the cores: more of them would take turns on the same ones."""
    import torch
    from threadpoolctl import threadpool_info, threadpool_limits

    torch.set_num_threads(max(1, torch.get_num_threads() // threads))
    most = max((pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"), default=1)
    threadpool_limits(max(1, most // threads), user_api="blas")


def run(settings_class: type[S], start: Callable[[S], Coroutine[Any, Any, None]]) -> int:
    """The body of a side's `__main__`; returns the exit status: 2 for settings that cannot be."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # all that it could ask for is read now
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


def _end_after(seconds: float) -> None:
    timer = threading.Timer(seconds, _end)
    timer.daemon = True
    timer.start()


def _end() -> None:
    """Now: a thread that computes cannot be stopped, and Python would wait for it."""
    _log.info("stopped")
    logging.shutdown()
    os._exit(0)
