"""Text from an edge: complete, chat."""

import json
import sys
from typing import Annotated

import typer

from dtufc.cli.conversation import Conversation, Reply, piped, typed
from dtufc.cli.options import (
    Codec,
    Drafts,
    Edge,
    FrequencyPenalty,
    Json,
    MaxBytes,
    MaxTokens,
    MinP,
    PresencePenalty,
    Quality,
    RepetitionPenalty,
    Seed,
    Served,
    Stop,
    System,
    TargetBpfp,
    Temperature,
    Timeout,
    TlsCa,
    TlsCertificate,
    TlsKey,
    TokenQuality,
    TopK,
    TopP,
    client_of,
    generation_options,
)
from dtufc.cli.output import cost_facts, errors, generated_facts, show
from dtufc.client import DEFAULT_ADDRESS
from dtufc.errors import InputError

app = typer.Typer()


@app.command()
def complete(
    context: typer.Context,
    prompt: str,
    system: System = "",
    plain: Annotated[bool, typer.Option("--plain", help="Without the model's chat template.")] = False,
    max_tokens: MaxTokens = 32,
    temperature: Temperature = 0.0,
    top_p: TopP = None,
    top_k: TopK = 0,
    min_p: MinP = 0.0,
    repetition_penalty: RepetitionPenalty = None,
    presence_penalty: PresencePenalty = 0.0,
    frequency_penalty: FrequencyPenalty = 0.0,
    seed: Seed = None,
    stop: Stop = None,
    token_quality: TokenQuality = None,
    drafts: Drafts = "auto",
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
    with errors(), client_of(edge, timeout_s, tls_ca, tls_certificate, tls_key) as client:
        if system and plain:
            raise InputError(field="system", problem="given with --plain", remedy="Give one of them")
        options = generation_options(context.params)
        turns = [{"role": "system", "content": system}, {"role": "user", "content": prompt}]
        reply = Reply()
        reply.read(
            client.chat(turns, **options) if system else client.complete(prompt, plain=plain, **options),
            is_shown=not as_json,
        )
        if as_json:
            print(json.dumps(reply.facts()))
            return
        print()
        end = reply.last
        show({"finish_reason": end.finish_reason, **generated_facts(end.generated), **cost_facts(end.cost)}, as_json)


@app.command()
def chat(
    context: typer.Context,
    system: System = "",
    max_tokens: MaxTokens = 256,
    temperature: Temperature = 0.0,
    top_p: TopP = None,
    top_k: TopK = 0,
    min_p: MinP = 0.0,
    repetition_penalty: RepetitionPenalty = None,
    presence_penalty: PresencePenalty = 0.0,
    frequency_penalty: FrequencyPenalty = 0.0,
    seed: Seed = None,
    stop: Stop = None,
    token_quality: TokenQuality = None,
    drafts: Drafts = "auto",
    edge: Edge = DEFAULT_ADDRESS,
    timeout_s: Timeout = 300.0,
    tls_ca: TlsCa = None,
    tls_certificate: TlsCertificate = None,
    tls_key: TlsKey = None,
    profile: Served = "",
    codec: Codec = "",
    quality: Quality = None,
    target_bpfp: TargetBpfp = None,
    max_bytes: MaxBytes = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a turn.")] = False,
) -> None:
    """Holds a conversation with the edge and its cloud: in the terminal, or a line a turn from a pipe.

    /exit or Ctrl-D leaves, /reset forgets the turns, /system TEXT sets the system's message, /save FILE writes the
    messages as JSON; Ctrl-C ends a reply. The exit status is 1 where a turn from a pipe failed.
    """
    with errors(), client_of(edge, timeout_s, tls_ca, tls_certificate, tls_key) as client:
        options = generation_options(context.params)
        is_terminal = sys.stdin.isatty() and sys.stdout.isatty() and not as_json
        conversation = Conversation(client, options, system=system, as_json=as_json)
        conversation.hold(typed() if is_terminal else piped())
        if conversation.num_failed and not is_terminal:
            raise typer.Exit(1)
