"""A call that a broken connection took along goes to another cloud, and its client notices nothing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from dtufc.errors import Unavailable
from dtufc.serving.transport import Server, channel
from dtufc.v1 import head_pb2, head_pb2_grpc
from dtufc_edge.cloud import PURE, Cloud
from tests.serving.test_cloud import OURS, Head

LARGE = bytes(40 << 20)


class Slow(Head):
    """A cloud that answers when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.has_one, self.goes_on = asyncio.Event(), asyncio.Event()

    async def Run(self, message: head_pb2.RunRequest, context: object) -> head_pb2.RunReply:  # noqa: N802
        self.has_one.set()
        await self.goes_on.wait()
        return await super().Run(message, context)


@asynccontextmanager
async def two() -> AsyncIterator[tuple[Cloud, dict[Slow, Server]]]:
    heads: dict[Slow, Server] = {}
    ports = []
    for head in (Slow(), Slow()):
        heads[head] = Server("127.0.0.1:0")
        head_pb2_grpc.add_HeadServiceServicer_to_server(head, heads[head].grpc)  # type: ignore[no-untyped-call]
        ports.append(heads[head].bind())
        await heads[head].start([])
    address = f"ipv4:{','.join(ports)}"
    try:
        async with channel(address, retried=PURE) as to_clouds:
            yield Cloud(to_clouds, address, {"p": OURS}), heads
    finally:
        for server in heads.values():
            await server.stop(0)


async def first(heads: dict[Slow, Server]) -> tuple[Slow, Slow]:
    """The cloud that got a call, and the other."""
    asked = {asyncio.create_task(head.has_one.wait()): head for head in heads}
    done, waiting = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()
    has_it = asked[done.pop()]
    return has_it, next(head for head in heads if head is not has_it)


@pytest.mark.parametrize("frame", [b"a frame", LARGE], ids=["small", "40 MiB"])
def test_a_call_goes_on_at_another_cloud_where_its_own_is_killed(frame: bytes) -> None:
    async def scene() -> None:
        async with two() as (cloud, heads):
            call = asyncio.create_task(cloud.run(head_pb2.RunRequest(profile="p", frame=frame), 30))
            lost, other = await first(heads)
            other.goes_on.set()
            await heads[lost].grpc.stop(None)
            await call
            assert (lost.received, other.received) == (0, len(frame))

    asyncio.run(scene())


def test_a_cloud_that_drains_loses_no_call() -> None:
    async def scene() -> None:
        async with two() as (cloud, heads):
            for head in heads:
                head.goes_on.set()
            request = head_pb2.RunRequest(profile="p", frame=b"a frame")
            await cloud.run(request, 30)
            drains = asyncio.create_task(next(iter(heads.values())).stop(5))
            count = 0
            while not drains.done() or count < 200:
                await cloud.run(request, 30)
                count += 1

    asyncio.run(scene())


def test_no_cloud_at_all_is_told_after_two_seconds_and_not_at_the_deadline() -> None:
    async def scene() -> None:
        async with two() as (cloud, heads):
            for head in heads:
                head.goes_on.set()
            await cloud.run(head_pb2.RunRequest(profile="p"), 30)
            for server in heads.values():
                await server.grpc.stop(None)
            start = asyncio.get_running_loop().time()
            with pytest.raises(Unavailable, match=r"after \d\.\d s"):
                await cloud.run(head_pb2.RunRequest(profile="p"), 30)
            assert asyncio.get_running_loop().time() - start < 15

    asyncio.run(scene())
