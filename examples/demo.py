"""`make demo`: the pair as two processes, a plain gRPC client, and what everything cost.

Only the generated stubs talk to the edge: this is what a client in any language does.
"""

import argparse
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
import torch
from grpc_health.v1 import health_pb2, health_pb2_grpc
from PIL import Image
from rich import box
from rich.console import Console
from rich.table import Table

from dtufc.cli.progress import Bars
from dtufc.coding.arrays import Array
from dtufc.coding.quality import DEFAULT_QUALITY
from dtufc.errors import DtufcError
from dtufc.models.cache import cache_folder
from dtufc.models.from_inputs import fit_to_inputs
from dtufc.models.inputs import read_inputs
from dtufc.models.measuring import Pair
from dtufc.models.profile import default_profiles, load_profile
from dtufc.models.zoo import weights_folder
from dtufc.serving.transport import blocking_channel
from dtufc.v1 import inference_pb2, inference_pb2_grpc

ROOT = Path(__file__).parents[1]
OUTPUT = Path("demo-output")
PROMPT = "What is the capital of France? Answer in one word."
QUESTION = "Water is made of hydrogen and which other element?"
CHOICES = ["gold", "oxygen", "helium", "iron"]
# What a larger model is asked: prompts that are completed, and questions with their right choice first.
PROMPTS = [
    "What is the capital of France? Answer in one word.",
    "Write a Python function that returns the n-th Fibonacci number. Code only.",
    "Which planet is known as the red one, and why is it red? One sentence.",
]
QUESTIONS = [
    ("Water is made of hydrogen and which other element?", ["oxygen", "gold", "helium", "iron"]),
    ("Which of these is a mammal?", ["whale", "shark", "trout", "octopus"]),
    ("What does HTTP status 404 mean?", ["not found", "created", "forbidden", "moved"]),
    ("In Python, which of these is immutable?", ["tuple", "list", "dict", "set"]),
    ("How many bits are in a byte?", ["8", "4", "10", "16"]),
]
_NEW_TOKENS = 48
IMAGE_PROMPTS = ["red apple", "grinning cat", "rocket"]
_SEED = 1
_SHOWN = 192  # pixels of a generated image, as shown
_START_S = 120.0
_STOP_S = 15.0
_CALL_S = 120.0
_STAGES = {
    "edge.preprocess": "preprocess",
    "edge.backbone": "backbone",
    "edge.encode": "encode",
    "cloud.parse": "parse",
    "cloud.decode": "decode",
    "cloud.head": "head",
    "cloud.png": "PNG",
    "round_trip": "round trip",
}


class Report:
    """Two tables: what came back and its size, and the time of each stage."""

    def __init__(self) -> None:
        caption = f"through codec klt, quality {DEFAULT_QUALITY}; agreement is with codec raw, which loses nothing"
        self._sizes = _table(caption, ["raw bytes", "coded", "BPFP", "frames", "agreement"])
        self._times = _table("milliseconds by stage; the round trip holds decode, head and PNG", [*_STAGES.values()])

    def add(self, name: str, cost: inference_pb2.Cost, agreement: str) -> None:
        seconds = {stage.name: stage.seconds for stage in cost.stages}
        sizes = (f"{cost.raw_bytes:,}", f"{cost.wire_bytes:,}", f"{cost.bpfp_wire:.3f}", str(cost.num_frames))
        self._sizes.add_row(name, *sizes, agreement)
        times = (f"{1000 * seconds[stage]:.1f}" if stage in seconds else "" for stage in _STAGES)
        self._times.add_row(name, *times)

    def print(self, console: Console) -> None:
        console.print(self._sizes, self._times, sep="\n")


def main() -> int:
    parser = argparse.ArgumentParser(description="Starts the pair, sends requests, prints what came back and its cost.")
    parser.add_argument("--model", help="the language part alone, on this profile: a name that `dtufc models` lists")
    model = parser.parse_args().model
    console = Console(width=max(120, Console().width))
    OUTPUT.mkdir(exist_ok=True)
    try:
        flags = _flags_of(model, console) if model else {}
        for name in () if model else default_profiles():
            weights_folder(load_profile(name).spec)
    except DtufcError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    with _running_pair(flags, console) as stub:
        report = Report()
        if model:
            _show_language_model(stub, report, console)
        else:
            _show_text(stub, report, console)
            _show_masks(stub, report)
            _show_labels(stub, report, console)
            _show_images(stub, report, console)
    report.print(console)
    if not model:
        console.print(
            f"masks laid over the photographs: {OUTPUT}/*.png; generated, raw and coded: {OUTPUT}/generated.png"
        )
    console.print("both processes have stopped")
    return 0


@contextmanager
def _running_pair(flags: dict[str, str], console: Console) -> Iterator[inference_pb2_grpc.InferenceServiceStub]:
    """Both services as processes with these flags beside the addresses; a stub of the edge."""
    with ExitStack() as stack:
        console.print("starting cloud and edge as two processes ...")
        cloud, edge, cloud_metrics, edge_metrics = (f"127.0.0.1:{port}" for port in _free_ports(4))
        of_cloud = {"listen": cloud, "metrics-listen": cloud_metrics, **flags}
        cloud_process = stack.enter_context(_service("dtufc_cloud", of_cloud))
        of_edge = {"listen": edge, "metrics-listen": edge_metrics, "cloud": cloud, **flags}
        edge_process = stack.enter_context(_service("dtufc_edge", of_edge))
        for address, process in ((cloud, cloud_process), (edge, edge_process)):
            _wait_until_serving(address, process)
        yield inference_pb2_grpc.InferenceServiceStub(stack.enter_context(blocking_channel(edge)))


def _flags_of(model: str, console: Console) -> dict[str, str]:
    """The flags that serve a profile, which is fitted first where it is not: to the texts of this repository."""
    profile = load_profile(model)
    weights_folder(profile.spec)
    if profile.calibration:
        return {"profiles": model}
    fitted = cache_folder() / "fitted" / f"{profile.name}-{profile.digest.hex()[:12]}"
    if not (fitted / "profile.yaml").is_file():
        console.print(
            f"{model} is not fitted at split {profile.split}: fitting it, once, to this repository's documents"
        )
        with Bars() as bars:
            print(
                fit_to_inputs(Pair(profile), read_inputs(sorted((ROOT / "docs").glob("*.md"))), fitted, bars).evaluation
            )
    return {"profiles": str(fitted), "dtype": "bfloat16"}


def _show_language_model(stub: inference_pb2_grpc.InferenceServiceStub, report: Report, console: Console) -> None:
    for number, prompt in enumerate(PROMPTS, start=1):
        raw, coded = (_complete(stub, codec, prompt, _NEW_TOKENS) for codec in ("raw", "klt"))
        console.print(f"prompt: {prompt}\nreply:  {coded[0].strip()}", markup=False)
        _add_completion(report, f"complete {number}", raw, coded)
    right = 0
    for number, (question, choices) in enumerate(QUESTIONS, start=1):
        in_order = sorted(choices)  # the right one is not always the first
        raw_answer, answer = (_answer(stub, codec, question, in_order) for codec in ("raw", "klt"))
        is_right = in_order[answer.choice] == choices[0]
        right += is_right
        console.print(
            f"question: {question} {in_order[answer.choice]}: {'right' if is_right else 'wrong'}", markup=False
        )
        _add_answer(report, f"answer {number}", raw_answer, answer)
    console.print(f"{right} of {len(QUESTIONS)} answers are right")


def _show_text(stub: inference_pb2_grpc.InferenceServiceStub, report: Report, console: Console) -> None:
    raw, coded = (_complete(stub, codec, PROMPT, 16) for codec in ("raw", "klt"))
    console.print(f"prompt: {PROMPT}\nreply:  {coded[0]}")
    _add_completion(report, "complete", raw, coded)
    raw_answer, answer = (_answer(stub, codec, QUESTION, CHOICES) for codec in ("raw", "klt"))
    odds = ", ".join(f"{choice} {p:.2f}" for choice, p in zip(CHOICES, answer.probabilities, strict=True))
    console.print(f"question: {QUESTION}\nanswer: {answer.letter} ({odds})")
    _add_answer(report, "answer", raw_answer, answer)


Completion = tuple[str, list[int], inference_pb2.Cost]


def _complete(stub: inference_pb2_grpc.InferenceServiceStub, codec: str, prompt: str, max_tokens: int) -> Completion:
    coding = inference_pb2.Coding(codec=codec)
    request = inference_pb2.CompleteRequest(coding=coding, prompt=prompt, max_tokens=max_tokens)
    replies = list(stub.Complete(request, timeout=_CALL_S))
    text = "".join(reply.text for reply in replies)
    return text, [reply.token.token_id for reply in replies[:-1]], replies[-1].cost


def _add_completion(report: Report, name: str, raw: Completion, coded: Completion) -> None:
    longest = max(len(raw[1]), len(coded[1]))
    same = sum(a == b for a, b in zip(raw[1], coded[1], strict=False))
    report.add(name, coded[2], f"{same} of {longest} tokens")


def _answer(
    stub: inference_pb2_grpc.InferenceServiceStub, codec: str, question: str, choices: list[str]
) -> inference_pb2.AnswerReply:
    coding = inference_pb2.Coding(codec=codec)
    request = inference_pb2.AnswerRequest(coding=coding, question=question, choices=choices)
    reply: inference_pb2.AnswerReply = stub.Answer(request, timeout=_CALL_S)
    return reply


def _add_answer(report: Report, name: str, raw: inference_pb2.AnswerReply, coded: inference_pb2.AnswerReply) -> None:
    agreement = "same letter" if raw.letter == coded.letter else f"not the same: {raw.letter}"
    drift = max(abs(a - b) for a, b in zip(raw.probabilities, coded.probabilities, strict=True))
    report.add(name, coded.cost, f"{agreement}, p within {drift:.3f}")


def _show_masks(stub: inference_pb2_grpc.InferenceServiceStub, report: Report) -> None:
    overlays = []
    for path in sorted((ROOT / "samples").glob("*.jpg")):
        replies = {
            codec: stub.Segment(
                inference_pb2.SegmentRequest(coding=inference_pb2.Coding(codec=codec), image=path.read_bytes()),
                timeout=_CALL_S,
            )
            for codec in ("raw", "klt")
        }
        masks = {codec: np.asarray(Image.open(io.BytesIO(reply.label_map_png))) for codec, reply in replies.items()}
        overlay = _overlay(Image.open(path), masks["klt"])
        overlay.save(OUTPUT / f"{path.stem}.png")
        overlays.append(overlay.resize((400, 300)))
        agreement = _mean_iou(masks["raw"] > 0, masks["klt"] > 0)
        report.add(f"segment {path.name}", replies["klt"].cost, f"mean IoU {agreement:.3f}")
    grid = Image.new("RGB", (400 * len(overlays), 300))
    for index, overlay in enumerate(overlays):
        grid.paste(overlay, (400 * index, 0))
    grid.save(OUTPUT / "all.png")


def _show_labels(stub: inference_pb2_grpc.InferenceServiceStub, report: Report, console: Console) -> None:
    for path in sorted((ROOT / "samples").glob("*.jpg")):
        raw, coded = (
            stub.Classify(
                inference_pb2.ClassifyRequest(coding=inference_pb2.Coding(codec=codec), image=path.read_bytes()),
                timeout=_CALL_S,
            )
            for codec in ("raw", "klt")
        )
        found = ", ".join(f"{label.name} {label.probability:.2f}" for label in coded.labels[:3])
        console.print(f"{path.name}: {found}")
        exact, best = raw.labels[0], coded.labels[0]
        drift = abs(best.probability - exact.probability)
        agreement = f"same label, p within {drift:.3f}" if best.index == exact.index else f"not the same: {exact.name}"
        report.add(f"classify {path.name}", coded.cost, agreement)


def _show_images(stub: inference_pb2_grpc.InferenceServiceStub, report: Report, console: Console) -> None:
    grid = Image.new("RGB", (2 * _SHOWN * len(IMAGE_PROMPTS), _SHOWN))
    for index, prompt in enumerate(IMAGE_PROMPTS):
        raw, coded = (
            list(
                stub.GenerateImage(
                    inference_pb2.GenerateImageRequest(
                        coding=inference_pb2.Coding(codec=codec), prompt=prompt, seed=_SEED
                    ),
                    timeout=_CALL_S,
                )
            )[-1]
            for codec in ("raw", "klt")
        )
        images = [Image.open(io.BytesIO(reply.image_png)) for reply in (raw, coded)]
        for place, image in enumerate(images):
            large = image.resize((_SHOWN, _SHOWN), Image.Resampling.LANCZOS)
            grid.paste(large, ((2 * index + place) * _SHOWN, 0))
        error = np.mean((np.asarray(images[0]).astype(float) - np.asarray(images[1])) ** 2)
        if index == 0:
            same = np.abs(np.asarray(images[0]).astype(int) - _generated_whole(prompt)).max() <= 1
            console.print(f"{prompt}, raw, beside the whole pipeline's image: {'the same' if same else 'not the same'}")
        report.add(f"generate {prompt}", coded.cost, f"PSNR {10 * np.log10(255**2 / max(error, 1e-9)):.1f} dB")
    grid.save(OUTPUT / "generated.png")


def _generated_whole(prompt: str) -> Array:
    """The image of diffusers' own pipeline, not split."""
    from diffusers import StableDiffusion3Pipeline
    from diffusers.utils import logging
    from transformers.utils import logging as logging_of_parts

    logging.disable_progress_bar()
    logging_of_parts.disable_progress_bar()
    spec = load_profile("sd3-emoji").spec
    none = {"text_encoder_3": None, "tokenizer_3": None}
    pipeline = StableDiffusion3Pipeline.from_pretrained(weights_folder(spec), dtype=torch.float32, **none)
    pipeline.set_progress_bar_config(disable=True)
    made = pipeline(
        prompt,
        generator=torch.Generator().manual_seed(_SEED),
        num_inference_steps=spec.generation.steps,
        guidance_scale=spec.generation.guidance,
        max_sequence_length=spec.generation.text_length,
    )
    return np.asarray(made.images[0]).astype(int)


def _mean_iou(a: Array, b: Array) -> float:
    """Mean intersection over union of foreground and of background, of boolean masks that have both."""
    return float(np.mean([np.count_nonzero(x & y) / np.count_nonzero(x | y) for x, y in ((a, b), (~a, ~b))]))


def _table(caption: str, columns: list[str]) -> Table:
    table = Table(title=caption, box=box.SIMPLE_HEAD)
    table.add_column("request", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _overlay(photo: Image.Image, mask: Array) -> Image.Image:
    """The photograph, its background dimmed and the foreground's border marked."""
    pixels = np.asarray(photo.convert("RGB")).astype(np.float32)
    inside = mask > 0
    pixels[~inside] *= 0.35
    border = inside ^ (np.roll(inside, 2, 0) & np.roll(inside, -2, 0) & np.roll(inside, 2, 1) & np.roll(inside, -2, 1))
    pixels[border & inside] = (255, 210, 0)
    return Image.fromarray(pixels.astype(np.uint8))


@contextmanager
def _service(module: str, flags: dict[str, str]) -> "Iterator[subprocess.Popen[bytes]]":
    """A service process; its log goes to a file. Leaving stops it with SIGTERM, and says so if that takes too long."""
    words = [word for flag, value in flags.items() for word in (f"--{flag}", value)]
    with (OUTPUT / f"{module}.log").open("w") as log:
        process = subprocess.Popen([sys.executable, "-m", module, *words], stderr=log, stdout=log, env=_environment())
        try:
            yield process
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


def _wait_until_serving(address: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _START_S
    with blocking_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        while time.monotonic() < deadline and process.poll() is None:
            try:
                reply = stub.Check(health_pb2.HealthCheckRequest(), timeout=2, wait_for_ready=True)
            except grpc.RpcError:
                continue
            if reply.status == health_pb2.HealthCheckResponse.SERVING:
                return
            time.sleep(0.1)
    raise SystemExit(f"the service for {address} did not start: see {OUTPUT}/*.log")


if __name__ == "__main__":
    sys.exit(main())
