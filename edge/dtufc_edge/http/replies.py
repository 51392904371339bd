"""The replies to several requests at a time, and a client that goes away meanwhile."""

import asyncio
from collections.abc import Coroutine, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from fastapi import Request
from google.protobuf.message import Message

from dtufc.errors import DtufcError
from dtufc.v1 import inference_pb2
from dtufc_edge.service import InferenceService

T = TypeVar("T")
Reply = tuple[int, inference_pb2.CompleteReply]


class ClientGone(Exception):
    """Nobody waits for the response any more."""


class Replies:
    """The replies to several requests, in the order in which they come. `close` ends the work.

    Each request is read in a task of its own, whose end does not depend on who reads here.
    """

    def __init__(self, service: InferenceService, requests: Sequence[inference_pb2.CompleteRequest]) -> None:
        self._service = service
        # Without a limit: a reply has at most so many tokens.
        self._queue: asyncio.Queue[tuple[int, inference_pb2.CompleteReply | None] | Exception] = asyncio.Queue()
        self._running = len(requests)
        self._readers = [asyncio.create_task(self._read(index, request)) for index, request in enumerate(requests)]

    async def next(self) -> Reply | None:
        """The next reply, with its request's index; None after the last.

        Raises:
            DtufcError: what a request ended with.
        """
        while self._running:
            item = await self._queue.get()
            if isinstance(item, Exception):
                raise item
            index, reply = item
            if reply is not None:
                return index, reply
            self._running -= 1
        return None

    def close(self, error: DtufcError | None = None) -> None:
        """Ends the work. Who still reads meets this error after the replies that have come."""
        if error is not None:
            self._queue.put_nowait(error)
        for reader in self._readers:
            reader.cancel()

    async def _read(self, index: int, request: Message) -> None:
        try:
            async with aclosing(self._service.replies("complete", request, None)) as replies:
                async for reply in replies:
                    assert isinstance(reply, inference_pb2.CompleteReply)
                    self._queue.put_nowait((index, reply))
            self._queue.put_nowait((index, None))
        except Exception as error:  # for who reads
            self._queue.put_nowait(error)


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of work, which is cancelled where the client closes the connection.

    Raises:
        ClientGone: it did.
    """
    working, gone = asyncio.create_task(work), asyncio.create_task(_gone(request))
    try:
        await asyncio.wait([working, gone], return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        working.cancel()
        gone.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
