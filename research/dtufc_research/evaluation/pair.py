"""Edge and cloud as processes on 127.0.0.1, a slow way between them, and completions with the time of every token.

client -> edge -> (forwarder) -> cloud, or one of several
"""

import asyncio
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dtufc.serving.transport import blocking_channel
from dtufc.v1 import inference_pb2, inference_pb2_grpc
from dtufc_research.evaluation.process import Service

TIMEOUT_S: Final = 300.0  # of one completion
_POLL_S: Final = 0.05
_MAX_NEW_TOKENS: Final = 1024


class Forwarder:
    """A TCP port before another: all that passes takes half a round trip, however much it is.

    Attributes:
        address: of the port.
        round_trip_s: may be changed at any time.
        num_bytes: that have passed, both ways.
        alter: is given what goes to the target, and returns what is sent instead. A ConnectionError cuts the
            connection. May be changed at any time.
        reads_back: whether what the target sends is read. May be changed at any time.
    """

    def __init__(self, target: str) -> None:
        self._host, _, self._port = target.rpartition(":")
        self.round_trip_s = 0.0
        self.num_bytes = 0
        self.alter: Callable[[bytes], bytes] = bytes
        self.reads_back = True
        started: Future[str] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(started)))
        self._thread.start()
        self.address = started.result()

    def close(self) -> None:
        """Cuts all connections."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def _serve(self, started: "Future[str]") -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        started.set_result("{}:{}".format(*server.sockets[0].getsockname()))
        await self._stop.wait()
        server.close()

    async def _connected(self, near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        try:
            far, forth = await asyncio.open_connection(self._host, int(self._port))
        except ConnectionError:  # as if nobody listened here either
            back.close()
            return
        try:
            await asyncio.gather(self._pass(near, forth, is_back=False), self._pass(far, back, is_back=True))
        except (asyncio.CancelledError, ConnectionError):  # by `close`, or by `alter`
            back.transport.abort()
            forth.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_back: bool) -> None:
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        sending = asyncio.create_task(self._send(queue, writer))
        try:
            while True:
                while is_back and not self.reads_back:
                    await asyncio.sleep(_POLL_S)
                try:
                    data = await reader.read(1 << 16)
                except ConnectionError:
                    data = b""
                self.num_bytes += len(data)
                if data and not is_back:
                    data = self.alter(data)
                queue.put_nowait((time.monotonic() + self.round_trip_s / 2, data))
                if not data:
                    break
            await sending
        finally:
            sending.cancel()

    async def _send(self, queue: "asyncio.Queue[tuple[float, bytes]]", writer: asyncio.StreamWriter) -> None:
        """What the queue holds, each at its time, up to an empty part."""
        with suppress(ConnectionError):
            while True:
                due, data = await queue.get()
                await asyncio.sleep(due - time.monotonic())
                if not data:
                    break
                writer.write(data)
                await writer.drain()
        writer.close()


@dataclass(frozen=True, slots=True)
class Completion:
    """A reply.

    Attributes:
        ids: of its tokens, without one that ended it.
        times_s: when each came, since the request.
        seconds: of the whole.
        last: the message with cost and counts.
    """

    ids: list[int]
    times_s: list[float]
    seconds: float
    last: inference_pb2.CompleteReply

    @property
    def gaps_s(self) -> list[float]:
        """Between a token and the one before it."""
        return [later - earlier for earlier, later in zip(self.times_s, self.times_s[1:], strict=False)]

    @property
    def stages(self) -> dict[str, float]:
        """Seconds of each, by name."""
        return {stage.name: stage.seconds for stage in self.last.cost.stages}


class Pair:
    """An edge before one cloud or several, and a client.

    Attributes:
        clouds: the processes.
        forwarder: on the way to the cloud, if it was asked for.
        address: of the edge.
    """

    def __init__(self, edge: Service, clouds: list[Service], forwarder: Forwarder | None) -> None:
        self.clouds, self.forwarder, self.address = clouds, forwarder, edge.address
        self._channel = blocking_channel(edge.address)
        self._stub = inference_pb2_grpc.InferenceServiceStub(self._channel)

    def close(self) -> None:
        """Of the client."""
        self._channel.close()

    @contextmanager
    def stream(self, request: inference_pb2.CompleteRequest) -> Iterator[Iterator[inference_pb2.CompleteReply]]:
        """The replies as they come; leaving ends the call. Raises grpc.RpcError."""
        replies = self._stub.Complete(request, timeout=TIMEOUT_S)
        try:
            yield replies
        finally:
            replies.cancel()

    def complete(
        self, request: inference_pb2.CompleteRequest, on_token: Callable[[int], None] = lambda count: None
    ) -> Completion:
        """A whole reply. Raises grpc.RpcError.

        Args:
            request: as clients send it.
            on_token: is told how many tokens have come.
        """
        ids, times_s = list[int](), list[float]()
        last = inference_pb2.CompleteReply()
        start = time.monotonic()
        with self.stream(request) as replies:
            for last in replies:
                if last.HasField("token"):
                    ids.append(last.token.token_id)
                    times_s.append(time.monotonic() - start)
                    on_token(len(ids))
        return Completion(ids, times_s, time.monotonic() - start, last)


@contextmanager
def pair(profile: str, *, num_clouds: int = 1, forwards: bool = False) -> Iterator[Pair]:
    """Starts the processes with default settings but for the longest reply, and kills them at the end.

    Args:
        profile: a name, or a profile's folder.
        num_clouds: behind the one edge.
        forwards: whether a forwarder is on the way to the (first) cloud.
    """
    with ExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory()))

        def service(side: str, **flags: str) -> Service:
            started = Service(side, {"profiles": profile, **flags}, logs)
            stack.callback(started.kill)
            return started

        clouds = [service("cloud") for _ in range(num_clouds)]
        forwarder = Forwarder(clouds[0].address) if forwards else None
        if forwarder:
            stack.callback(forwarder.close)
        addresses = [forwarder.address] if forwarder else [cloud.address for cloud in clouds]
        target = addresses[0] if len(addresses) == 1 else f"ipv4:{','.join(addresses)}"
        edge = service("edge", cloud=target, **{"max-new-tokens": str(_MAX_NEW_TOKENS)})
        for each in (*clouds, edge):
            each.wait()
        client = Pair(edge, clouds, forwarder)
        stack.callback(client.close)
        yield client
