"""A server of another release answers with what cannot be parsed: the caller is told so, in one line."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from dtufc.client import AsyncEdgeClient, EdgeClient
from dtufc.errors import DtufcError, Rejected
from dtufc.serving.transport import channel
from dtufc.v1 import head_pb2
from dtufc_edge.cloud import Cloud

GARBAGE = b"\xff\xff"


class Nonsense(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Every method of our services."""

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        if not details.method.startswith("/dtufc."):  # of health, it has none
            return None

        async def answers(_: Any, __: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
            yield GARBAGE

        return grpc.stream_stream_rpc_method_handler(answers)


@asynccontextmanager
async def nonsense() -> AsyncIterator[str]:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Nonsense(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


def on(body: Callable[[str], Awaitable[None]]) -> None:
    async def run() -> None:
        async with nonsense() as address:
            await body(address)

    asyncio.run(run())


def test_an_asyncio_client_is_told() -> None:
    async def body(address: str) -> None:
        async with AsyncEdgeClient(address, timeout_s=20) as client:
            with pytest.raises(Rejected, match="its answer cannot be read"):
                await client.models()
            with pytest.raises(Rejected, match="its answer cannot be read"):
                await anext(client.complete("a"))

    on(body)


def test_a_blocking_client_is_told() -> None:
    def ask(address: str) -> None:
        with EdgeClient(address, timeout_s=20) as client, pytest.raises(DtufcError):
            client.models()

    on(lambda address: asyncio.to_thread(ask, address))


def test_an_edge_takes_it_for_a_cloud_of_another_release() -> None:
    async def body(address: str) -> None:
        async with channel(address) as to_cloud:
            cloud = Cloud(to_cloud, address, {"a": b"\0" * 32})
            with pytest.raises(Rejected, match="its answer cannot be read"):
                await cloud.run(head_pb2.RunRequest(profile="a"), 20)

    on(body)
