"""Features and frames: encode, decode, inspect."""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from dtufc.cli.options import Codec, Json, MaxBytes, Profile, Quality, Split, TargetBpfp
from dtufc.cli.output import errors, load_features, read_frame, show
from dtufc.coding import bitstream
from dtufc.coding.feature_codec import describe
from dtufc.models.fitting import load
from dtufc.models.profile import load_profile, shipped_profiles

app = typer.Typer()


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
