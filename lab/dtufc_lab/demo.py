"""`make demo`: the pair as two processes, a plain gRPC client, and what everything cost.

Only the generated stubs talk to the edge: this is what a client in any language does.
"""

import io
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc
from PIL import Image
from rich.console import Console
from rich.table import Table

from dtufc.arrays import Array
from dtufc.errors import DtufcError
from dtufc.profile import load_profile, shipped_profiles
from dtufc.v1 import inference_pb2, inference_pb2_grpc
from dtufc.zoo import weights_folder

ROOT = Path(__file__).parents[2]
OUTPUT = Path("demo-output")
PROMPT = "What is the capital of France? Answer in one word."
QUESTION = "Water is made of hydrogen and which other element?"
CHOICES = ["gold", "oxygen", "helium", "iron"]
_START_S = 120.0
_STOP_S = 15.0
_CALL_S = 120.0
_STAGES = ("edge.backbone", "edge.encode", "cloud.decode", "cloud.head")


def main() -> int:
    console = Console(width=max(120, Console().width))
    try:
        for name in shipped_profiles():
            weights_folder(load_profile(name).spec)
    except DtufcError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    OUTPUT.mkdir(exist_ok=True)
    with ExitStack() as stack:
        console.print("starting cloud and edge as two processes ...")
        cloud, edge, cloud_metrics, edge_metrics = (f"127.0.0.1:{port}" for port in _free_ports(4))
        stack.enter_context(_service("dtufc_cloud", {"listen": cloud, "metrics-listen": cloud_metrics}))
        flags = {"listen": edge, "metrics-listen": edge_metrics, "cloud": cloud}
        stack.enter_context(_service("dtufc_edge", flags))
        for address in (cloud, edge):
            _wait_until_serving(address)
        channel = stack.enter_context(
            grpc.insecure_channel(edge, options=[("grpc.max_receive_message_length", 1 << 26)])
        )
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        table = _table()
        _show_text(stub, table, console)
        _show_photographs(stub, table)
    console.print(table)
    console.print(f"masks laid over the photographs: {OUTPUT}/*.png; both processes have stopped")
    return 0


def _show_text(stub: inference_pb2_grpc.InferenceServiceStub, table: Table, console: Console) -> None:
    raw, coded = (_complete(stub, codec) for codec in ("raw", "klt"))
    console.print(f"prompt: {PROMPT}\nreply:  {coded[0]}")
    same = np.mean([a == b for a, b in zip(raw[1], coded[1], strict=False)])
    _row(table, "complete", coded[2], f"{same:.0%} of {len(raw[1])} tokens")
    answers = [
        stub.Answer(
            inference_pb2.AnswerRequest(coding=inference_pb2.Coding(codec=codec), question=QUESTION, choices=CHOICES),
            timeout=_CALL_S,
        )
        for codec in ("raw", "klt")
    ]
    raw_answer, answer = answers
    agreement = "same letter" if raw_answer.letter == answer.letter else f"not the same: {raw_answer.letter}"
    drift = max(abs(a - b) for a, b in zip(raw_answer.probabilities, answer.probabilities, strict=True))
    odds = ", ".join(f"{choice} {p:.2f}" for choice, p in zip(CHOICES, answer.probabilities, strict=True))
    console.print(f"question: {QUESTION}\nanswer: {answer.letter} ({odds})")
    _row(table, "answer", answer.cost, f"{agreement}, p within {drift:.3f}")


def _complete(stub: inference_pb2_grpc.InferenceServiceStub, codec: str) -> tuple[str, list[int], inference_pb2.Cost]:
    request = inference_pb2.CompleteRequest(coding=inference_pb2.Coding(codec=codec), prompt=PROMPT, max_tokens=16)
    replies = list(stub.Complete(request, timeout=_CALL_S))
    text = "".join(reply.text for reply in replies)
    return text, [reply.token_id for reply in replies[:-1]], replies[-1].cost


def _show_photographs(stub: inference_pb2_grpc.InferenceServiceStub, table: Table) -> None:
    for path in sorted((ROOT / "samples").glob("*.jpg")):
        replies = {
            codec: stub.Segment(
                inference_pb2.SegmentRequest(coding=inference_pb2.Coding(codec=codec), image=path.read_bytes()),
                timeout=_CALL_S,
            )
            for codec in ("raw", "klt")
        }
        masks = {codec: np.asarray(Image.open(io.BytesIO(reply.label_map_png))) for codec, reply in replies.items()}
        _overlay(Image.open(path), masks["klt"]).save(OUTPUT / f"{path.stem}.png")
        _row(table, f"segment {path.name}", replies["klt"].cost, f"IoU {_iou(masks['raw'] > 0, masks['klt'] > 0):.3f}")


def _table() -> Table:
    table = Table(title="through codec klt, quality 0.5; agreement is with codec raw, which loses nothing")
    for column in ("request", "raw bytes", "coded", "BPFP", "frames", "ms: backbone", "encode", "decode", "head"):
        table.add_column(column, justify="left" if column == "request" else "right", no_wrap=True)
    table.add_column("agreement", no_wrap=True)
    return table


def _row(table: Table, name: str, cost: inference_pb2.Cost, agreement: str) -> None:
    seconds = {stage.name: stage.seconds for stage in cost.stages}
    sizes = (f"{cost.raw_bytes:,}", f"{cost.wire_bytes:,}", f"{cost.bpfp_wire:.3f}", str(cost.num_frames))
    table.add_row(name, *sizes, *(f"{1000 * seconds[stage]:.0f}" for stage in _STAGES), agreement)


def _overlay(photo: Image.Image, mask: Array) -> Image.Image:
    """The photograph, its background dimmed and the foreground's border drawn."""
    pixels = np.asarray(photo.convert("RGB")).astype(np.float32)
    inside = mask > 0
    pixels[~inside] *= 0.35
    border = inside ^ (np.roll(inside, 2, 0) & np.roll(inside, -2, 0) & np.roll(inside, 2, 1) & np.roll(inside, -2, 1))
    pixels[border & inside] = (255, 210, 0)
    return Image.fromarray(pixels.astype(np.uint8))


def _iou(a: Array, b: Array) -> float:
    union = np.count_nonzero(a | b)
    return float(np.count_nonzero(a & b) / union) if union else 1.0


@contextmanager
def _service(module: str, flags: dict[str, str]) -> Iterator[None]:
    """A service process; its log goes to a file. Leaving stops it with SIGTERM, and says so if that takes too long."""
    words = [word for flag, value in flags.items() for word in (f"--{flag}", value)]
    with (OUTPUT / f"{module}.log").open("w") as log:
        process = subprocess.Popen([sys.executable, "-m", module, *words], stderr=log, stdout=log, env=_environment())
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                status = process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
            if status:
                print(f"{module} ended with status {status}: see {log.name}", file=sys.stderr)


def _environment() -> dict[str, str]:
    """This one without settings of the services: the demo shows the defaults."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("DTUFC_EDGE_", "DTUFC_CLOUD_"))}


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _wait_until_serving(address: str) -> None:
    deadline = time.monotonic() + _START_S
    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        while time.monotonic() < deadline:
            try:
                reply = stub.Check(health_pb2.HealthCheckRequest(), timeout=5, wait_for_ready=True)
            except grpc.RpcError:
                continue
            if reply.status == health_pb2.HealthCheckResponse.SERVING:
                return
            time.sleep(0.1)
    raise SystemExit(f"no service at {address} after {_START_S:.0f} s: see {OUTPUT}/*.log")


if __name__ == "__main__":
    sys.exit(main())
