"""Peak memory of a server that 64 calls of 60 MiB reach at a time: `python -m tests.serving.memory_of_calls`.

Once with methods as the border registers them, and once with gRPC's own unary ones.
"""

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import grpc
from google.protobuf.message import Message

from dtufc.serving.border import Incoming, Rpc
from dtufc.serving.calls import Calls
from dtufc.serving.telemetry import Telemetry
from dtufc.serving.transport import Server, channel
from dtufc.serving.worker import Worker
from dtufc.v1 import head_pb2

NUM_CALLS, NUM_BYTES, SECONDS = 64, 60 << 20, 8
METHODS = ("/test.Border/Run", "/test.Unary/Run")


async def serve() -> None:
    """A server with both methods, whose address it prints."""
    worker = Worker(threads=1, queue_limit=NUM_CALLS)
    server = Server("127.0.0.1:0")
    address = server.bind()
    calls = Calls(worker, Telemetry("cloud"), service="", address=address, timeout_s=60)

    async def run(call: Incoming[head_pb2.RunRequest]) -> Message:
        async with calls.admit("run", call.timeout_s), calls.received(call):
            await worker.run(time.sleep, 0.2)
            return head_pb2.RunReply()
        raise AssertionError

    async def unary(message: head_pb2.RunRequest, _: object) -> bytes:
        with worker.places.hold():
            await worker.run(time.sleep, 0.2)
            return message.profile.encode()

    server.add("test.Border", [Rpc(name="Run", request=head_pb2.RunRequest, handle=run)])
    handler = grpc.unary_unary_rpc_method_handler(unary, request_deserializer=head_pb2.RunRequest.FromString)
    server.grpc.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Unary", {"Run": handler}),))
    await server.start([])
    print(address, flush=True)
    await asyncio.Event().wait()


async def flood(address: str, method: str) -> None:
    message = head_pb2.RunRequest(frame=bytes(NUM_BYTES)).SerializeToString()
    async with channel(address) as to_server:
        calls = [to_server.unary_unary(method)(message) for _ in range(NUM_CALLS)]
        await asyncio.sleep(SECONDS)
        for call in calls:
            call.cancel()


def peak_mib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) >> 10


if __name__ == "__main__":
    if "serve" in sys.argv:
        asyncio.run(serve())
    for method in METHODS:
        command = [sys.executable, "-m", "tests.serving.memory_of_calls", "serve"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            at = process.stdout.readline().strip()
            before = peak_mib(process.pid)
            asyncio.run(flood(at, method))
            print(f"{method}: {before} MiB at the start, {peak_mib(process.pid)} MiB at the peak")
            process.kill()
