"""The edge's way to the cloud: compares profiles when the two meet, and turns a failed call into our own error."""

import asyncio
import logging
import secrets
import time
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from typing import Any, Final, Protocol

import grpc

from dtufc.errors import BitstreamError, DeadlineExceeded, DtufcError, Internal, ProfileMismatch, Unavailable
from dtufc.serving.limits import SESSION_ID_BYTES
from dtufc.serving.status import error_info, error_of, readable
from dtufc.v1 import head_pb2, head_pb2_grpc

_PEER: Final = "the cloud"
_CLOSE_S: Final = 5.0  # for a cloud to hear that a session ends
_SESSION_KEY: Final = "dtufc-session"
_SERVICE: Final = head_pb2.DESCRIPTOR.services_by_name["HeadService"].full_name
PURE: Final = [{"service": _SERVICE, "method": name} for name in ("Run", "Describe")]
"""The calls that a channel to a cloud may make twice. Sessions are opened again instead, with all that was sent."""
_log = logging.getLogger(__name__)


class Cloud:
    """One cloud at one address."""

    def __init__(
        self, channel: grpc.aio.Channel, address: str, digests: Mapping[str, bytes], *, unary: bool = False
    ) -> None:
        """
        Args:
            channel: to the cloud.
            address: as errors name it.
            digests: of the profiles that this edge serves.
            unary: whether sessions are calls of `Step`, instead of a stream.
        """
        self._unary = unary
        self._channel = channel  # is closed with the last call that holds this
        self._stub = head_pb2_grpc.HeadServiceStub(channel)
        self.address = address
        self._digests = digests
        self._theirs: dict[str, bytes] | None = None  # None: not met yet, or lost since
        self._ending: set[asyncio.Task[None]] = set()  # sessions that a cloud is told of; nobody waits for them

    async def close(self) -> None:
        """Waits until the cloud has heard of the sessions that have ended."""
        await asyncio.gather(*self._ending)

    def in_background(self, work: Coroutine[Any, Any, None]) -> None:
        """Does something that nobody waits for but `close`."""
        task = asyncio.create_task(work)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def run(self, request: head_pb2.RunRequest, timeout_s: float) -> head_pb2.RunReply:
        """One frame and task to the head's result. A cloud that is lost meanwhile is replaced by another (`channel`).

        Raises:
            Unavailable: no cloud can be reached; it says for how long it was tried.
            DeadlineExceeded: it did not answer in time.
            DtufcError: whatever the cloud raised.
        """
        start = time.monotonic()
        try:
            await self._meet(request.profile, timeout_s)
            reply = await self._stub.Run(request, timeout=max(0.0, start + timeout_s - time.monotonic()))
            return readable(reply, _PEER, self.address)
        except grpc.aio.AioRpcError as error:
            translated = self.translated(error, timeout_s)
            if isinstance(translated, Unavailable):
                problem = f"{translated.context['problem']}, after {time.monotonic() - start:.1f} s"
                raise Unavailable(**{**translated.context, "problem": problem}) from error
            raise translated from error

    async def open(self, profile: str, timeout_s: float) -> "Link":
        """The way of one session to a cloud, before its first message.

        Raises:
            DtufcError: as `run` does.
        """
        try:
            await self._meet(profile, timeout_s)
        except grpc.aio.AioRpcError as error:
            raise self.translated(error, timeout_s) from error
        return StepCalls(self, self._stub) if self._unary else Stream(self, self._stub)

    async def _meet(self, profile: str, timeout_s: float) -> None:
        if self._theirs is None:
            reply = await self._stub.Describe(head_pb2.DescribeRequest(), timeout=timeout_s)
            described = readable(reply, _PEER, self.address)
            self._theirs = {info.name: info.digest for info in described.profiles}
        theirs = self._theirs.get(profile)
        if theirs != self._digests[profile]:
            self._theirs = None  # ask again next time: the cloud may have been corrected
            found = "not served" if theirs is None else theirs.hex()[:16]
            raise ProfileMismatch(profile=profile, expected=self._digests[profile].hex()[:16], found=found)

    def translated(self, error: grpc.aio.AioRpcError, timeout_s: float) -> DtufcError:
        """The error of ours that a failed call amounts to."""
        translated = error_of(error, _PEER, self.address, round(timeout_s, 3))
        if isinstance(translated, Unavailable | ProfileMismatch):
            self._theirs = None  # it may come back as another: compare before the next frame is sent
        if isinstance(translated, BitstreamError):
            # The client sent no frame: between here and there one was broken, or one of the two is.
            _log.error("the cloud at %s rejected a frame: %s", self.address, translated)
            return Internal()
        return translated


class Link(Protocol):
    """The way of one session: a message goes, a reply comes back."""

    async def exchange(self, request: head_pb2.GenerateRequest, timeout_s: float) -> head_pb2.GenerateReply:
        """Raises DtufcError where the cloud does, or is lost."""

    def close(self) -> None:
        """Ends the session: what the cloud holds of it is free soon. Nobody waits for that."""


class Stream:
    """A session that is one call of `Generate`."""

    def __init__(self, cloud: Cloud, stub: head_pb2_grpc.HeadServiceStub) -> None:
        self._cloud = cloud
        self._call = stub.Generate()

    async def exchange(self, request: head_pb2.GenerateRequest, timeout_s: float) -> head_pb2.GenerateReply:
        try:
            async with asyncio.timeout(timeout_s):
                await self._call.write(request)
                reply = await self._call.read()
                if reply is not grpc.aio.EOF:
                    return readable(reply, _PEER, self._cloud.address)
        except TimeoutError as error:
            raise DeadlineExceeded(peer=_PEER, address=self._cloud.address, timeout_s=round(timeout_s, 3)) from error
        except grpc.aio.AioRpcError as error:
            if error.code() == grpc.StatusCode.INTERNAL and error_info(error) is None:
                # Not the cloud's own word: gRPC says so of a stream that ends while it is written to.
                problem = str(error.details())
                raise Unavailable(peer=_PEER, address=self._cloud.address, problem=problem) from error
            raise self._cloud.translated(error, timeout_s) from error
        except asyncio.InvalidStateError:  # it ended before this message
            pass
        call = self._call
        code, details = await call.code(), await call.details()
        if code == grpc.StatusCode.OK:
            raise Unavailable(peer=_PEER, address=self._cloud.address, problem="it ended the session")
        metadata = await call.initial_metadata(), await call.trailing_metadata()
        raise self._cloud.translated(grpc.aio.AioRpcError(code, *metadata, details), timeout_s)

    def close(self) -> None:
        self._cloud.in_background(self._end())

    async def _end(self) -> None:
        try:
            async with asyncio.timeout(_CLOSE_S):
                await self._call.done_writing()
                await self._call.code()
        except (TimeoutError, asyncio.InvalidStateError, grpc.aio.AioRpcError):
            self._call.cancel()


class StepCalls:
    """A session that is a call of `Step` for each message, which whatever routes them may tell by their metadata."""

    def __init__(self, cloud: Cloud, stub: head_pb2_grpc.HeadServiceStub) -> None:
        self._cloud, self._stub = cloud, stub
        self._id = secrets.token_bytes(SESSION_ID_BYTES)
        self._metadata = ((_SESSION_KEY, self._id.hex()),)

    async def exchange(self, request: head_pb2.GenerateRequest, timeout_s: float) -> head_pb2.GenerateReply:
        request.session_id = self._id
        try:
            reply = await self._stub.Step(request, timeout=timeout_s, metadata=self._metadata)
            return readable(reply, _PEER, self._cloud.address)
        except grpc.aio.AioRpcError as error:
            raise self._cloud.translated(error, timeout_s) from error

    def close(self) -> None:
        self._cloud.in_background(self._end())

    async def _end(self) -> None:
        with suppress(grpc.aio.AioRpcError):  # it is lost already, or ends when it is idle
            request = head_pb2.GenerateRequest(session_id=self._id, close=True)
            await self._stub.Step(request, timeout=_CLOSE_S, metadata=self._metadata)
