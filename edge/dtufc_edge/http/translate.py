"""OpenAI's requests -> those of inference.proto, and their replies -> OpenAI's objects. Pure functions.

request, n --> n CompleteRequest       CompleteReply ... --> Choice --> choice of an object, or of a chunk --> usage
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from dtufc.v1 import head_pb2, inference_pb2
from dtufc_edge.detokenizer import TokenTexts
from dtufc_edge.http.errors import Json
from dtufc_edge.http.schema import Asked, ChatRequest, CompletionRequest

_ROLES: Final = {"developer": "system"}
_FINISH_REASONS: Final = {"end": "stop"}
_DRAFTS: Final = {
    "auto": inference_pb2.DRAFTS_AUTO,
    "on": inference_pb2.DRAFTS_ON,
    "off": inference_pb2.DRAFTS_OFF,
}


def requests_of(asked: ChatRequest | CompletionRequest, max_new_tokens: int) -> list[inference_pb2.CompleteRequest]:
    """One request for each reply: n of the first prompt, n of the next. The i-th of a prompt has the seed + i.

    Args:
        asked: by the client.
        max_new_tokens: what a chat without a limit gets.
    """
    if isinstance(asked, ChatRequest):
        messages = [
            inference_pb2.ChatMessage(
                role=_ROLES.get(message.role, message.role), content="".join(part.text for part in message.content)
            )
            for message in asked.messages
        ]
        max_tokens = asked.max_completion_tokens or asked.max_tokens or max_new_tokens
        prompts = [inference_pb2.CompleteRequest(messages=messages, max_tokens=max_tokens)]
    else:
        prompts = [
            inference_pb2.CompleteRequest(prompt=prompt, plain=True, max_tokens=asked.max_tokens)
            for prompt in asked.prompt
        ]
    several = asked.n * len(prompts) > 1
    seed = secrets.randbits(63) if several and asked.seed is None else asked.seed
    return [_request(asked, prompt, seed, i) for prompt in prompts for i in range(asked.n)]


def _request(
    asked: Asked, prompt: inference_pb2.CompleteRequest, seed: int | None, i: int
) -> inference_pb2.CompleteRequest:
    ours = asked.dtufc
    return inference_pb2.CompleteRequest(
        coding=inference_pb2.Coding(profile=asked.model, codec=ours.codec, quality=ours.quality),
        prompt=prompt.prompt,
        plain=prompt.plain,
        messages=prompt.messages,
        max_tokens=prompt.max_tokens,
        sampling=head_pb2.Sampling(
            temperature=asked.temperature,
            top_p=asked.top_p,
            top_k=asked.top_k,
            min_p=asked.min_p,
            repetition_penalty=asked.repetition_penalty,
            presence_penalty=asked.presence_penalty,
            frequency_penalty=asked.frequency_penalty,
            seed=None if seed is None else (seed + i) % (1 << 64),
            logit_bias=asked.logit_bias,
            log_probabilities=asked.num_logprobs is not None,
            top_log_probabilities=asked.num_logprobs or 0,
            stop_token_ids=asked.stop_token_ids,
        ),
        stop=asked.stop,
        token_quality=ours.token_quality,
        drafts=_DRAFTS[ours.drafts],
    )


@dataclass(slots=True)
class Choice:
    """One reply, as far as it has come.

    Attributes:
        index: of the choice.
        token_texts: those of its model.
        text: so far.
        tokens: so far, where log probabilities were asked for.
        offset: characters of the tokens that are already told.
        last: the reply that ended it.
        goes_on: whether there are tokens before these.
    """

    index: int
    token_texts: TokenTexts
    text: str = ""
    tokens: list[head_pb2.SampledToken] = field(default_factory=list)
    offset: int = 0
    last: inference_pb2.CompleteReply | None = None
    goes_on: bool = False

    @property
    def texts(self) -> list[str]:
        """Those of the tokens."""
        return [self.text_at(place, token.token_id) for place, token in enumerate(self.tokens)]

    def text_at(self, place: int, token_id: int) -> str:
        """The text that a token has at this place among the tokens."""
        return self.token_texts.text(token_id, is_first=place == 0 and not self.goes_on)

    def add(self, reply: inference_pb2.CompleteReply) -> None:
        """Takes one more reply in."""
        self.text += reply.text
        if reply.token.HasField("log_probability"):
            self.tokens.append(reply.token)
        if reply.finish_reason:
            self.last = reply

    def part(self, reply: inference_pb2.CompleteReply) -> "Choice":
        """What this reply adds, as a choice of its own. Takes it in."""
        before = len(self.tokens)
        self.add(reply)
        tokens = self.tokens[before:]
        added = Choice(self.index, self.token_texts, reply.text, tokens, self.offset, self.last, goes_on=before > 0)
        self.offset += sum(map(len, added.texts))
        return added

    @property
    def finish_reason(self) -> str | None:
        """OpenAI's: stop or length; None before the end."""
        reason = self.last.finish_reason if self.last else None
        return _FINISH_REASONS.get(reason, reason) if reason else None


class Form(Protocol):
    """How an endpoint writes its objects.

    Attributes:
        id_prefix: of an object's id.
        whole: the type of an object that is not streamed.
        chunk: the type of a stream's objects.
    """

    @property
    def id_prefix(self) -> str: ...

    @property
    def whole(self) -> str: ...

    @property
    def chunk(self) -> str: ...

    def choice(self, choice: Choice) -> Json:
        """The choice of the whole object."""

    def opening(self, choice: Choice) -> Json | None:
        """The choice of a stream's first chunk, before its text; None: there is none."""

    def delta(self, part: Choice) -> Json:
        """The choice of a chunk."""


class _ChatForm:
    """/v1/chat/completions."""

    id_prefix, whole, chunk = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def choice(self, choice: Choice) -> Json:
        return self._choice(choice, "message", {"role": "assistant", "content": choice.text})

    def opening(self, choice: Choice) -> Json | None:
        return self._choice(choice, "delta", {"role": "assistant", "content": ""})

    def delta(self, part: Choice) -> Json:
        return self._choice(part, "delta", {"content": part.text} if part.text else {})

    def _choice(self, choice: Choice, name: str, message: Json) -> Json:
        tokens = [self._token(choice, place, token) for place, token in enumerate(choice.tokens)]
        logprobs = {"content": tokens} if tokens else None
        return {"index": choice.index, name: message, "logprobs": logprobs, "finish_reason": choice.finish_reason}

    def _token(self, choice: Choice, place: int, token: head_pb2.SampledToken) -> Json:
        def entry(token_id: int, log_probability: float) -> Json:
            text = choice.text_at(place, token_id)
            return {"token": text, "logprob": log_probability, "bytes": _bytes(text)}

        top = [entry(other.token_id, other.log_probability) for other in token.top]
        return {**entry(token.token_id, token.log_probability), "top_logprobs": top}


class _CompletionForm:
    """/v1/completions."""

    id_prefix, whole, chunk = "cmpl", "text_completion", "text_completion"

    def choice(self, choice: Choice) -> Json:
        return {
            "index": choice.index,
            "text": choice.text,
            "logprobs": self._logprobs(choice) if choice.tokens else None,
            "finish_reason": choice.finish_reason,
        }

    def opening(self, choice: Choice) -> Json | None:
        return None

    def delta(self, part: Choice) -> Json:
        return self.choice(part)

    def _logprobs(self, choice: Choice) -> Json:
        texts = choice.texts
        top: list[dict[str, float]] = [{} for _ in texts]
        for place, token in enumerate(choice.tokens):
            for other in token.top:  # the most probable first: it keeps a text that several have
                top[place].setdefault(choice.text_at(place, other.token_id), other.log_probability)
        return {
            "tokens": texts,
            "token_logprobs": [token.log_probability for token in choice.tokens],
            "top_logprobs": top,
            "text_offset": [choice.offset + sum(map(len, texts[:i])) for i in range(len(texts))],
        }


CHAT: Final[Form] = _ChatForm()
COMPLETION: Final[Form] = _CompletionForm()


def usage_of(choices: Sequence[Choice], asked: Asked) -> Json:
    """Tokens and what they cost, of all choices that have ended together; a prompt of several counts once."""
    ends = [choice.last for choice in choices if choice.last]
    costs, made = [end.cost for end in ends], [end.generated for end in ends]
    prompt = sum(generated.prompt_tokens for generated in made[:: asked.n])
    new = sum(generated.new_tokens for generated in made)
    stages: dict[str, float] = {}
    for stage in (stage for cost in costs for stage in cost.stages):
        stages[stage.name] = round(stages.get(stage.name, 0.0) + stage.seconds, 6)
    wire, values = sum(cost.wire_bytes for cost in costs), sum(cost.num_values for cost in costs)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": new,
        "total_tokens": prompt + new,
        "dtufc": {
            "codec": ", ".join(dict.fromkeys(cost.codec for cost in costs)),
            "quality": asked.dtufc.quality,
            "payload_bytes": sum(cost.payload_bytes for cost in costs),
            "wire_bytes": wire,
            "raw_bytes": sum(cost.raw_bytes for cost in costs),
            "bpfp": round(8 * wire / max(values, 1), 4),
            "stages": stages,
            "drafted": sum(generated.drafted_tokens for generated in made),
            "accepted": sum(generated.accepted_tokens for generated in made),
            "recoveries": sum(generated.recoveries for generated in made),
            "seed": made[0].seed,
        },
    }


def _bytes(text: str) -> list[int] | None:
    """A token's bytes; None for a part of a character, whose text does not tell them."""
    return None if "\N{REPLACEMENT CHARACTER}" in text else list(text.encode())
