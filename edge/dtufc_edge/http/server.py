"""The HTTP server's life: it answers before models are loaded, takes new certificates, and drains as gRPC does."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator

import uvicorn

from dtufc.errors import InputError
from dtufc.serving.given import address_of, listen_address
from dtufc.serving.telemetry import Telemetry
from dtufc_edge.http.app import Endpoints, stopping
from dtufc_edge.service import InferenceService
from dtufc_edge.settings import EdgeSettings

_POLL_S = 0.01
_LAST_RESPONSES_S = 1  # for clients that do not read what they are sent


class _Uvicorn(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The edge handles signals itself."""
        yield


class HttpServer:
    """OpenAI's interface to one edge, with the TLS of its gRPC address.

    Attributes:
        address: where it is served.
    """

    def __init__(self, settings: EdgeSettings) -> None:
        self._settings = settings
        host, port = listen_address(str(settings.http_listen), "http_listen")
        self._socket = _bound(host, port)
        self.address = address_of(host, self._socket.getsockname()[1])
        self._context = self.read_certificates()

    async def start(self, service: InferenceService, telemetry: Telemetry) -> None:
        """Starts to answer, with the service's work and the edge's metrics."""
        settings = self._settings.model_copy(update={"http_listen": self.address})
        self._endpoints = Endpoints(service, telemetry, settings)
        config = uvicorn.Config(
            self._endpoints.app(),
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=_LAST_RESPONSES_S,
            ssl_context_factory=None if self._context is None else lambda _, __: self._first_context(),
        )
        self._server = _Uvicorn(config)
        self._serving = asyncio.create_task(self._server.serve([self._socket]))
        while not self._server.started:
            await asyncio.sleep(_POLL_S)
            if self._serving.done():
                self._serving.result()

    def read_certificates(self) -> ssl.SSLContext | None:
        """The certificates as their files are now; None without TLS. Raises InputError where they are none."""
        tls = self._settings.server_tls
        return None if tls is None else tls.server_context()

    def use(self, certificates: ssl.SSLContext | None) -> None:
        """From now on, for new connections."""
        self._context = certificates

    def _first_context(self) -> ssl.SSLContext:
        """What uvicorn keeps; each connection, whether it names a host or not, gets the latest instead."""

        def latest(connection: ssl.SSLObject, *_: object) -> None:
            assert self._context is not None
            connection.context = self._context

        assert self._context is not None
        self._context.sni_callback = latest
        return self._context

    async def stop(self, drain_s: float) -> None:
        """Rejects new requests, gives those that run their time, ends the rest with an error, and stops."""
        self._endpoints.draining = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(drain_s):
                while self._endpoints.active:
                    await asyncio.sleep(_POLL_S)
        for replies in self._endpoints.active:
            replies.close(stopping(self.address))
        self._server.should_exit = True
        await self._serving


def _bound(host: str, port: int) -> socket.socket:
    """A socket that has taken the address. Raises InputError where it is not free, or none of this machine."""
    try:
        family, kind, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(place)
    except OSError as error:
        problem = f"cannot bind {address_of(host, port)}: {error.strerror}"
        raise InputError(field="http_listen", problem=problem, remedy="Choose a free address") from error
    return bound
