"""The border of a gRPC service: calls as they come, whose messages are read and parsed here, when they are wanted.

gRPC would read the message of a unary call before anybody is asked, and answer one that cannot be parsed with the name
of an exception. So every method is registered as one that takes a stream, which is the same on the wire. What is not
read yet stays with its sender, held back by HTTP/2, but for the window of its stream.
"""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Any, Final, Generic, TypeVar
from urllib.parse import unquote

import grpc
from google.protobuf.message import DecodeError, Message

from dtufc.errors import DtufcError, InputError, TooManyStreams
from dtufc.serving.limits import MAX_BRIEF_READS, MAX_STREAMS_OF_KIND, MAX_STREAMS_OF_KIND_EACH
from dtufc.serving.status import grpc_status
from dtufc.serving.turns import CALLER, Places

_BRIEF_S: Final = 5.0  # that the message of a call without a place may take
_IDLE_S: Final = 60.0  # between two messages of a stream without a place
_IPV6: Final = re.compile(r"[0-9a-fA-F:.]+:[0-9a-fA-F:.]*(%.*)?")
M = TypeVar("M", bound=Message)
Rejected = Callable[[str, str], None]  # takes what was rejected, and the code of the error


class Incoming(Generic[M]):
    """One call.

    Attributes:
        context: gRPC's own.
        connection: that it came on.
        num_bytes: of the message that was read last.
    """

    def __init__(self, context: grpc.aio.ServicerContext, kind: type[M], brief_reads: "BriefReads") -> None:
        self.context = context
        self.connection: str = context.peer()
        self.num_bytes = 0
        self._kind, self._brief_reads = kind, brief_reads

    @property
    def timeout_s(self) -> float | None:
        """What is left until the caller's deadline, if it has one."""
        remaining_s: float | None = self.context.time_remaining()
        return remaining_s

    async def read(self) -> M | None:
        """The next message; None behind the last. Raises InputError for one that cannot be parsed."""
        received = await self.context.read()
        if received is grpc.aio.EOF:
            return None
        self.num_bytes = len(received)
        try:
            return self._kind.FromString(received)
        except DecodeError as error:
            name = self._kind.DESCRIPTOR.full_name
            problem = f"{len(received)} bytes are no {name}: {' '.join(str(error).split())}"
            remedy = "Send the message of this method as its .proto file has it, with texts in UTF-8"
            raise InputError(field="request", problem=problem, remedy=remedy) from error

    async def first(self) -> M:
        """The message that a call begins with. Raises InputError where there is none."""
        message = await self.read()
        if message is None:
            await self.context.read()  # where the call is over, this says so
            raise InputError(field="request", problem="there is no message", remedy="Send one")
        return message

    async def only(self) -> M:
        """The message of a call that has one. Raises InputError where there is none, or there are several."""
        message = await self.first()
        if await self.context.read() is not grpc.aio.EOF:
            raise InputError(field="request", problem="there are several messages", remedy="Send one")
        return message

    async def brief(self) -> M:
        """`only`, for a call that takes no place: its message has to come with it, or soon."""
        async with self._brief_reads.one(_BRIEF_S):
            return await self.only()

    async def briefs(self) -> AsyncIterator[M]:
        """The messages of a stream that takes no place."""
        while True:
            async with self._brief_reads.one(_IDLE_S):
                message = await self.read()
            if message is None:
                return
            yield message

    async def write(self, reply: Message) -> None:
        """Sends one of several replies."""
        await self.context.write(reply.SerializeToString())


@dataclass(frozen=True, slots=True, kw_only=True)
class Rpc(Generic[M]):
    """One method of a service.

    Attributes:
        name: of the method.
        request: the message that it takes.
        handle: answers a call: it returns the reply, or writes several and returns None.
        streams: whether there are several replies.
        kind: what the call is, for the count of rejections; empty where its requests are counted with all others.
    """

    name: str
    request: type[M]
    handle: Callable[[Incoming[M]], Awaitable[Message | None]]
    streams: bool = False
    kind: str = ""


class Border:
    """The border of one server."""

    def __init__(self, rejected: Rejected) -> None:
        """
        Args:
            rejected: takes the kind of a call that fails and that nobody else counts, and the error's code.
        """
        self._rejected = rejected
        self._brief_reads = BriefReads(MAX_BRIEF_READS)

    def handlers(self, service: str, rpcs: Sequence[Rpc[Any]]) -> grpc.GenericRpcHandler:
        """A service as gRPC takes it."""
        return grpc.method_handlers_generic_handler(service, {rpc.name: self._handler(rpc) for rpc in rpcs})

    def unknown(self) -> grpc.GenericRpcHandler:
        """Counts the calls of methods that are not here; to be added last."""
        rejected = self._rejected

        class Unknown(grpc.GenericRpcHandler):
            def service(self, _: grpc.HandlerCallDetails) -> None:
                rejected("unknown", grpc.StatusCode.UNIMPLEMENTED.name)

        return Unknown()

    def _handler(self, rpc: Rpc[M]) -> grpc.RpcMethodHandler:
        async def serve(_: object, context: grpc.aio.ServicerContext) -> bytes | None:
            async with grpc_status(context):
                CALLER.set(client_of(context.peer()))
                with self._counted(rpc.kind):
                    reply = await rpc.handle(Incoming(context, rpc.request, self._brief_reads))
                return None if reply is None else reply.SerializeToString()
            raise AssertionError("a call that fails is aborted")

        handler = grpc.stream_stream_rpc_method_handler if rpc.streams else grpc.stream_unary_rpc_method_handler
        return handler(serve)

    @contextmanager
    def _counted(self, kind: str) -> Iterator[None]:
        try:
            yield
        except DtufcError as error:
            if kind:
                self._rejected(kind, error.code)
            raise


class BriefReads:
    """Waits for messages of calls that take no place. Anybody may begin one: if there are too many, the oldest ends."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: list[asyncio.Timeout] = []

    @asynccontextmanager
    async def one(self, longest_s: float) -> AsyncIterator[None]:
        """Raises InputError where no message has come in time."""
        if len(self._open) >= self._most:
            self._open.pop(0).reschedule(0)
        try:
            async with asyncio.timeout(longest_s) as timeout:
                self._open.append(timeout)
                try:
                    yield
                finally:
                    if timeout in self._open:
                        self._open.remove(timeout)
        except TimeoutError as error:
            problem, remedy = "no message came in time", "Send it with the call"
            raise InputError(field="request", problem=problem, remedy=remedy) from error


class Streams:
    """The open streams of one kind that take no place: so many on a connection, and so many in all."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._places = Places(MAX_STREAMS_OF_KIND)
        self._open: Counter[str] = Counter()  # by connection

    @contextmanager
    def one(self, connection: str) -> Iterator[None]:
        """Raises TooManyStreams or Overloaded where no more may be opened."""
        if self._open[connection] >= MAX_STREAMS_OF_KIND_EACH:
            raise TooManyStreams(limit=MAX_STREAMS_OF_KIND_EACH, kind=self._kind)
        with self._places.hold():
            self._open[connection] += 1
            try:
                yield
            finally:
                self._open[connection] -= 1
                self._open += Counter()  # forgets those that have none


def client_of(peer: str) -> str:
    """The client at the other end of a connection, as gRPC names it: `ipv4:127.0.0.1:50051`."""
    address = unquote(peer).partition(":")[2]
    return client_of_host(address.rpartition(":")[0].strip("[]") or peer)


def client_of_host(host: str) -> str:
    """A host's name as a client: its address, or the network of 64 bits of an IPv6 address, which is one customer's."""
    if not _IPV6.fullmatch(host):
        return host
    address = IPv6Address(host.partition("%")[0])  # without the interface
    return str(address.ipv4_mapped or ":".join(address.exploded.split(":")[:4]))
