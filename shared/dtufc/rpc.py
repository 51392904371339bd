"""gRPC as both sides use it: servers and channels with the same limits, errors that keep their meaning.

Hides channel options, TLS, health and reflection, the bounded executor, and the one table that turns an error into
a status and back.
"""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from dtufc import errors
from dtufc.feature_codec import FeatureCodec
from dtufc.v1 import head_pb2

MAX_MESSAGE_BYTES = 64 << 20
MOST_LABELS = 100  # of one classified image
MOST_LATENT_POSITIONS = 1 << 14  # of one drawn picture: 1024 x 1024 pixels of a Stable Diffusion
MAX_CALLS = 256  # at a time, the queued ones counted: a bound on the memory of messages
# How long one attempt to connect may take, and the pause before the next: who does not answer is Unavailable soon.
# A server that comes back under another address is looked up as soon.
_RECONNECT = [
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.dns_min_time_between_resolutions_ms", 1000),
]
_IN_TURN = ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}')
# Connections end, without harm to calls, so that a caller looks up anew which servers there are.
_RENEWED = ("grpc.max_connection_age_ms", 30_000)
_DOMAIN = "dtufc"
_DETAILS_KEY = "grpc-status-details-bin"
_log = logging.getLogger(__name__)
T = TypeVar("T")

_STATUS: dict[type[errors.DtufcError], grpc.StatusCode] = {
    errors.InputError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.BitstreamError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.ProfileMismatch: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Desync: grpc.StatusCode.DATA_LOSS,
    errors.Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.Internal: grpc.StatusCode.INTERNAL,
}


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
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise errors.InputError(field="tls", problem=str(error), remedy="Give a readable PEM file") from error


def _options(max_message_bytes: int) -> list[tuple[str, int]]:
    return [
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.so_reuseport", 0),
    ]


def channel(address: str, tls: Tls | None = None, max_message_bytes: int = MAX_MESSAGE_BYTES) -> grpc.aio.Channel:
    """A channel to `address`, encrypted where `tls` is given. Reconnects within a second of a loss.

    Where the address stands for several servers (a name with several records, or `ipv4:HOST:PORT,HOST:PORT`), the
    calls go to each that answers in turn.
    """
    options = [*_options(max_message_bytes), *_RECONNECT, _IN_TURN]
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
            options=[*_options(max_message_bytes), _RENEWED],
            compression=grpc.Compression.NoCompression,
            maximum_concurrent_rpcs=MAX_CALLS,
        )
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.grpc)
        self._services: list[str] = []
        self._address = address
        self._tls = tls

    async def start(self, services: Sequence[str]) -> str:
        """Binds, starts and reports SERVING. Returns the address it listens on.

        Raises:
            InputError: the address cannot be bound.
        """
        self._services = ["", *services]
        reflection.enable_server_reflection((*services, health.SERVICE_NAME, reflection.SERVICE_NAME), self.grpc)
        try:
            port = self._bind()
        except RuntimeError as error:
            field, remedy = "listen", "Choose a free address"
            if self._tls is not None:
                field, remedy = "listen, tls", "Choose a free address, and PEM files of a certificate and its key"
            problem = f"cannot bind {self._address}"
            raise errors.InputError(field=field, problem=problem, remedy=remedy) from error
        await self.grpc.start()
        await self._report(health_pb2.HealthCheckResponse.SERVING)
        return f"{self._address.rpartition(':')[0]}:{port}"

    async def serve_until_signal(self, drain_s: float) -> None:
        """Waits for SIGTERM or SIGINT, then reports NOT_SERVING, drains and stops."""
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)
        await stopping.wait()
        await self.stop(drain_s)

    async def stop(self, drain_s: float) -> None:
        await self._report(health_pb2.HealthCheckResponse.NOT_SERVING)
        await self.grpc.stop(drain_s)

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


class Worker:
    """Runs model and codec work off the event loop: few threads, and a bounded number of requests at a time."""

    def __init__(self, *, threads: int, queue_limit: int) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="dtufc")
        self.slots = threads + queue_limit
        self.admitted = 0

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Holds a place for one request with all its pieces of work. Raises Overloaded where all are taken."""
        if self.admitted >= self.slots:
            raise errors.Overloaded(limit=self.slots)
        self.admitted += 1
        try:
            yield
        finally:
            self.admitted -= 1

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """One piece of an admitted request's work. A cancelled caller's work leaves the queue."""
        return await asyncio.wrap_future(self._executor.submit(function, *args))

    def close(self) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)


def status_of(error: errors.DtufcError) -> grpc.StatusCode:
    """The gRPC code of an error: its own or its nearest ancestor's."""
    return next(code for cls in type(error).__mro__ for key, code in _STATUS.items() if cls is key)


async def abort(context: grpc.aio.ServicerContext, error: errors.DtufcError) -> NoReturn:
    """Ends the call with the error's status, message, and its code and context as ErrorInfo."""
    code = status_of(error)
    detail = any_pb2.Any()
    detail.Pack(error_details_pb2.ErrorInfo(reason=error.code, domain=_DOMAIN, metadata=error.context))
    status = status_pb2.Status(code=code.value[0], message=str(error), details=[detail])
    await context.abort(code, str(error), ((_DETAILS_KEY, status.SerializeToString()),))
    raise AssertionError("abort returned")


def error_of(
    error: grpc.Call | grpc.aio.AioRpcError, peer: str, address: str, timeout_s: float | None
) -> errors.DtufcError:
    """The error that the other side raised, or what a broken connection amounts to."""
    sent = _error_info(error)
    if sent is not None:
        return sent
    if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
        return errors.DeadlineExceeded(peer=peer, address=address, timeout_s=timeout_s)
    if error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED and "Concurrent RPC" in str(error.details()):
        return errors.Overloaded(limit=MAX_CALLS)
    if error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED:
        return errors.InputError(field="message", problem=str(error.details()), remedy="Send less in one message")
    return errors.Unavailable(peer=peer, address=address, problem=f"{error.code().name}: {error.details()}")


def _error_info(error: grpc.Call | grpc.aio.AioRpcError) -> errors.DtufcError | None:
    """The error of ours in a status's details; None where there is none, or none that can be understood."""
    for key, value in error.trailing_metadata() or ():
        if key != _DETAILS_KEY or not isinstance(value, bytes):
            continue
        try:
            details = status_pb2.Status.FromString(value).details
            infos = [error_details_pb2.ErrorInfo.FromString(detail.value) for detail in details]
            ours = [info for info in infos if info.domain == _DOMAIN and info.reason in errors.BY_CODE]
            return errors.BY_CODE[ours[0].reason](**dict(ours[0].metadata)) if ours else None
        except (DecodeError, KeyError, TypeError) as unreadable:
            _log.warning("status details cannot be read: %s", unreadable)
    return None


@asynccontextmanager
async def reporting(context: grpc.aio.ServicerContext) -> AsyncIterator[None]:
    """What the work of one call raises becomes a status; the unknown becomes INTERNAL and a logged trace."""
    try:
        yield
    except errors.DtufcError as error:
        await abort(context, error)
    except grpc.aio.AbortError:
        raise
    except Exception:  # the border: nothing of an unknown fault may reach the caller
        _log.exception("unexpected")
        await abort(context, errors.Internal())


def profile_info(codec: FeatureCodec) -> head_pb2.ProfileInfo:
    """A profile as a service describes it, and as the other side compares it."""
    profile = codec.profile
    return head_pb2.ProfileInfo(
        name=profile.name,
        model=profile.spec.model,
        split=profile.split,
        num_layers=profile.spec.num_layers,
        digest=profile.digest,
        codecs=codec.codecs,
        tasks=profile.spec.tasks,
    )
