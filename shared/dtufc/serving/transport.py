"""gRPC as both sides use it: servers and channels with the same limits.

Hides channel options, TLS, health and reflection.
"""

import asyncio
import json
import os
import signal
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from dtufc import errors
from dtufc.files import read_file
from dtufc.serving.border import Border, Incoming, Rejected, Rpc, Streams
from dtufc.serving.given import address_of, check_target, check_timeout, listen_address
from dtufc.serving.limits import MAX_MESSAGE_BYTES, MAX_SETTABLE_MESSAGE_BYTES, MAX_STREAMS, UNREAD_BYTES
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
# How much of a message may arrive before it is read. gRPC would raise it to megabytes by itself, for every stream.
_WINDOW: Final = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", UNREAD_BYTES)]
# A call that a broken connection took along is tried again, within its deadline and two seconds: gRPC does that for as
# long as no part of an answer has come. An outage is not multiplied: once fifty attempts more have failed than a tenth
# of the calls that were answered since, there is no other one. What a service says of itself is final (`abort`).
_RETRY: Final = {
    "maxAttempts": 5,  # gRPC's own limit
    "initialBackoff": "0.1s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2.5,
    "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],  # the latter of a call that meets a server as it stops
}
_RETRY_BUDGET: Final = {"maxTokens": 100, "tokenRatio": 0.1}
_FRAMING_BYTES: Final = 1 << 16  # of messages, and metadata
EVERY_METHOD: Final[Sequence[Mapping[str, str]]] = ({},)
# Connections end, without harm to calls, so that a caller looks up anew which servers there are. One that is idle, or
# never says that it speaks HTTP/2, ends too, and sooner.
_CONNECTIONS: Final = [
    ("grpc.max_connection_age_ms", 30_000),
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.max_concurrent_streams", MAX_STREAMS),
]
# What grpc.health.v1 has an answer for, beside "" and the names of the services: those say whether requests are served.
LIVENESS: Final = "liveness"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """Paths of PEM files. A server needs certificate and key; `ca` makes it ask for a client's certificate.

    A client needs `ca`, the certificates it trusts; certificate and key where the server asks for them.
    """

    certificate: Path | None = None
    key: Path | None = None
    ca: Path | None = None

    def read(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """The three files' bytes: CA, key, certificate.

        Raises:
            InputError: one is missing, cannot be read, or is no certificate; or the key is not the certificate's.
        """
        if (self.key is None) != (self.certificate is None):
            raise errors.InputError(
                field="tls", problem="a key without a certificate, or the reverse", remedy="Set both, or neither"
            )
        found = _read(self.ca), _read(self.key), _read(self.certificate)
        self._context(ssl.PROTOCOL_TLS_CLIENT)
        return found

    def read_for_server(self) -> tuple[bytes | None, bytes, bytes]:
        """`read`, of a server. Raises InputError where it has no certificate of its own."""
        ca, key, certificate = self.read()
        if key is None or certificate is None:
            raise errors.InputError(
                field="tls", problem="a server needs certificate and key", remedy="Set both, or neither"
            )
        return ca, key, certificate

    def server_context(self) -> ssl.SSLContext:
        """The same for a server of another protocol than gRPC. Raises InputError as `read_for_server` does."""
        self.read_for_server()
        context = self._context(ssl.PROTOCOL_TLS_SERVER)
        context.verify_mode = ssl.CERT_NONE if self.ca is None else ssl.CERT_REQUIRED
        return context

    def _context(self, protocol: int) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        try:
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key, password="")  # never asks the terminal for it
            if self.ca is not None:
                context.load_verify_locations(self.ca)
        except (OSError, ValueError) as error:
            files = ", ".join(str(path) for path in (self.certificate, self.key, self.ca) if path is not None)
            remedy = "Give PEM files of a certificate, its key without a password, and a CA"
            raise errors.InputError(field="tls", problem=f"{files}: {error}", remedy=remedy) from error
        return context


def _read(path: Path | None) -> bytes | None:
    return None if path is None else read_file(path, _MAX_PEM_BYTES, field="tls", remedy="Give a readable PEM file")


def _options(max_message_bytes: int) -> list[tuple[str, int]]:
    return [
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.so_reuseport", 0),
        # What has been sent is kept until an answer comes, or it could not be sent again.
        ("grpc.per_rpc_retry_buffer_size", max_message_bytes + _FRAMING_BYTES),
    ]


def _service_config(retried: Sequence[Mapping[str, str]], *, round_robin: bool) -> tuple[str, str]:
    config: dict[str, object] = {}
    if round_robin:  # to each that is ready: one that loads its models answers already, and one that drains still does
        config["loadBalancingConfig"] = [{"round_robin": {}}]
        config["healthCheckConfig"] = {"serviceName": ""}
    if retried:
        config["methodConfig"] = [{"name": list(retried), "retryPolicy": _RETRY}]
        config["retryThrottling"] = _RETRY_BUDGET
    return "grpc.service_config", json.dumps(config)


def _channel_options(
    max_message_bytes: int, proxy: str | None, retried: Sequence[Mapping[str, str]], *, round_robin: bool
) -> list[tuple[str, int | str]]:
    # The environment's proxies are for the web: without a word, gRPC would send calls to 127.0.0.1 through them too.
    through = [("grpc.enable_http_proxy", 0)] if proxy is None else [("grpc.http_proxy", proxy)]
    config = _service_config(retried, round_robin=round_robin)
    return [*_options(max_message_bytes), *_RECONNECT, *_KEEPALIVE, *through, config]


def channel(
    address: str,
    tls: Tls | None = None,
    max_message_bytes: int = MAX_SETTABLE_MESSAGE_BYTES,
    *,
    sticky: bool = False,
    retried: Sequence[Mapping[str, str]] = EVERY_METHOD,
    proxy: str | None = None,
) -> grpc.aio.Channel:
    """A channel to `address`, encrypted where `tls` is given. Reconnects within a second of a loss.

    Where the address stands for several servers (a name with several records, or `ipv4:HOST:PORT,HOST:PORT`), the
    calls go to each that answers in turn; if `sticky`, to one for as long as it answers.

    Args:
        address: HOST:PORT, or another that gRPC resolves.
        tls: of the server.
        max_message_bytes: both ways. A client leaves it to the server.
        sticky: see above.
        retried: `service` and `method` of the calls that may be made twice, and go to another server where a connection
            breaks before anything of an answer has come.
        proxy: http://HOST:PORT of a proxy that takes CONNECT. None: no proxy, whatever the environment says.

    Raises:
        InputError: the address is none, or the TLS files cannot be read.
    """
    check_target(address, "address")
    options = _channel_options(max_message_bytes, proxy, retried, round_robin=not sticky)
    if tls is None:
        return grpc.aio.insecure_channel(address, options=options)
    return grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(*tls.read()), options=options)


def blocking_channel(
    address: str,
    tls: Tls | None = None,
    *,
    retried: Sequence[Mapping[str, str]] = EVERY_METHOD,
    proxy: str | None = None,
) -> grpc.Channel:
    """`channel`, for callers without an event loop."""
    check_target(address, "address")
    options = _channel_options(MAX_SETTABLE_MESSAGE_BYTES, proxy, retried, round_robin=False)
    if tls is None:
        return grpc.insecure_channel(address, options=options)
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(*tls.read()), options=options)


def check_health(address: str, tls: Tls | None = None, *, timeout_s: float = 5.0) -> None:
    """Asks grpc.health.v1 whether the server at `address` serves, once.

    Raises:
        Unavailable: it says that it does not, or says nothing.
        InputError: the address or the time is none.
    """
    check_timeout(timeout_s)
    with blocking_channel(address, tls, retried=()) as to_server:
        try:
            reply = health_pb2_grpc.HealthStub(to_server).Check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
        except grpc.RpcError as error:
            found = error_of(error, "the service", address, timeout_s)
            if isinstance(found, errors.DeadlineExceeded):
                found = errors.Unavailable(peer="the service", address=address, problem=f"silent for {timeout_s} s")
            raise found from error
    if reply.status != health_pb2.HealthCheckResponse.SERVING:
        status = health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)
        raise errors.Unavailable(peer="the service", address=address, problem=status)


class Server:
    """A gRPC server with health and reflection, which stops gracefully on SIGTERM and SIGINT.

    From its start on it is alive; it is ready once it is told so, until it stops.
    """

    def __init__(
        self,
        address: str,
        tls: Tls | None = None,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        rejected: Rejected = lambda kind, reason: None,
    ) -> None:
        """
        Args:
            address: to listen on.
            tls: of this server.
            max_message_bytes: both ways.
            rejected: counts calls that fail and are no requests, as `Telemetry.rejected` does.
        """
        self.grpc = grpc.aio.server(
            options=[*_options(max_message_bytes), *_ALLOWED_PINGS, *_CONNECTIONS, *_WINDOW],
            compression=grpc.Compression.NoCompression,
        )
        self._border = Border(rejected)
        self._health = health.aio.HealthServicer()
        self._add_health()
        self._services: list[str] = []
        self.on_drain: list[
            Callable[[], None]
        ] = []  # called once a stop is asked for, before running calls are waited for
        # Other servers of this process: they stop meanwhile, within as many seconds.
        self.beside: list[Callable[[float], Awaitable[None]]] = []
        self.addresses: dict[str, str] = {}  # where this process serves, by the names that its log has for them
        self._address = address
        self._tls = tls
        self._certificates: Any = None

    def add(self, service: str, rpcs: Sequence[Rpc[Any]]) -> None:
        """Adds a service, by its full name."""
        self.grpc.add_generic_rpc_handlers((self._border.handlers(service, rpcs),))

    def bind(self) -> str:
        """Takes the address, before models are loaded. Returns the one that it will listen on.

        Raises:
            InputError: the address cannot be bound, or the TLS files are none.
        """
        try:
            port = self._bind()
        except RuntimeError as error:
            problem = f"cannot bind {self._address}"
            raise errors.InputError(field="listen", problem=problem, remedy="Choose a free address") from error
        self.addresses["address"] = address_of(listen_address(self._address, "listen")[0], port)
        return self.addresses["address"]

    async def start(self, services: Sequence[str], *, is_ready: bool = True) -> None:
        """Starts to answer, and reports that it is alive; that it serves at once, or when it is `ready`."""
        self._services = ["", *services]
        self._add_reflection((*services, health.SERVICE_NAME, reflection.SERVICE_NAME))
        self.grpc.add_generic_rpc_handlers((self._border.unknown(),))
        status = health_pb2.HealthCheckResponse
        await self._report(status.SERVING if is_ready else status.NOT_SERVING)
        await self._health.set(LIVENESS, status.SERVING)
        await self.grpc.start()

    async def ready(self) -> None:
        """Reports SERVING."""
        await self._report(health_pb2.HealthCheckResponse.SERVING)

    def read_certificates(self) -> Any:
        """The certificates as their files are now; None without TLS. Raises InputError where they are none."""
        if self._tls is None:
            return None
        ca, key, certificate = self._tls.read_for_server()
        return grpc.ssl_server_certificate_configuration([(key, certificate)], ca)

    def use(self, certificates: Any) -> None:
        """From now on, for new connections; those that are open stay so until their age ends them."""
        self._certificates = certificates

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
        self.use(self.read_certificates())
        has_ca = self._tls.ca is not None
        credentials = grpc.dynamic_ssl_server_credentials(self._certificates, lambda: self._certificates, has_ca)
        return self.grpc.add_secure_port(self._address, credentials)

    def _add_health(self) -> None:
        """Check is always answered; watches are bounded."""
        watches, request = Streams("health"), health_pb2.HealthCheckRequest

        async def check(call: Incoming[health_pb2.HealthCheckRequest]) -> Message:
            reply: Message = await self._health.Check(await call.brief(), call.context)
            return reply

        async def watch(call: Incoming[health_pb2.HealthCheckRequest]) -> None:
            with watches.one(call.connection):
                await self._health.Watch(await call.brief(), call)

        rpcs = [
            Rpc(name="Check", request=request, handle=check, kind="health"),
            Rpc(name="Watch", request=request, handle=watch, streams=True, kind="health"),
        ]
        self.add(health.SERVICE_NAME, rpcs)

    def _add_reflection(self, services: Sequence[str]) -> None:
        streams, servicer = Streams("reflection"), reflection.aio.ReflectionServicer(services)

        async def info(call: Incoming[reflection_pb2.ServerReflectionRequest]) -> None:
            with streams.one(call.connection):
                async for reply in servicer.ServerReflectionInfo(call.briefs(), call.context):
                    await call.write(reply)

        request = reflection_pb2.ServerReflectionRequest
        rpc = Rpc(name="ServerReflectionInfo", request=request, handle=info, streams=True, kind="reflection")
        self.add(reflection.SERVICE_NAME, [rpc])

    async def _report(self, status: int) -> None:
        for service in self._services:
            await self._health.set(service, status)
