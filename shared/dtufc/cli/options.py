"""Options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Profile = Annotated[str, typer.Option(help="A name that `dtufc models` lists, or a folder with a profile.yaml.")]
Split = Annotated[int | None, typer.Option(help="Layers that run on the edge. Default: the profile's own.")]
_CODECS = "raw, levels, klt, hyperprior, elic or kltprior. Default: klt where it is fitted."
Codec = Annotated[str, typer.Option(help=_CODECS)]
Quality = Annotated[
    float | None,
    typer.Option(help="From 0, the fewest bytes, to 1, the most exact; the same loss in every codec. Default: 0.6."),
]
TargetBpfp = Annotated[float | None, typer.Option(help="Instead of quality: at most so many bits a feature value.")]
MaxBytes = Annotated[int | None, typer.Option(help="Instead of quality: at most so many bytes a frame.")]
Edge = Annotated[str, typer.Option(help="Address of the edge.")]
Timeout = Annotated[float, typer.Option("--timeout", help="Seconds to wait for the reply.")]
TlsCa = Annotated[Path | None, typer.Option(help="PEM file of the CA to trust: turns on TLS.")]
TlsCertificate = Annotated[Path | None, typer.Option(help="PEM file, where the edge asks for it.")]
TlsKey = Annotated[Path | None, typer.Option(help="PEM file of its key.")]
Served = Annotated[str, typer.Option("--profile", help="A profile that the edge serves. Default: the task's first.")]
