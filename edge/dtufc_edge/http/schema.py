"""What a client may send: OpenAI's fields, those that vLLM adds, and `dtufc`.

Nothing is ignored: a field that is not here is an error, and so is one that is not supported, unless its value asks for
nothing. A field that is null counts as one that is not given.

A body costs little however wrong it is: a list ends at its first wrong element, and only one unknown field is told.
"""

import json
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, FailFast, Field, model_validator
from pydantic_core import PydanticCustomError

from dtufc.errors import InputError
from dtufc.serving.limits import MAX_LOGIT_BIASES, MAX_STOP_TEXTS, MAX_STOP_TOKEN_IDS

MAX_REPLIES: Final = 16  # of one request
MAX_MESSAGES: Final = 1024  # of one conversation
MAX_PARTS: Final = 1024  # of one message
_SHOWN: Final = 80  # characters of a value in a message


def _only(*values: object) -> AfterValidator:
    """For a field that is not supported; these values ask for nothing."""
    remedy = " or ".join(["Leave it out", *(f"give {json.dumps(value)}" for value in values)])

    def check(value: object) -> object:
        if value in values:
            return value
        raise PydanticCustomError("unsupported", "{remedy}", {"remedy": remedy})

    return AfterValidator(check)


def _few_biases(biases: object) -> object:
    """Looks before pydantic does, which would make an error of each wrong one."""
    if isinstance(biases, dict) and len(biases) > MAX_LOGIT_BIASES:
        raise PydanticCustomError("too_long", "Give at most {limit} tokens", {"limit": MAX_LOGIT_BIASES})
    return biases


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _text_only(part: object) -> object:
    if isinstance(part, dict) and part.get("type", "text") != "text":
        raise PydanticCustomError("unsupported", "Give parts of the type text alone")
    return part


def _from_digits(token_id: object) -> object:
    return int(token_id) if isinstance(token_id, str) and token_id.isdecimal() and len(token_id) < 11 else token_id


def _unicode(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PydanticCustomError("surrogate", "It should have no half of a surrogate pair") from error
    return text


Text = Annotated[str, AfterValidator(_unicode)]
Uint32 = Annotated[int, Field(ge=0, lt=1 << 32)]
LogitBias = dict[Annotated[Uint32, BeforeValidator(_from_digits)], float]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _fewest(cls, data: object) -> object:
        """Without nulls, and with the first unknown field alone: each would be an error."""
        if not isinstance(data, dict):
            return data
        given = {name: value for name, value in data.items() if value is not None}
        unknown = next((name for name in given if name not in cls.model_fields), None)
        return {name: value for name, value in given.items() if name in cls.model_fields or name == unknown}


class Dtufc(_Strict):
    """How the features are coded, as in inference.proto; each has a default."""

    codec: Text = ""
    quality: float | None = None
    token_quality: float | None = None
    drafts: Literal["auto", "on", "off"] = "auto"


class StreamOptions(_Strict):
    include_usage: bool = False
    include_obfuscation: Annotated[object, _only(False)] = None


class TextPart(_Strict):
    type: Literal["text"]
    text: Text


def _parts(content: object) -> object:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


class Message(_Strict):
    """One turn. `developer` is OpenAI's later name for `system`."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[
        list[Annotated[TextPart, BeforeValidator(_text_only)]],
        Field(max_length=MAX_PARTS),
        FailFast(),
        BeforeValidator(_parts),
    ]


class Asked(_Strict):
    """The fields that both kinds of request have. Ranges that are not here are those of head.proto."""

    model: str
    n: int = Field(default=1, ge=1, le=MAX_REPLIES)
    temperature: float = 1.0
    top_p: float | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Annotated[LogitBias, BeforeValidator(_few_biases)] = {}
    stop: Annotated[list[Text], Field(max_length=MAX_STOP_TEXTS), FailFast(), BeforeValidator(_listed)] = []
    seed: int | None = Field(default=None, ge=0, lt=1 << 64)
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str = ""
    top_k: Uint32 = 0
    min_p: float = 0.0
    repetition_penalty: float | None = None
    stop_token_ids: Annotated[list[Uint32], Field(max_length=MAX_STOP_TOKEN_IDS), FailFast()] = []
    dtufc: Dtufc = Dtufc()

    @property
    def num_logprobs(self) -> int | None:
        """So many tokens beside the chosen one; None: no log probabilities."""
        raise NotImplementedError

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    @model_validator(mode="after")
    def _options_of_a_stream(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise InputError(field="stream_options", problem="given without stream", remedy="Set stream to true")
        return self


class ChatRequest(Asked):
    """The body of /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES), FailFast()]
    max_completion_tokens: int | None = Field(default=None, ge=1, lt=1 << 32)
    max_tokens: int | None = Field(default=None, ge=1, lt=1 << 32)
    logprobs: bool = False
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    tools: Annotated[object, _only([])] = None
    tool_choice: Annotated[object, _only("none", "auto")] = None
    parallel_tool_calls: Annotated[object, _only(True, False)] = None
    functions: Annotated[object, _only([])] = None
    function_call: Annotated[object, _only("none", "auto")] = None
    response_format: Annotated[object, _only({"type": "text"})] = None
    modalities: Annotated[object, _only(["text"])] = None
    audio: Annotated[object, _only()] = None
    prediction: Annotated[object, _only()] = None
    reasoning_effort: Annotated[object, _only("none")] = None
    verbosity: Annotated[object, _only("medium")] = None
    web_search_options: Annotated[object, _only()] = None
    service_tier: Annotated[object, _only("auto", "default")] = None
    store: Annotated[object, _only(False)] = None
    metadata: Annotated[object, _only({})] = None

    @property
    def num_logprobs(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise InputError(field="top_logprobs", problem="given without logprobs", remedy="Set logprobs to true")
        if self.max_tokens and self.max_completion_tokens and self.max_tokens != self.max_completion_tokens:
            problem = f"{self.max_tokens}, where max_completion_tokens is {self.max_completion_tokens}"
            raise InputError(field="max_tokens", problem=problem, remedy="Give one of them")
        return self


class CompletionRequest(Asked):
    """The body of /v1/completions."""

    prompt: Annotated[list[Text], Field(min_length=1, max_length=MAX_REPLIES), FailFast(), BeforeValidator(_listed)]
    max_tokens: int = Field(default=16, ge=1, lt=1 << 32)
    logprobs: int | None = Field(default=None, ge=0, le=20)
    best_of: Annotated[object, _only(1)] = None
    echo: Annotated[object, _only(False)] = None
    suffix: Annotated[object, _only("")] = None

    @property
    def num_logprobs(self) -> int | None:
        return self.logprobs

    @model_validator(mode="after")
    def _within_the_replies(self) -> Self:
        if self.n * len(self.prompt) > MAX_REPLIES:
            problem = f"{self.n} for each of {len(self.prompt)} prompts"
            raise InputError(field="n", problem=problem, remedy=f"Ask for at most {MAX_REPLIES} replies in all")
        return self


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _shown(value: object) -> str:
    """The start of a value's JSON, however long and deep the rest is. A piece has at least one character."""
    return _cut("".join(islice(json.JSONEncoder(default=str).iterencode(value), _SHOWN + 1)))


def input_error(found: Sequence[Mapping[str, Any]]) -> InputError:
    """The first of pydantic's errors on a body, as one sentence."""
    error = found[0]
    # The path of a field, without where pydantic looked: in the body, at a key.
    parts = [part for part in error["loc"] if part not in ("body", "[key]")]
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{_cut(part)}" for part in parts).removeprefix(".")
    shown = _shown(error["input"])
    kind, message = str(error["type"]), str(error["msg"])
    if kind == "json_invalid":
        return InputError(field="body", problem=f"no JSON: {error['ctx']['error']}", remedy="Send one JSON object")
    if not field:
        remedy = "Send one, with the header Content-Type: application/json"
        return InputError(field="body", problem="no JSON object", remedy=remedy)
    if kind == "extra_forbidden":
        return InputError(field=field, problem="no such field", remedy="Leave it out; docs/http.md lists the fields")
    if kind == "missing":
        return InputError(field=field, problem="it is missing", remedy="Give it")
    if kind == "unsupported":
        return InputError(field=field, problem=f"{shown} is not supported", remedy=message)
    if field.startswith("prompt") and not isinstance(error["input"], str):
        return InputError(field=field, problem=f"{shown} is no text", remedy="Give a text, or a list of texts")
    return InputError(field=field, problem=shown, remedy=message.replace("Input should", "It should"))
