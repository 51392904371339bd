"""OpenAI's requests to those of inference.proto, and replies to OpenAI's objects: pure functions."""

import json
import tracemalloc
from collections.abc import Mapping, Sequence
from typing import Any

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
from dtufc.serving.limits import MAX_LOGIT_BIASES, MAX_STOP_TEXTS, MAX_STOP_TOKEN_IDS
from dtufc.v1 import head_pb2, inference_pb2
from dtufc_edge.detokenizer import Detokenizer, TokenTexts
from dtufc_edge.http.app import MAX_BODY_BYTES
from dtufc_edge.http.errors import body_of_error, response_of
from dtufc_edge.http.schema import MAX_MESSAGES, MAX_PARTS, MAX_REPLIES, ChatRequest, CompletionRequest, input_error
from dtufc_edge.http.translate import CHAT, COMPLETION, Choice, requests_of, usage_of
from tests.models.test_detokenizer import decoder_of, pieces
from tests.models.tokens import SPACE, tokenizer_of

CHAT_BODY: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}
PARTS = [{"type": "text", "text": "x"}]
COMPLETION_BODY = {"model": "m", "prompt": "Once"}
CUT = "\N{REPLACEMENT CHARACTER}"
TEXTS = TokenTexts(lambda ids: "".join({0: "a", 1: "He", 2: "llo", 3: CUT}[token_id] for token_id in ids), [0])


def filled(start: str, element: str, end: str) -> bytes:
    """A body of so many elements that it is just below the limit; `{i}` of an element is its number."""
    count = (MAX_BODY_BYTES - len(start) - len(end)) // (len(element.replace("{i}", "0" * 6)) + 1)
    body = start + ",".join(element.replace("{i}", f"{i:06}") for i in range(count)) + end
    assert 0.99 * MAX_BODY_BYTES < len(body) < MAX_BODY_BYTES
    return body.encode()


_HEAD = '{"model": "m", '
_TURNS = '"messages": [{"role": "user", "content": "x"}]'
WRONG_BODIES: Mapping[str, bytes] = {
    "empty messages": filled(_HEAD + '"messages": [', "{}", "]}"),
    "messages of another type": filled(_HEAD + '"messages": [', "0", "]}"),
    "good messages": filled(_HEAD + '"messages": [', '{"role":"user","content":"x"}', "]}"),
    "messages of bad parts": filled(
        _HEAD + '"messages": [', '{"role":"user","content":[' + ",".join(["{}"] * 999) + "]}", "]}"
    ),
    "bad parts": filled(_HEAD + '"messages": [{"role": "user", "content": [', "{}", "]}]}"),
    "parts of a bad type": filled(_HEAD + '"messages": [{"role": "user", "content": [', '{"type":1}', "]}]}"),
    "stop": filled(_HEAD + _TURNS + ', "stop": [', "[]", "]}"),
    "stop_token_ids": filled(_HEAD + _TURNS + ', "stop_token_ids": [', "-1", "]}"),
    "logit_bias": filled(_HEAD + _TURNS + ', "logit_bias": {', '"a{i}":""', "}}"),
    "unknown fields": filled("{", '"a{i}":{}', "}"),
    "unknown fields of dtufc": filled(_HEAD + _TURNS + ', "dtufc": {', '"a{i}":0', "}}"),
    "unknown fields of a message": filled(_HEAD + '"messages": [{', '"a{i}":0', "}]}"),
    "one long name": f'{{"{"x" * (MAX_BODY_BYTES - 99)}": 0}}'.encode(),
    "no object": filled("[", "[]", "]"),
    "deep": _HEAD.encode() + b'"tools": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    **{f"{depth} deep": _HEAD.encode() + b'"tools": ' + b"[" * depth + b"]" * depth + b"}" for depth in (500, 900)},
    **{f"{depth} deep unknown": b'{"a": ' * depth + b"0" + b"}" * depth for depth in range(800, 1000, 20)},
}


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
        ({"stop": ["x"] * (MAX_STOP_TEXTS + 1)}, "stop"),
        ({"stop_token_ids": [1] * (MAX_STOP_TOKEN_IDS + 1)}, "stop_token_ids"),
        ({"logit_bias": {str(i): 1 for i in range(MAX_LOGIT_BIASES + 1)}}, "logit_bias"),
        ({"messages": CHAT_BODY["messages"] * (MAX_MESSAGES + 1)}, "messages"),
        ({"messages": [{"role": "user", "content": PARTS * (MAX_PARTS + 1)}]}, "messages[0].content"),
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


def test_as_much_as_the_limits_allow_is_taken() -> None:
    fields: dict[str, Any] = {
        "messages": [{"role": "user", "content": PARTS * MAX_PARTS}, *CHAT_BODY["messages"] * (MAX_MESSAGES - 1)],
        "stop": ["x"] * MAX_STOP_TEXTS,
        "stop_token_ids": [1] * MAX_STOP_TOKEN_IDS,
        "logit_bias": {str(i): 1 for i in range(MAX_LOGIT_BIASES)},
    }
    (request,) = requests_of(chat(**fields), 256)
    assert (len(request.messages), request.messages[0].content) == (MAX_MESSAGES, "x" * MAX_PARTS)
    assert len(request.sampling.logit_bias) == MAX_LOGIT_BIASES


@pytest.mark.parametrize("name", WRONG_BODIES)
def test_a_wrong_body_of_any_kind_takes_little_memory_and_gives_a_short_message(name: str) -> None:
    tracemalloc.start()
    try:
        for kind in (ChatRequest, CompletionRequest):
            try:
                body = json.loads(WRONG_BODIES[name])
            except RecursionError:  # it is rejected before it is looked at
                continue
            assert len(str(rejected(kind, body))) < 500
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100 << 20


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
    whole, streamed = Choice(0, TEXTS), Choice(0, TEXTS)
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
        {"token": CUT, "logprob": -2.0, "bytes": None, "top_logprobs": []},
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
    whole, streamed = Choice(1, TEXTS), Choice(1, TEXTS)
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


def told(name: str, ids: Sequence[int]) -> tuple[Choice, list[Choice]]:
    """A reply of these tokens, whole and in parts."""
    decoder = decoder_of(name)
    texts = TokenTexts(decoder.decode, tokenizer_of(name)("a")["input_ids"])
    whole, streamed, detokenizer = Choice(0, texts), Choice(0, texts), Detokenizer(decoder.decode, decoder.is_open)
    replies = [inference_pb2.CompleteReply(text=detokenizer.add(i), token=token(i, -1.0)) for i in ids]
    replies.append(end("length", detokenizer.finish()))
    for reply in replies:
        whole.add(reply)
    return whole, [streamed.part(reply) for reply in replies]


@pytest.mark.parametrize("name", ["llama", "unigram", "wordpiece", "byte-level"])
@pytest.mark.parametrize("text", ["the cat  did not\n\n", "  a </s> the", "Cat, don't!", "<table>the"])
def test_the_texts_of_the_tokens_are_together_the_reply(name: str, text: str) -> None:
    ids = tokenizer_of(name)(text)["input_ids"]
    for start in range(min(4, len(ids))):
        whole, parts = told(name, ids[start:])
        assert "".join(whole.texts) == whole.text == "".join(text for part in parts for text in part.texts)
        found: Any = COMPLETION.choice(whole)["logprobs"]
        assert found["text_offset"] == [part.offset for part in parts[:-1]]
        assert all(map(whole.text.startswith, found["tokens"][:1]))
        content: Any = CHAT.choice(whole)["logprobs"]
        assert bytes(byte for entry in content["content"] for byte in entry["bytes"]) == whole.text.encode()


def test_a_token_has_its_space_behind_others_and_a_part_of_a_character_has_no_text() -> None:
    whole, _ = told("llama", pieces("llama", f"{SPACE}the", f"{SPACE}the", "<0x0A>", "a", "<0xE4>", "<0xB8>", "<0xAD>"))
    assert whole.texts == ["the", " the", "\n", "a", CUT, CUT, CUT]
    assert whole.text == "the the\na中"
    content: Any = CHAT.choice(whole)["logprobs"]
    assert [entry["bytes"] for entry in content["content"]][2:5] == [[10], [97], None]


def test_of_tokens_with_the_same_text_the_older_form_has_the_most_probable() -> None:
    choice = Choice(0, TEXTS)
    choice.add(inference_pb2.CompleteReply(text="", token=token(3, -0.5, (3, -0.5), (1, -1.0), (3, -4.0))))
    found: Any = COMPLETION.choice(choice)["logprobs"]
    assert found["top_logprobs"] == [{CUT: -0.5, "He": -1.0}]


@pytest.mark.parametrize(("ours", "theirs"), [("end", "stop"), ("stop", "stop"), ("length", "length")])
def test_finish_reasons_are_openais(ours: str, theirs: str) -> None:
    choice = Choice(0, TEXTS)
    assert choice.finish_reason is None
    choice.add(end(ours))
    assert choice.finish_reason == theirs


def test_the_usage_of_several_choices_is_their_sum_and_a_prompt_counts_once() -> None:
    choices = [Choice(index, TEXTS) for index in range(4)]
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
