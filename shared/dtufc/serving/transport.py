"""gRPC as both sides use it: servers and channels with the same limits.

Hides channel options, TLS, health and reflection.
"""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from dtufc import errors
from dtufc.files import read_file
from dtufc.serving.limits import MAX_CALLS, MAX_MESSAGE_BYTES
from dtufc.serving.status import error_of

_MAX_PEM_BYTES: Final = 1 << 20
# How long one attempt to connect may take, and the pause before the next: who does not answer is Unavailable soon.
# A server that comes back under another address is looked up as soon.
_RECONNECT: Final = [
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.dns_min_time_between_resolutions_ms", 1000),
]
# A peer that is gone without a word (a machine without power, a process that stands still) is noticed within 15
# seconds; on a slow line, a ping may wait as long behind what is being sent.
_KEEPALIVE: Final = [
    ("grpc.keepalive_time_ms", 5000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),  # a minute by default, which would hold for the pings of keepalive too
    ("grpc.http2.max_pings_without_data", 0),
]
# Pings of clients are welcome, as often as this.
_ALLOWED_PINGS: Final = [
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 1000),
    ("grpc.keepalive_permit_without_calls", 1),
]
_ROUND_ROBIN: Final = ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}')
# Connections end, without harm to calls, so that a caller looks up anew which servers there are.
_RENEWED: Final = ("grpc.max_connection_age_ms", 30_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """Paths of PEM files. A server needs certificate and key; `ca` makes it ask for a client's certificate.

    A client needs `ca`, the certificates it trusts; certificate and key where the server asks for them.
    """

    certificate: Path | None = None
    key: Path | None = None
    ca: Path | None = None

    def read(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """The three files' bytes: CA, key, certificate. Raises InputError where one cannot be read or is missing."""
        if (self.key is None) != (self.certificate is None):
            raise errors.InputError(
                field="tls", problem="a key without a certificate, or the reverse", remedy="Set both, or neither"
            )
        return _read(self.ca), _read(self.key), _read(self.certificate)


def _read(path: Path | None) -> bytes | None:
    return None if path is None else read_file(path, _MAX_PEM_BYTES, field="tls", remedy="Give a readable PEM file")


def _options(max_message_bytes: int) -> list[tuple[str, int]]:
    return [
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.so_reuseport", 0),
    ]


def channel(
    address: str, tls: Tls | None = None, max_message_bytes: int = MAX_MESSAGE_BYTES, *, sticky: bool = False
) -> grpc.aio.Channel:
    """A channel to `address`, encrypted where `tls` is given. Reconnects within a second of a loss.

    Where the address stands for several servers (a name with several records, or `ipv4:HOST:PORT,HOST:PORT`), the
    calls go to each that answers in turn; if `sticky`, to one for as long as it answers.
    """
    options = [*_options(max_message_bytes), *_RECONNECT, *_KEEPALIVE, *([] if sticky else [_ROUND_ROBIN])]
    if tls is None:
        return grpc.aio.insecure_channel(address, options=options)
    return grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(*tls.read()), options=options)


def blocking_channel(address: str, tls: Tls | None = None) -> grpc.Channel:
    """`channel`, for callers without an event loop."""
    options = [*_options(MAX_MESSAGE_BYTES), *_RECONNECT]
    if tls is None:
        return grpc.insecure_channel(address, options=options)
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(*tls.read()), options=options)


def check_health(address: str, tls: Tls | None = None, *, timeout_s: float = 5.0) -> None:
    """Asks grpc.health.v1 whether the server at `address` serves.

    Raises:
        Unavailable: it says that it does not, or says nothing.
    """
    with blocking_channel(address, tls) as to_server:
        try:
            reply = health_pb2_grpc.HealthStub(to_server).Check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
        except grpc.RpcError as error:
            raise error_of(error, "the service", address, timeout_s) from error
    if reply.status != health_pb2.HealthCheckResponse.SERVING:
        status = health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)
        raise errors.Unavailable(peer="the service", address=address, problem=status)


class Server:
    """A gRPC server with health and reflection, which stops gracefully on SIGTERM and SIGINT."""

    def __init__(self, address: str, tls: Tls | None = None, max_message_bytes: int = MAX_MESSAGE_BYTES) -> None:
        self.grpc = grpc.aio.server(
            options=[*_options(max_message_bytes), *_ALLOWED_PINGS, _RENEWED],
            compression=grpc.Compression.NoCompression,
            maximum_concurrent_rpcs=MAX_CALLS,
        )
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.grpc)
        self._services: list[str] = []
        self.on_drain: list[
            Callable[[], None]
        ] = []  # called once a stop is asked for, before running calls are waited for
        # Other servers of this process: they stop meanwhile, within as many seconds.
        self.beside: list[Callable[[float], Awaitable[None]]] = []
        self._address = address
        self._tls = tls

    def bind(self) -> str:
        """Takes the address, before models are loaded. Returns the one that it will listen on.

        Raises:
            InputError: the address cannot be bound, or the TLS files are none.
        """
        try:
            port = self._bind()
        except RuntimeError as error:
            field, remedy = "listen", "Choose a free address"
            if self._tls is not None:
                field, remedy = "listen, tls", "Choose a free address, and PEM files of a certificate and its key"
            problem = f"cannot bind {self._address}"
            raise errors.InputError(field=field, problem=problem, remedy=remedy) from error
        return f"{self._address.rpartition(':')[0]}:{port}"

    async def start(self, services: Sequence[str]) -> None:
        """Starts to answer, and reports SERVING."""
        self._services = ["", *services]
        reflection.enable_server_reflection((*services, health.SERVICE_NAME, reflection.SERVICE_NAME), self.grpc)
        await self.grpc.start()
        await self._report(health_pb2.HealthCheckResponse.SERVING)

    async def serve_until_signal(self, drain_s: float) -> None:
        """Waits for SIGTERM or SIGINT, then reports NOT_SERVING, drains and stops. A second signal ends it at once."""
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()

        def stop(number: signal.Signals) -> None:
            if stopping.is_set():
                os._exit(128 + number)  # not by the signal's default, which spares the first process of a container
            stopping.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop, number)
        await stopping.wait()
        await self.stop(drain_s)

    async def stop(self, drain_s: float) -> None:
        await self._report(health_pb2.HealthCheckResponse.NOT_SERVING)
        for drain in self.on_drain:
            drain()
        await asyncio.gather(self.grpc.stop(drain_s), *(stop(drain_s) for stop in self.beside))

    def _bind(self) -> int:
        if self._tls is None:
            return self.grpc.add_insecure_port(self._address)
        ca, key, certificate = self._tls.read()
        if key is None or certificate is None:
            raise errors.InputError(
                field="tls", problem="a server needs certificate and key", remedy="Set both, or neither"
            )
        credentials = grpc.ssl_server_credentials([(key, certificate)], ca, ca is not None)
        return self.grpc.add_secure_port(self._address, credentials)

    async def _report(self, status: int) -> None:
        for service in self._services:
            await self._health.set(service, status)
