"""Features and frames: fit, encode, decode, inspect."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress

from dtufc.cli.options import Codec, Json, MaxBytes, Profile, Quality, Split, TargetBpfp
from dtufc.cli.output import errors, load_features, read_frame, show
from dtufc.coding import bitstream
from dtufc.coding.feature_codec import describe
from dtufc.errors import InputError
from dtufc.models.fitting import fit, gradients_of, load
from dtufc.models.plugins import completed, prove_cut
from dtufc.models.profile import load_profile, shipped_profiles

app = typer.Typer()


@app.command(name="fit")
def fit_command(
    features: Annotated[list[Path], typer.Argument(help="About ten .npy files, one feature tensor each.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the profile.")],
    layout: Annotated[str, typer.Option(help="llm, vit, latent or cnn.")] = "llm",
    prefix: Annotated[int, typer.Option(help="vit: tokens before the grid.")] = 0,
    name: Annotated[str, typer.Option(help="Name of the profile.")] = "custom",
    profile: Annotated[str, typer.Option(help="Fit this profile's model at --split instead of --layout.")] = "",
    split: Split = None,
    gradients: Annotated[
        bool, typer.Option("--gradients", help="With --profile: spend bits where its head depends on them. Slower.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Makes a profile from about ten features of any model, in seconds."""
    with errors():
        samples = [load_features(path) for path in features]
        base = load_profile(profile, split) if profile else None
        if base:
            prove_cut(base)
            base = completed(base)
        if gradients and not base:
            raise InputError(field="gradients", problem="there is no head", remedy="Name a profile with --profile")
        console = Console(stderr=True)
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            slopes = None
            if gradients and base:
                slopes = list(bar.track(gradients_of(base, samples), total=len(samples), description="gradients"))
            task = bar.add_task("fit", total=1.0)
            codec = fit(
                samples,
                layout=layout,
                name=name,
                prefix=prefix,
                gradients=slopes,
                profile=base,
                progress=lambda share: bar.update(task, completed=share),
            )
        codec.save(output)
        report = asdict(codec.report) if codec.report else {}
        digest = codec.profile.digest.hex()
        show({"profile": str(output), "codecs": codec.codecs, "digest": digest, **report}, as_json)


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
    with errors():
        data = load(profile, split=split).encode(
            load_features(features),
            quality=quality,
            target_bpfp=target_bpfp,
            max_bytes=max_bytes,
            codec=codec or None,
        )
        output.write_bytes(data)
        show({"output": str(output), **describe(bitstream.parse(data), len(data))}, as_json)


@app.command()
def decode(
    frame: Annotated[Path, typer.Argument(help="A frame.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="A .npy file; bfloat16 is written as float32.")],
    profile: Profile,
    split: Split = None,
    as_json: Json = False,
) -> None:
    """Decodes a frame to a feature tensor."""
    with errors():
        features = load(profile, split=split).decode(read_frame(frame))
        features = features.astype(np.float32) if features.dtype.kind == "V" else features
        with output.open("wb") as file:
            np.save(file, features)
        shape = " x ".join(map(str, features.shape))
        show({"output": str(output), "shape": shape, "dtype": str(features.dtype)}, as_json)


@app.command()
def inspect(frame: Annotated[Path, typer.Argument(help="A frame.")], as_json: Json = False) -> None:
    """Says what a frame is, without decoding it."""
    with errors():
        data = read_frame(frame)
        facts = dict(describe(bitstream.parse(data), len(data)))
        facts["profile"] = _name_of(bitstream.parse(data).profile_digest)
        show(facts, as_json)


def _name_of(digest: bytes) -> str:
    for name in shipped_profiles():
        spec = load_profile(name).spec
        for split in {spec.split, *spec.calibrations}:
            if load_profile(name, split).short_digest == digest:
                return f"{name}@{split}"
    return "not a shipped one"
