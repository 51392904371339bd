"""Requests to an edge: answer, segment, classify, generate-image, health."""

import json
import sys
from pathlib import Path
from string import ascii_uppercase
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from dtufc.cli.options import (
    Codec,
    Edge,
    Json,
    MaxBytes,
    Quality,
    Served,
    TargetBpfp,
    Timeout,
    TlsCa,
    TlsCertificate,
    TlsKey,
    client_of,
    tls_of,
)
from dtufc.cli.output import cost_facts, errors, show
from dtufc.client import DEFAULT_ADDRESS
from dtufc.coding.rate import Rate
from dtufc.serving.transport import check_health

app = typer.Typer()


@app.command()
def answer(
    question: str,
    choices: Annotated[list[str], typer.Argument(help="Two to 26.")],
    edge: Edge = DEFAULT_ADDRESS,
    timeout_s: Timeout = 60.0,
    tls_ca: TlsCa = None,
    tls_certificate: TlsCertificate = None,
    tls_key: TlsKey = None,
    profile: Served = "",
    codec: Codec = "",
    quality: Quality = None,
    target_bpfp: TargetBpfp = None,
    max_bytes: MaxBytes = None,
    as_json: Json = False,
) -> None:
    """Asks the edge a question with choices."""
    with errors(), client_of(edge, timeout_s, tls_ca, tls_certificate, tls_key) as client:
        rate = Rate(quality=quality, target_bpfp=target_bpfp, max_bytes=max_bytes)
        reply = client.answer(question, choices, profile=profile, codec=codec, rate=rate)
        facts: dict[str, Any] = {"letter": reply.letter, "choice": choices[reply.choice]}
        if as_json:
            print(json.dumps({**facts, "probabilities": list(reply.probabilities), "cost": cost_facts(reply.cost)}))
            return
        odds = {f"p({letter})": p for letter, p in zip(ascii_uppercase, reply.probabilities, strict=False)}
        show({**facts, **odds, **cost_facts(reply.cost)}, as_json)


@app.command()
def segment(
    image: Annotated[Path, typer.Argument(help="A JPEG, PNG or WebP file; transparency counts as white.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The label map, as PNG.")],
    edge: Edge = DEFAULT_ADDRESS,
    timeout_s: Timeout = 60.0,
    tls_ca: TlsCa = None,
    tls_certificate: TlsCertificate = None,
    tls_key: TlsKey = None,
    profile: Served = "",
    codec: Codec = "",
    quality: Quality = None,
    target_bpfp: TargetBpfp = None,
    max_bytes: MaxBytes = None,
    as_json: Json = False,
) -> None:
    """Lets the edge and its cloud segment an image."""
    with errors(), client_of(edge, timeout_s, tls_ca, tls_certificate, tls_key) as client:
        rate = Rate(quality=quality, target_bpfp=target_bpfp, max_bytes=max_bytes)
        reply = client.segment(image, profile=profile, codec=codec, rate=rate)
        output.write_bytes(reply.label_map_png)
        facts: dict[str, Any] = {"output": str(output), "width": reply.width, "height": reply.height}
        if as_json:
            print(json.dumps({**facts, "cost": cost_facts(reply.cost)}))
            return
        show({**facts, **cost_facts(reply.cost)}, as_json)


@app.command()
def classify(
    image: Annotated[Path, typer.Argument(help="A JPEG, PNG or WebP file; transparency counts as white.")],
    top_k: Annotated[int, typer.Option(help="Labels to show, best first.")] = 5,
    edge: Edge = DEFAULT_ADDRESS,
    timeout_s: Timeout = 60.0,
    tls_ca: TlsCa = None,
    tls_certificate: TlsCertificate = None,
    tls_key: TlsKey = None,
    profile: Served = "",
    codec: Codec = "",
    quality: Quality = None,
    target_bpfp: TargetBpfp = None,
    max_bytes: MaxBytes = None,
    as_json: Json = False,
) -> None:
    """Lets the edge and its cloud say what an image shows."""
    with errors(), client_of(edge, timeout_s, tls_ca, tls_certificate, tls_key) as client:
        rate = Rate(quality=quality, target_bpfp=target_bpfp, max_bytes=max_bytes)
        reply = client.classify(image, top_k=top_k, profile=profile, codec=codec, rate=rate)
        if as_json:
            labels = [{"index": x.index, "name": x.name, "probability": x.probability} for x in reply.labels]
            print(json.dumps({"labels": labels, "cost": cost_facts(reply.cost)}))
            return
        show({**{label.name: label.probability for label in reply.labels}, **cost_facts(reply.cost)}, as_json)


@app.command(name="generate-image")
def generate_image(
    prompt: str,
    output: Annotated[Path, typer.Option("--output", "-o", help="The image, as PNG.")],
    seed: Annotated[int, typer.Option(help="The same one gives the same image.")] = 0,
    steps: Annotated[int | None, typer.Option(help="Of the denoiser. Default: the profile's.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Weight of the prompt. Default: the profile's.")] = None,
    width: Annotated[int | None, typer.Option(help="In pixels. Default: the model's.")] = None,
    height: Annotated[int | None, typer.Option(help="In pixels. Default: the model's.")] = None,
    edge: Edge = DEFAULT_ADDRESS,
    timeout_s: Timeout = 60.0,
    tls_ca: TlsCa = None,
    tls_certificate: TlsCertificate = None,
    tls_key: TlsKey = None,
    profile: Served = "",
    codec: Codec = "",
    quality: Quality = None,
    target_bpfp: TargetBpfp = None,
    max_bytes: MaxBytes = None,
    as_json: Json = False,
) -> None:
    """Lets the edge and its cloud generate an image of a prompt."""
    with errors(), client_of(edge, timeout_s, tls_ca, tls_certificate, tls_key) as client:
        rate = Rate(quality=quality, target_bpfp=target_bpfp, max_bytes=max_bytes)
        replies = client.generate_image(
            prompt,
            seed=seed,
            steps=steps,
            guidance=guidance,
            width=width,
            height=height,
            profile=profile,
            codec=codec,
            rate=rate,
        )
        with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as progress:
            bar = progress.add_task("generating", total=None)
            for reply in replies:
                progress.update(bar, total=reply.num_steps, completed=reply.step)
        output.write_bytes(reply.image_png)
        facts: dict[str, Any] = {"output": str(output), "width": reply.width, "height": reply.height}
        if as_json:
            print(json.dumps({**facts, "cost": cost_facts(reply.cost)}))
            return
        show({**facts, **cost_facts(reply.cost)}, as_json)


@app.command()
def health(
    address: Annotated[str, typer.Argument(help="Of an edge or a cloud.")] = DEFAULT_ADDRESS,
    timeout_s: Annotated[float, typer.Option("--timeout", help="Seconds to wait for the reply.")] = 4.0,
    tls_ca: TlsCa = None,
    tls_certificate: TlsCertificate = None,
    tls_key: TlsKey = None,
    as_json: Json = False,
) -> None:
    """Asks a service whether it serves, by grpc.health.v1; exit status 0 where it does."""
    with errors():
        check_health(address, tls_of(tls_ca, tls_certificate, tls_key), timeout_s=timeout_s)
        show({"status": "SERVING"}, as_json)
