"""Options that several commands have, and what the client takes for them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from dtufc.client import EdgeClient, Sampling
from dtufc.client.requests import GenerationOptions
from dtufc.coding.rate import Rate
from dtufc.serving.transport import Tls

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

MaxTokens = Annotated[int, typer.Option(help="Of a reply, at most.")]
Temperature = Annotated[float, typer.Option(help="0, the most probable token each time, to 2.")]
TopP = Annotated[float | None, typer.Option(help="The most probable tokens that together have this probability.")]
TopK = Annotated[int, typer.Option(help="So many of the most probable tokens. 0: all.")]
MinP = Annotated[float, typer.Option(help="Tokens of at least this share of the best one's probability, from 0 to 1.")]
RepetitionPenalty = Annotated[
    float | None, typer.Option(help="Above 1: tokens of prompt and reply become less probable.")
]
PresencePenalty = Annotated[float, typer.Option(help="From -2 to 2, against tokens that the reply has.")]
FrequencyPenalty = Annotated[float, typer.Option(help="The same, for each time that it has them.")]
Seed = Annotated[int | None, typer.Option(help="The same one gives the same text.")]
Stop = Annotated[list[str] | None, typer.Option(help="A text that ends the reply; may be given several times.")]
System = Annotated[str, typer.Option(help="A message of the system, before the first turn.")]
TokenQuality = Annotated[
    float | None, typer.Option(help="As --quality, of the reply's tokens. Default: the rate of the prompt.")
]
Drafts = Annotated[
    str, typer.Option(help="Tokens guessed ahead, on, off, or auto: where a round trip takes longer than a step.")
]

_OF_SAMPLING: Final = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
)
_OF_RATE: Final = ("quality", "target_bpfp", "max_bytes")


def generation_options(params: Mapping[str, Any]) -> GenerationOptions:
    """How text is generated, by the parameters of a command's context, which has all of these options."""
    return GenerationOptions(
        max_tokens=params["max_tokens"],
        sampling=Sampling(**{name: params[name] for name in _OF_SAMPLING}),
        stop=params["stop"] or (),
        token_quality=params["token_quality"],
        drafts=params["drafts"],
        profile=params["profile"],
        codec=params["codec"],
        rate=Rate(**{name: params[name] for name in _OF_RATE}),
    )


def client_of(
    address: str, timeout_s: float, ca: Path | None, certificate: Path | None, key: Path | None
) -> EdgeClient:
    """A connection to the edge."""
    return EdgeClient(address, timeout_s=timeout_s, tls=tls_of(ca, certificate, key))


def tls_of(ca: Path | None, certificate: Path | None, key: Path | None) -> Tls | None:
    """None where none of the files is named."""
    wants_tls = ca is not None or certificate is not None or key is not None
    return Tls(ca=ca, certificate=certificate, key=key) if wants_tls else None
