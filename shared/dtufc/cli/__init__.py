"""`dtufc`: profiles, frames, and a client of the edge, from the shell."""

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from string import ascii_uppercase
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from dtufc.client import DEFAULT_ADDRESS, EdgeClient
from dtufc.coding import bitstream
from dtufc.coding.arrays import Array
from dtufc.coding.feature_codec import Rate, describe
from dtufc.errors import DtufcError, InputError
from dtufc.models.fitting import fit, load
from dtufc.models.profile import load_profile, shipped_profiles
from dtufc.models.zoo import is_fetched, weights_folder
from dtufc.serving.transport import Tls, check_health

if TYPE_CHECKING:
    from dtufc.v1 import inference_pb2

app = typer.Typer(
    help="Split inference with small features: profiles, frames, and a client of the edge.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
_console = Console()

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Profile = Annotated[str, typer.Option(help="A name that `dtufc models` lists, or a folder with a profile.yaml.")]
Split = Annotated[int | None, typer.Option(help="Layers that run on the edge. Default: the profile's own.")]
_CODECS = "raw, levels, klt, hyperprior, elic or kltprior. Default: klt where it is fitted."
Codec = Annotated[str, typer.Option(help=_CODECS)]
Quality = Annotated[float | None, typer.Option(help="From 0, the fewest bytes, to 1, the most exact. Default: 0.5.")]
TargetBpfp = Annotated[float | None, typer.Option(help="Instead of quality: at most so many bits a feature value.")]
MaxBytes = Annotated[int | None, typer.Option(help="Instead of quality: at most so many bytes a frame.")]
Edge = Annotated[str, typer.Option(help="Address of the edge.")]
Timeout = Annotated[float, typer.Option("--timeout", help="Seconds to wait for the reply.")]
TlsCa = Annotated[Path | None, typer.Option(help="PEM file of the CA to trust: turns on TLS.")]
TlsCertificate = Annotated[Path | None, typer.Option(help="PEM file, where the edge asks for it.")]
TlsKey = Annotated[Path | None, typer.Option(help="PEM file of its key.")]
Served = Annotated[str, typer.Option("--profile", help="A profile that the edge serves. Default: the task's first.")]


@contextmanager
def _errors() -> Iterator[None]:
    """An error of ours is one line and status 1, not a trace."""
    try:
        yield
    except DtufcError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    except UnicodeEncodeError as error:
        print(f"error: {error.object!r} is no Unicode text. Give it in UTF-8.", file=sys.stderr)
        raise typer.Exit(1) from error
    except OSError as error:
        print(f"error: {error}. Choose a path that can be written.", file=sys.stderr)
        raise typer.Exit(1) from error


def _show(facts: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(facts))
        return
    for name, value in facts.items():
        print(f"{name.replace('_', ' '):16} {round(value, 4) if isinstance(value, float) else value}")


@app.command()
def models(as_json: Json = False) -> None:
    """Lists the profiles that come with the package."""
    rows: list[dict[str, Any]] = []
    for name in shipped_profiles():
        profile = load_profile(name)
        rows.append(
            {
                "profile": name,
                "model": profile.spec.model,
                "tasks": list(profile.spec.tasks),
                "split": profile.split,
                "layers": profile.spec.num_layers,
                "fitted_splits": sorted(profile.spec.calibrations),
                "fetched": is_fetched(profile.spec),
                "digest": profile.digest.hex(),
            }
        )
    if as_json:
        print(json.dumps(rows))
        return
    table = Table("profile", "tasks", "split", "fitted at", "weights", "digest")
    for row in rows:
        fetched = "here" if row["fetched"] else "not fetched yet"
        split = f"{row['split']} of {row['layers']}"
        fitted = ", ".join(map(str, row["fitted_splits"]))
        table.add_row(row["profile"], ", ".join(row["tasks"]), split, fitted, fetched, row["digest"][:16])
    _console.print(table)


@app.command()
def fetch(
    profiles: Annotated[list[str] | None, typer.Argument(help="Default: all that come with the package.")] = None,
    as_json: Json = False,
) -> None:
    """Fetches the weights of profiles and checks them, so that services start without a network."""
    with _errors():
        folders = {name: str(weights_folder(load_profile(name).spec)) for name in profiles or shipped_profiles()}
        _show(folders, as_json)


@app.command(name="fit")
def fit_command(
    features: Annotated[list[Path], typer.Argument(help="About ten .npy files, one feature tensor each.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the profile.")],
    layout: Annotated[str, typer.Option(help="llm, vit, latent or cnn.")] = "llm",
    prefix: Annotated[int, typer.Option(help="vit: tokens before the grid.")] = 0,
    name: Annotated[str, typer.Option(help="Name of the profile.")] = "custom",
    profile: Annotated[str, typer.Option(help="Fit this profile's model at --split instead of --layout.")] = "",
    split: Split = None,
    as_json: Json = False,
) -> None:
    """Makes a profile from about ten features of any model, in seconds."""
    with _errors():
        samples = [_load_features(path) for path in features]
        base = load_profile(profile, split) if profile else None
        codec = fit(samples, layout=layout, name=name, prefix=prefix, profile=base)
        codec.save(output)
        _show({"profile": str(output), "codecs": codec.codecs, "digest": codec.profile.digest.hex()}, as_json)


@app.command()
def encode(
    features: Annotated[Path, typer.Argument(help="A .npy file of one feature tensor.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The frame; by custom, ending in .dtufc.")],
    profile: Profile,
    split: Split = None,
    codec: Codec = "",
    quality: Quality = None,
    target_bpfp: TargetBpfp = None,
    max_bytes: MaxBytes = None,
    as_json: Json = False,
) -> None:
    """Encodes a feature tensor to a frame."""
    with _errors():
        data = load(profile, split=split).encode(
            _load_features(features),
            quality=quality,
            target_bpfp=target_bpfp,
            max_bytes=max_bytes,
            codec=codec or None,
        )
        output.write_bytes(data)
        _show({"output": str(output), **describe(bitstream.parse(data), len(data))}, as_json)


@app.command()
def decode(
    frame: Annotated[Path, typer.Argument(help="A frame.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="A .npy file; bfloat16 is written as float32.")],
    profile: Profile,
    split: Split = None,
    as_json: Json = False,
) -> None:
    """Decodes a frame to a feature tensor."""
    with _errors():
        features = load(profile, split=split).decode(_read(frame))
        features = features.astype(np.float32) if features.dtype.kind == "V" else features
        with output.open("wb") as file:
            np.save(file, features)
        shape = " x ".join(map(str, features.shape))
        _show({"output": str(output), "shape": shape, "dtype": str(features.dtype)}, as_json)


@app.command()
def inspect(frame: Annotated[Path, typer.Argument(help="A frame.")], as_json: Json = False) -> None:
    """Says what a frame is, without decoding it."""
    with _errors():
        data = _read(frame)
        facts = dict(describe(bitstream.parse(data), len(data)))
        facts["profile"] = _name_of(bitstream.parse(data).profile_digest)
        _show(facts, as_json)


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
    with _errors(), _client(edge, timeout_s, tls_ca, tls_certificate, tls_key) as client:
        rate = Rate(quality=quality, target_bpfp=target_bpfp, max_bytes=max_bytes)
        reply = client.answer(question, choices, profile=profile, codec=codec, rate=rate)
        facts: dict[str, Any] = {"letter": reply.letter, "choice": choices[reply.choice]}
        if as_json:
            print(json.dumps({**facts, "probabilities": list(reply.probabilities), "cost": cost_facts(reply.cost)}))
            return
        odds = {f"p({letter})": p for letter, p in zip(ascii_uppercase, reply.probabilities, strict=False)}
        _show({**facts, **odds, **cost_facts(reply.cost)}, as_json)


@app.command()
def complete(
    prompt: str,
    max_tokens: Annotated[int, typer.Option(help="At most so many.")] = 32,
    plain: Annotated[bool, typer.Option("--plain", help="Without the model's chat template.")] = False,
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
    """Lets the edge and its cloud continue a prompt."""
    with _errors(), _client(edge, timeout_s, tls_ca, tls_certificate, tls_key) as client:
        rate = Rate(quality=quality, target_bpfp=target_bpfp, max_bytes=max_bytes)
        replies = []
        for reply in client.complete(
            prompt, max_tokens=max_tokens, plain=plain, profile=profile, codec=codec, rate=rate
        ):
            replies.append(reply)
            if not as_json:
                print(reply.text, end="", flush=True)
        last = replies[-1]
        if as_json:
            text = "".join(reply.text for reply in replies)
            print(json.dumps({"text": text, "finish_reason": last.finish_reason, "cost": cost_facts(last.cost)}))
            return
        print()
        _show({"finish_reason": last.finish_reason, **cost_facts(last.cost)}, as_json)


@app.command()
def segment(
    image: Annotated[Path, typer.Argument(help="A JPEG, PNG or WebP file.")],
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
    with _errors(), _client(edge, timeout_s, tls_ca, tls_certificate, tls_key) as client:
        rate = Rate(quality=quality, target_bpfp=target_bpfp, max_bytes=max_bytes)
        reply = client.segment(image, profile=profile, codec=codec, rate=rate)
        output.write_bytes(reply.label_map_png)
        facts: dict[str, Any] = {"output": str(output), "width": reply.width, "height": reply.height}
        if as_json:
            print(json.dumps({**facts, "cost": cost_facts(reply.cost)}))
            return
        _show({**facts, **cost_facts(reply.cost)}, as_json)


@app.command()
def classify(
    image: Annotated[Path, typer.Argument(help="A JPEG, PNG or WebP file.")],
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
    with _errors(), _client(edge, timeout_s, tls_ca, tls_certificate, tls_key) as client:
        rate = Rate(quality=quality, target_bpfp=target_bpfp, max_bytes=max_bytes)
        reply = client.classify(image, top_k=top_k, profile=profile, codec=codec, rate=rate)
        if as_json:
            labels = [{"index": x.index, "name": x.name, "probability": x.probability} for x in reply.labels]
            print(json.dumps({"labels": labels, "cost": cost_facts(reply.cost)}))
            return
        _show({**{label.name: label.probability for label in reply.labels}, **cost_facts(reply.cost)}, as_json)


@app.command()
def imagine(
    prompt: str,
    output: Annotated[Path, typer.Option("--output", "-o", help="The picture, as PNG.")],
    seed: Annotated[int, typer.Option(help="The same one gives the same picture.")] = 0,
    steps: Annotated[int | None, typer.Option(help="Of the denoiser. Default: the profile's.")] = None,
    guidance: Annotated[float | None, typer.Option(help="How far the prompt leads. Default: the profile's.")] = None,
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
    """Lets the edge and its cloud draw a picture of a prompt."""
    with _errors(), _client(edge, timeout_s, tls_ca, tls_certificate, tls_key) as client:
        rate = Rate(quality=quality, target_bpfp=target_bpfp, max_bytes=max_bytes)
        replies = client.imagine(
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
            bar = progress.add_task("drawing", total=None)
            for reply in replies:
                progress.update(bar, total=reply.num_steps, completed=reply.step)
        output.write_bytes(reply.picture_png)
        facts: dict[str, Any] = {"output": str(output), "width": reply.width, "height": reply.height}
        if as_json:
            print(json.dumps({**facts, "cost": cost_facts(reply.cost)}))
            return
        _show({**facts, **cost_facts(reply.cost)}, as_json)


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
    with _errors():
        check_health(address, _tls(tls_ca, tls_certificate, tls_key), timeout_s=timeout_s)
        _show({"status": "SERVING"}, as_json)


def _client(address: str, timeout_s: float, ca: Path | None, certificate: Path | None, key: Path | None) -> EdgeClient:
    return EdgeClient(address, timeout_s=timeout_s, tls=_tls(ca, certificate, key))


def _tls(ca: Path | None, certificate: Path | None, key: Path | None) -> Tls | None:
    wants_tls = ca is not None or certificate is not None or key is not None
    return Tls(ca=ca, certificate=certificate, key=key) if wants_tls else None


def cost_facts(cost: "inference_pb2.Cost") -> dict[str, Any]:
    """A reply's cost, flat: sizes, BPFP, and the milliseconds of each stage."""
    return {
        "profile": cost.profile,
        "codec": cost.codec,
        "frames": cost.num_frames,
        "raw_bytes": cost.raw_bytes,
        "payload_bytes": cost.payload_bytes,
        "wire_bytes": cost.wire_bytes,
        "bpfp_payload": cost.bpfp_payload,
        "bpfp_wire": cost.bpfp_wire,
        **{f"{stage.name}_ms": round(1000 * stage.seconds, 3) for stage in cost.stages},
    }


def _load_features(path: Path) -> Array:
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(field=str(path), problem=str(error), remedy="Give a .npy file of one array") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(field="frame", problem=str(error), remedy="Name a readable file") from error


def _name_of(digest: bytes) -> str:
    for name in shipped_profiles():
        spec = load_profile(name).spec
        for split in {spec.split, *spec.calibrations}:
            if load_profile(name, split).short_digest == digest:
                return f"{name}@{split}"
    return "not a shipped one"
