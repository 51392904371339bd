"""The requests that clients send, built and checked before a call.

What a message cannot carry is an InputError here; what the model or the edge's limits rule out, the edge says.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from pathlib import Path
from typing import Final, TypedDict, Unpack

from dtufc.coding.rate import Rate
from dtufc.errors import InputError
from dtufc.files import read_file
from dtufc.serving.limits import MAX_LABELS, MAX_MESSAGE_BYTES
from dtufc.v1 import head_pb2, inference_pb2

DEFAULT_ADDRESS: Final = "127.0.0.1:50051"
PEER: Final = "the edge"  # its name in errors
_MAX_UINT32: Final = (1 << 32) - 1
_MAX_UINT64: Final = (1 << 64) - 1
_DRAFTS: Final = {
    "auto": inference_pb2.DRAFTS_AUTO,
    "off": inference_pb2.DRAFTS_OFF,
    "on": inference_pb2.DRAFTS_ON,
}

ChatMessage = Mapping[str, str] | inference_pb2.ChatMessage
"""Role (system, user or assistant) and content; a mapping has these two keys, as OpenAI and transformers have them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is chosen. By default it is the most probable one.

    Attributes:
        temperature: 0, the most probable token, to 2.
        top_p: the most probable tokens that together have this probability, above 0. Default: all.
        top_k: so many of the most probable tokens. 0: all.
        min_p: tokens whose probability is at least this share of the most probable one's, from 0 to 1.
        repetition_penalty: weakens the tokens of prompt and reply; above 0. Default: 1, none.
        presence_penalty: taken off the logits of the reply's tokens, from -2 to 2.
        frequency_penalty: the same, once for each time that the token stands in the reply, from -2 to 2.
        seed: the same request with the same seed gives the same text. Default: another one each time.
        logit_bias: token id -> what is added to its logit, from -100 to 100.
        log_probabilities: whether each token comes with its log probability.
        top_log_probabilities: and with those of so many of the most probable tokens, at most 20.
        stop_token_ids: tokens that end the reply, beside the model's own.

    Raises:
        InputError: a number that is not finite, or does not fit its field.
    """

    temperature: float = 0.0
    top_p: float | None = None
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    log_probabilities: bool = False
    top_log_probabilities: int = 0
    stop_token_ids: Sequence[int] = ()

    def __post_init__(self) -> None:
        for name in ("temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"):
            _check_finite(name, getattr(self, name))
        for name in ("top_k", "top_log_probabilities"):
            _check_whole(name, getattr(self, name))
        _check_whole("seed", self.seed, most=_MAX_UINT64)
        for token_id, bias in self.logit_bias.items():
            _check_whole("logit_bias", token_id)
            _check_finite("logit_bias", bias)
        for token_id in self.stop_token_ids:
            _check_whole("stop_token_ids", token_id)

    def message(self) -> head_pb2.Sampling:
        """As it crosses the wire; what is None stays unset."""
        return head_pb2.Sampling(**{name: getattr(self, name) for name in self.__slots__})


class CodingOptions(TypedDict, total=False):
    """How the features are coded: options of every call.

    profile: by default the first that serves the task.
    codec: by default klt where it is fitted, else raw.
    rate: by default a quality of 0.6, or the nearest that the codec reaches.
    """

    profile: str
    codec: str
    rate: Rate | None


class GenerationOptions(CodingOptions, total=False):
    """How text is generated: options of `complete` and `chat`. `rate` is of the prompt's features.

    max_tokens: of the reply, at most. Default: 32.
    sampling: by default the most probable token.
    stop: a text that ends the reply, which leaves it out; or at most 16 of them.
    token_quality: from 0 to 1, of the features of the reply's tokens. Default: the rate of the prompt.
    drafts: whether tokens are guessed ahead: auto, where a round trip takes longer than a step, on or off.
    """

    max_tokens: int
    sampling: Sampling | None
    stop: str | Sequence[str]
    token_quality: float | None
    drafts: str


class ImageOptions(CodingOptions, total=False):
    """What image is generated: options of `generate_image`. Steps, guidance and size are the profile's where None.

    seed: the same request with the same seed gives the same image. Default: 0.
    steps: of the denoiser.
    guidance: weight of the prompt (classifier-free guidance); up to 1, none.
    width: in pixels.
    height: in pixels.
    """

    seed: int
    steps: int | None
    guidance: float | None
    width: int | None
    height: int | None


def answer_request(
    question: str, choices: Sequence[str], **coding: Unpack[CodingOptions]
) -> inference_pb2.AnswerRequest:
    return inference_pb2.AnswerRequest(coding=_coding(**coding), question=question, choices=list(choices))


def complete_request(
    prompt: str, *, plain: bool = False, **options: Unpack[GenerationOptions]
) -> inference_pb2.CompleteRequest:
    request = _generation(**options)
    request.prompt, request.plain = check_text("prompt", prompt), plain
    return request


def chat_request(
    messages: Sequence[ChatMessage], **options: Unpack[GenerationOptions]
) -> inference_pb2.CompleteRequest:
    request = _generation(**options)
    if not messages:
        raise InputError(field="messages", problem="there are none", remedy="End with one of the user")
    request.messages.extend(_chat_message(f"messages[{index}]", message) for index, message in enumerate(messages))
    return request


def segment_request(image: bytes | Path, **coding: Unpack[CodingOptions]) -> inference_pb2.SegmentRequest:
    return inference_pb2.SegmentRequest(coding=_coding(**coding), image=_image(image))


def classify_request(
    image: bytes | Path, *, top_k: int = 5, **coding: Unpack[CodingOptions]
) -> inference_pb2.ClassifyRequest:
    _check_whole("top_k", top_k, least=1, most=MAX_LABELS)
    return inference_pb2.ClassifyRequest(coding=_coding(**coding), image=_image(image), top_k=top_k)


def image_request(prompt: str, **options: Unpack[ImageOptions]) -> inference_pb2.GenerateImageRequest:
    request = _image_generation(**options)
    request.prompt = check_text("prompt", prompt)
    return request


def check_text(name: str, text: str) -> str:
    """The text itself. Raises InputError where it has half of a surrogate pair: bytes that were no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(field=name, problem=f"{text!r} is not Unicode text", remedy="Give it in UTF-8") from error
    return text


def _coding(profile: str = "", codec: str = "", rate: Rate | None = None) -> inference_pb2.Coding:
    rate = rate or Rate()
    return inference_pb2.Coding(
        profile=profile,
        codec=codec,
        quality=rate.quality,
        target_bpfp=rate.target_bpfp,
        max_bytes=rate.max_bytes,
    )


def _generation(
    *,
    max_tokens: int = 32,
    sampling: Sampling | None = None,
    stop: str | Sequence[str] = (),
    token_quality: float | None = None,
    drafts: str = "auto",
    **coding: Unpack[CodingOptions],
) -> inference_pb2.CompleteRequest:
    _check_whole("max_tokens", max_tokens, least=1)
    if token_quality is not None and not 0 <= token_quality <= 1:
        raise InputError(field="token_quality", problem=f"{token_quality}", remedy="Give a number from 0 to 1")
    if drafts not in _DRAFTS:
        raise InputError(field="drafts", problem=f"{drafts!r}", remedy=f"Use one of {', '.join(_DRAFTS)}")
    return inference_pb2.CompleteRequest(
        coding=_coding(**coding),
        max_tokens=max_tokens,
        sampling=(sampling or Sampling()).message(),
        stop=[check_text("stop", text) for text in ([stop] if isinstance(stop, str) else stop)],
        token_quality=token_quality,
        drafts=_DRAFTS[drafts],
    )


def _image_generation(
    *,
    seed: int = 0,
    steps: int | None = None,
    guidance: float | None = None,
    width: int | None = None,
    height: int | None = None,
    **coding: Unpack[CodingOptions],
) -> inference_pb2.GenerateImageRequest:
    _check_whole("seed", seed, most=_MAX_UINT64)
    _check_finite("guidance", guidance)
    for name, number in (("steps", steps), ("width", width), ("height", height)):
        _check_whole(name, number, least=1)
    return inference_pb2.GenerateImageRequest(
        coding=_coding(**coding), seed=seed, steps=steps, guidance=guidance, width=width, height=height
    )


def _chat_message(name: str, message: ChatMessage) -> inference_pb2.ChatMessage:
    if isinstance(message, inference_pb2.ChatMessage):
        return message
    is_pair = isinstance(message, Mapping) and set(message) == {"role", "content"}
    if not is_pair or not all(isinstance(text, str) for text in message.values()):
        raise InputError(field=name, problem=repr(message), remedy="Give role and content, both text, and no other key")
    return inference_pb2.ChatMessage(
        role=check_text(name, message["role"]), content=check_text(name, message["content"])
    )


def _check_finite(name: str, number: float | None) -> None:
    if number is not None and not (isinstance(number, Real) and math.isfinite(number)):
        raise InputError(field=name, problem=f"{number}", remedy="Give a finite number")


def _check_whole(name: str, number: int | None, *, least: int = 0, most: int = _MAX_UINT32) -> None:
    if number is not None and not (isinstance(number, Integral) and least <= number <= most):
        raise InputError(field=name, problem=f"{number}", remedy=f"Give a whole number from {least} to {most}")


def _image(image: bytes | Path) -> bytes:
    if not isinstance(image, Path):
        return image
    return read_file(image, MAX_MESSAGE_BYTES, field="image")
