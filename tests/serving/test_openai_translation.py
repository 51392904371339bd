"""OpenAI's requests to those of inference.proto, and replies to OpenAI's objects: pure functions."""

import pytest
from pydantic import ValidationError

from dtufc.errors import (
    CacheFull,
    Corrupt,
    DeadlineExceeded,
    DtufcError,
    InputError,
    Internal,
    Overloaded,
    Rejected,
    Unavailable,
)
from dtufc.v1 import head_pb2, inference_pb2
from dtufc_edge.http.errors import body_of_error, response_of
from dtufc_edge.http.schema import MAX_REPLIES, ChatRequest, CompletionRequest, input_error
from dtufc_edge.http.translate import CHAT, COMPLETION, Choice, requests_of, usage_of

CHAT_BODY = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}
COMPLETION_BODY = {"model": "m", "prompt": "Once"}
TEXTS = {1: "He", 2: "llo", 3: "\N{REPLACEMENT CHARACTER}"}


def chat(**fields: object) -> ChatRequest:
    return ChatRequest.model_validate({**CHAT_BODY, **fields})


def completion(**fields: object) -> CompletionRequest:
    return CompletionRequest.model_validate({**COMPLETION_BODY, **fields})


def rejected(kind: type[ChatRequest] | type[CompletionRequest], body: object) -> InputError:
    try:
        kind.model_validate(body)
    except ValidationError as error:
        return input_error(error.errors())
    except InputError as error:
        return error
    raise AssertionError(f"{body} is taken")


def token(token_id: int, log_probability: float | None = None, *top: tuple[int, float]) -> head_pb2.SampledToken:
    found = [head_pb2.TokenLogProbability(token_id=other, log_probability=value) for other, value in top]
    return head_pb2.SampledToken(token_id=token_id, log_probability=log_probability, top=found)


def end(reason: str, text: str = "", *, prompt_tokens: int = 5, new_tokens: int = 3) -> inference_pb2.CompleteReply:
    return inference_pb2.CompleteReply(
        text=text,
        finish_reason=reason,
        cost=inference_pb2.Cost(
            codec="klt",
            num_values=800,
            raw_bytes=3200,
            payload_bytes=80,
            wire_bytes=100,
            stages=[head_pb2.Stage(name="round_trip", seconds=0.25)],
        ),
        generated=inference_pb2.Generated(
            prompt_tokens=prompt_tokens,
            new_tokens=new_tokens,
            drafted_tokens=4,
            accepted_tokens=2,
            recoveries=1,
            seed=7,
        ),
    )


def test_a_chat_keeps_its_roles_and_gets_openais_defaults() -> None:
    messages = [
        {"role": "developer", "content": "Be short."},
        {"role": "user", "content": [{"type": "text", "text": "One "}, {"type": "text", "text": "two"}]},
        {"role": "assistant", "content": "three", "tool_calls": None},
        {"role": "user", "content": "Go on."},
    ]
    (request,) = requests_of(chat(messages=messages), max_new_tokens=256)
    found = [(message.role, message.content) for message in request.messages]
    assert found == [("system", "Be short."), ("user", "One two"), ("assistant", "three"), ("user", "Go on.")]
    assert (request.max_tokens, request.sampling.temperature, request.coding.profile) == (256, 1.0, "m")
    assert not request.sampling.HasField("seed")
    assert not request.coding.WhichOneof("rate")
    assert not request.HasField("token_quality")


def test_every_field_reaches_the_request() -> None:
    fields: dict[str, object] = {
        "max_completion_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.9,
        "presence_penalty": 0.25,
        "frequency_penalty": -0.5,
        "logit_bias": {"12": -100},
        "stop": "END",
        "seed": 3,
        "logprobs": True,
        "top_logprobs": 2,
        "user": "somebody",
        "top_k": 40,
        "min_p": 0.05,
        "repetition_penalty": 1.5,
        "stop_token_ids": [2],
        "dtufc": {"codec": "raw", "quality": 0.75, "token_quality": 0.5, "drafts": "off"},
    }
    (request,) = requests_of(chat(**fields), max_new_tokens=256)
    assert request == inference_pb2.CompleteRequest(
        coding=inference_pb2.Coding(profile="m", codec="raw", quality=0.75),
        messages=[inference_pb2.ChatMessage(role="user", content="Hello")],
        max_tokens=9,
        sampling=head_pb2.Sampling(
            temperature=0.5,
            top_p=0.9,
            top_k=40,
            min_p=0.05,
            repetition_penalty=1.5,
            presence_penalty=0.25,
            frequency_penalty=-0.5,
            seed=3,
            logit_bias={12: -100},
            log_probabilities=True,
            top_log_probabilities=2,
            stop_token_ids=[2],
        ),
        stop=["END"],
        token_quality=0.5,
        drafts=inference_pb2.DRAFTS_OFF,
    )


def test_n_replies_a_prompt_have_the_seeds_from_the_first_on() -> None:
    requests = requests_of(completion(prompt=["a", "b"], n=2, seed=(1 << 64) - 1), max_new_tokens=256)
    assert [(request.prompt, request.sampling.seed) for request in requests] == [
        ("a", (1 << 64) - 1),
        ("a", 0),
        ("b", (1 << 64) - 1),
        ("b", 0),
    ]
    assert all(request.plain and request.max_tokens == 16 for request in requests)
    one, other = requests_of(chat(n=2), max_new_tokens=256)
    assert other.sampling.seed == one.sampling.seed + 1, "without a seed, several have one that the usage can name"


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"functions": [{}]}, "functions"),
        ({"function_call": {"name": "f"}}, "function_call"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"prediction": {}}, "prediction"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"verbosity": "low"}, "verbosity"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"store": True}, "store"),
        ({"metadata": {"a": "b"}}, "metadata"),
        ({"sead": 1}, "sead"),
        ({"seed": -1}, "seed"),
        ({"seed": "1"}, "seed"),
        ({"n": 0}, "n"),
        ({"n": MAX_REPLIES + 1}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logprobs": 3}, "logprobs"),
        ({"stop": [1]}, "stop[0]"),
        ({"logit_bias": {"a": 1}}, "logit_bias.a"),
        ({"logit_bias": {str(1 << 32): 1}}, f"logit_bias.{1 << 32}"),
        ({"stop_token_ids": [-1]}, "stop_token_ids[0]"),
        ({"top_k": 1 << 32}, "top_k"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),
        ({"dtufc": {"codec": "klt", "rate": 1}}, "dtufc.rate"),
        ({"dtufc": {"drafts": "maybe"}}, "dtufc.drafts"),
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "x", "name": "y"}]}, "messages[0].name"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0].content[0].text"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content[0]",
        ),
    ],
)
def test_a_chat_that_asks_for_what_there_is_not_is_rejected_with_the_field(
    fields: dict[str, object], names: str
) -> None:
    error = rejected(ChatRequest, {**CHAT_BODY, **fields})
    assert error.context["field"] == names
    assert str(error).startswith(f"{names}: ")
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"prompt": [1, 2]}, "prompt[0]"),
        ({"prompt": [[1, 2]]}, "prompt[0]"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a"] * 5, "n": 4}, "n"),
        ({"best_of": 2}, "best_of"),
        ({"echo": True}, "echo"),
        ({"suffix": "x"}, "suffix"),
        ({"logprobs": True}, "logprobs"),
        ({"messages": []}, "messages"),
    ],
)
def test_a_completion_that_asks_for_what_there_is_not_is_rejected_with_the_field(
    fields: dict[str, object], names: str
) -> None:
    assert rejected(CompletionRequest, {**COMPLETION_BODY, **fields}).context["field"] == names


@pytest.mark.parametrize("body", [None, [], "text", 3])
def test_a_body_that_is_no_object_is_told_so(body: object) -> None:
    assert rejected(ChatRequest, body).context["field"] == "body"


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [], "tool_choice": "none", "parallel_tool_calls": True, "response_format": {"type": "text"}},
        {"modalities": ["text"], "store": False, "metadata": {}, "service_tier": "auto", "stop": None, "n": None},
    ],
)
def test_values_that_ask_for_nothing_are_taken(fields: dict[str, object]) -> None:
    assert requests_of(chat(**fields), 256) == requests_of(chat(), 256)


def test_the_whole_chat_says_what_its_chunks_say_together() -> None:
    replies = [
        inference_pb2.CompleteReply(text="He", token=token(1, -0.5, (1, -0.5), (2, -1.5))),
        inference_pb2.CompleteReply(text="", token=token(3, -2.0)),
        end("stop", "llo"),
    ]
    whole, streamed = Choice(0, TEXTS.__getitem__), Choice(0, TEXTS.__getitem__)
    for reply in replies:
        whole.add(reply)
    deltas = [CHAT.delta(streamed.part(reply)) for reply in replies]
    entries = [
        {
            "token": "He",
            "logprob": -0.5,
            "bytes": [72, 101],
            "top_logprobs": [
                {"token": "He", "logprob": -0.5, "bytes": [72, 101]},
                {"token": "llo", "logprob": -1.5, "bytes": [108, 108, 111]},
            ],
        },
        {"token": TEXTS[3], "logprob": -2.0, "bytes": None, "top_logprobs": []},
    ]
    assert CHAT.choice(whole) == {
        "index": 0,
        "message": {"role": "assistant", "content": "Hello"},
        "logprobs": {"content": entries},
        "finish_reason": "stop",
    }
    assert deltas == [
        {"index": 0, "delta": {"content": "He"}, "logprobs": {"content": entries[:1]}, "finish_reason": None},
        {"index": 0, "delta": {}, "logprobs": {"content": entries[1:]}, "finish_reason": None},
        {"index": 0, "delta": {"content": "llo"}, "logprobs": None, "finish_reason": "stop"},
    ]


def test_a_completions_log_probabilities_are_in_the_older_form_with_offsets_that_go_on() -> None:
    replies = [
        inference_pb2.CompleteReply(text="He", token=token(1, -0.5, (2, -1.5))),
        inference_pb2.CompleteReply(text="llo", token=token(2, -0.25)),
        end("length"),
    ]
    whole, streamed = Choice(1, TEXTS.__getitem__), Choice(1, TEXTS.__getitem__)
    for reply in replies:
        whole.add(reply)
    assert COMPLETION.choice(whole) == {
        "index": 1,
        "text": "Hello",
        "logprobs": {
            "tokens": ["He", "llo"],
            "token_logprobs": [-0.5, -0.25],
            "top_logprobs": [{"llo": -1.5}, {}],
            "text_offset": [0, 2],
        },
        "finish_reason": "length",
    }
    parts = [streamed.part(reply) for reply in replies]
    assert [part.offset for part in parts] == [0, 2, 5]


@pytest.mark.parametrize(("ours", "theirs"), [("end", "stop"), ("stop", "stop"), ("length", "length")])
def test_finish_reasons_are_openais(ours: str, theirs: str) -> None:
    choice = Choice(0, str)
    assert choice.finish_reason is None
    choice.add(end(ours))
    assert choice.finish_reason == theirs


def test_the_usage_of_several_choices_is_their_sum_and_a_prompt_counts_once() -> None:
    choices = [Choice(index, str) for index in range(4)]
    for choice in choices:
        choice.add(end("end"))
    usage = usage_of(choices, completion(prompt=["a", "b"], n=2, dtufc={"quality": 0.5}))
    assert usage == {
        "prompt_tokens": 10,
        "completion_tokens": 12,
        "total_tokens": 22,
        "dtufc": {
            "codec": "klt",
            "quality": 0.5,
            "payload_bytes": 320,
            "wire_bytes": 400,
            "raw_bytes": 12800,
            "bpfp": 1.0,
            "stages": {"round_trip": 1.0},
            "drafted": 16,
            "accepted": 8,
            "recoveries": 4,
            "seed": 7,
        },
    }


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (InputError(field="top_p", problem="2", remedy="Give less"), 400, "invalid_request_error"),
        (Overloaded(limit=3), 429, "rate_limit_error"),
        (CacheFull(tokens=1, needed=2, free=1, limit=3), 429, "rate_limit_error"),
        (Unavailable(peer="the cloud", address="a", problem="p"), 503, "server_error"),
        (DeadlineExceeded(peer="the edge", address="a", timeout_s=1), 504, "server_error"),
        (Internal(), 500, "server_error"),
        (Rejected(peer="the cloud", address="a", problem="p"), 502, "server_error"),
        (Corrupt(problem="p"), 502, "server_error"),
    ],
)
def test_errors_have_openais_body_and_a_status_of_their_own(error: DtufcError, status: int, kind: str) -> None:
    response = response_of(error)
    assert response.status_code == status
    assert ("retry-after" in response.headers) == (status == 429)
    param = "top_p" if isinstance(error, InputError) else None
    assert body_of_error(error) == {"error": {"message": str(error), "type": kind, "param": param, "code": error.code}}
