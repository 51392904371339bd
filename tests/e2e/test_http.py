"""OpenAI's interface of a real pair, asked by OpenAI's own client, and by plain HTTP where that cannot go wrong."""

import asyncio
import json
import signal
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
import trustme

from dtufc.client import EdgeClient
from dtufc_edge.http.app import MAX_BODY_BYTES
from tests.e2e.services import Service, free_port, run_to_end, start, stop_all
from tests.serving.test_openai_translation import WRONG_BODIES

MODEL = "smollm2-135m"
ONLY = ("--profiles", MODEL)
TURN: Any = [{"role": "user", "content": "Name three colours of the rainbow."}]
PROMPT = "The capital of France is"
ENDLESS = {"max_tokens": 1000, "logit_bias": {"0": -100, "2": -100}}  # without the tokens that end a reply
BODY = {"model": MODEL, "messages": TURN, "max_tokens": 4, "temperature": 0}


@dataclass(frozen=True)
class Http:
    """An edge, and where its interface is."""

    edge: Service
    url: str

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=60)

    def running(self) -> float:
        return self.edge.total("dtufc_edge_running")

    def wait_until_idle(self, within_s: float) -> None:
        end = time.monotonic() + within_s
        while self.running():
            assert time.monotonic() < end, "the edge works on for nobody"
            time.sleep(0.02)


def http_flags() -> tuple[str, tuple[str, ...]]:
    address = f"127.0.0.1:{free_port()}"
    return f"http://{address}", ("--http-listen", address)


@pytest.fixture(scope="module")
def cloud_alone(logs: Path) -> Iterator[Service]:
    cloud = start("cloud", logs, *ONLY)
    try:
        cloud.wait_until_serving()
        yield cloud
    finally:
        stop_all([cloud])


@pytest.fixture(scope="module")
def http(logs: Path, cloud_alone: Service) -> Iterator[Http]:
    url, flags = http_flags()
    edge = start("edge", logs, "--cloud", cloud_alone.address, *ONLY, *flags)
    try:
        edge.wait_until_serving()
        yield Http(edge, url)
    finally:
        stop_all([edge])


@pytest.fixture(scope="module")
def client(http: Http) -> Iterator[openai.OpenAI]:
    with http.client() as client:
        yield client


@pytest.fixture
def another(launch: Callable[..., Service], cloud_alone: Service) -> Callable[..., Http]:
    """Starts an edge with settings of its own."""

    def launch_one(*given: str, cloud: str = cloud_alone.address) -> Http:
        url, flags = http_flags()
        edge = launch("edge", "--cloud", cloud, *ONLY, *flags, *given)
        edge.wait_until_serving()
        return Http(edge, url)

    return launch_one


def chat(client: openai.OpenAI, **fields: Any) -> Any:
    return client.chat.completions.create(**{**BODY, **fields})


def completion(client: openai.OpenAI, **fields: Any) -> Any:
    return client.completions.create(**{"model": MODEL, "prompt": PROMPT, "max_tokens": 8, "temperature": 0, **fields})


def chat_text(chunks: Any) -> str:
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


def test_the_models_are_the_profiles_that_complete(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).owned_by == "dtufc"
    with pytest.raises(openai.NotFoundError, match="no model gpt here"):
        client.models.retrieve("gpt")


def test_a_chat_says_the_same_whole_streamed_and_over_grpc(client: openai.OpenAI, http: Http) -> None:
    whole = chat(client, max_tokens=24)
    chunks = list(chat(client, max_tokens=24, stream=True))
    with EdgeClient(http.edge.address, timeout_s=60) as over_grpc:
        told = "".join(reply.text for reply in over_grpc.complete(TURN[0]["content"], max_tokens=24, profile=MODEL))
    assert whole.choices[0].message.content == chat_text(chunks) == told != ""
    assert (whole.object, chunks[0].object) == ("chat.completion", "chat.completion.chunk")
    assert chunks[0].choices[0].delta.role == "assistant"
    assert whole.choices[0].finish_reason == chunks[-1].choices[0].finish_reason
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    assert all(chunk.usage is None for chunk in chunks)


def test_a_completion_goes_on_with_the_prompt_as_it_stands_whole_and_streamed(client: openai.OpenAI) -> None:
    whole = completion(client)
    streamed = "".join(choice.text for chunk in completion(client, stream=True) for choice in chunk.choices)
    assert whole.choices[0].text == streamed
    assert "Paris" in streamed
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage.completion_tokens == 8


def test_a_conversation_counts_as_a_whole(client: openai.OpenAI) -> None:
    turns = [
        {"role": "system", "content": "You answer in one word."},
        *TURN,
        {"role": "assistant", "content": [{"type": "text", "text": "Red."}]},
        {"role": "user", "content": "Another one."},
    ]
    longer, shorter = chat(client, messages=turns), chat(client)
    assert longer.usage.prompt_tokens > shorter.usage.prompt_tokens
    again = chat(client, messages=[*TURN, shorter.choices[0].message.model_dump(), *TURN])
    assert again.usage.prompt_tokens > shorter.usage.prompt_tokens


def test_a_stop_text_ends_the_reply_and_is_left_out_whole_and_streamed(client: openai.OpenAI) -> None:
    full = completion(client, max_tokens=12).choices[0].text
    stop = full[len(full) // 2 :][:3]
    whole = completion(client, max_tokens=12, stop=stop)
    chunks = list(completion(client, max_tokens=12, stop=["never said", stop], stream=True))
    assert whole.choices[0].text == full[: full.index(stop)]
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == whole.choices[0].text
    assert whole.choices[0].finish_reason == chunks[-1].choices[0].finish_reason == "stop"


def test_the_same_seed_gives_the_same_text_and_the_usage_names_one_that_was_not_given(client: openai.OpenAI) -> None:
    def asked(seed: int | None) -> tuple[str, int]:
        reply = completion(client, temperature=1.2, max_tokens=12, seed=seed)
        return reply.choices[0].text, reply.usage.dtufc["seed"]

    assert asked(1) == asked(1)
    assert len({asked(seed)[0] for seed in range(4)}) > 1
    text, seed = asked(None)
    assert asked(seed) == (text, seed)


def test_the_temperature_is_openais_where_none_is_given(client: openai.OpenAI) -> None:
    texts = {completion(client, temperature=openai.omit, max_tokens=8, seed=seed).choices[0].text for seed in range(4)}
    assert len(texts) > 1


def test_the_log_probabilities_of_a_chat_are_there_whole_and_streamed(client: openai.OpenAI) -> None:
    whole = chat(client, logprobs=True, top_logprobs=3).choices[0].logprobs.content
    chunks = list(chat(client, logprobs=True, top_logprobs=3, stream=True))
    streamed = [
        token for chunk in chunks for choice in chunk.choices if choice.logprobs for token in choice.logprobs.content
    ]
    assert [token.token for token in whole] == [token.token for token in streamed]
    assert all(token.logprob <= 0 and len(token.top_logprobs) == 3 for token in whole)
    assert all(token.logprob == token.top_logprobs[0].logprob for token in whole), "the most probable one was not taken"
    assert chat(client).choices[0].logprobs is None


def test_the_log_probabilities_of_a_completion_are_in_the_older_form(client: openai.OpenAI) -> None:
    choice = completion(client, logprobs=2).choices[0]
    found = choice.logprobs
    assert "".join(found.tokens) == choice.text
    assert len(found.token_logprobs) == len(found.top_logprobs) == 8
    assert [choice.text[at:].startswith(token) for at, token in zip(found.text_offset, found.tokens, strict=True)]
    assert all(len(top) == 2 and max(top.values()) == value
               for top, value in zip(found.top_logprobs, found.token_logprobs, strict=True))  # fmt: skip


def test_n_replies_are_those_of_their_seeds(client: openai.OpenAI) -> None:
    both = completion(client, n=2, seed=5, temperature=1.2)
    alone = [completion(client, seed=seed, temperature=1.2).choices[0].text for seed in (5, 6)]
    assert [(choice.index, choice.text) for choice in both.choices] == list(enumerate(alone))
    assert both.usage.completion_tokens == 16
    streamed = ["", ""]
    for chunk in completion(client, n=2, seed=5, temperature=1.2, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.text
    assert streamed == alone


def test_several_prompts_have_a_choice_each(client: openai.OpenAI) -> None:
    prompts = [PROMPT, "One, two, three,"]
    both = completion(client, prompt=prompts)
    alone = [completion(client, prompt=prompt) for prompt in prompts]
    assert [choice.text for choice in both.choices] == [one.choices[0].text for one in alone]
    assert both.usage.prompt_tokens == sum(one.usage.prompt_tokens for one in alone)


def test_the_usage_says_what_the_reply_cost_and_a_request_chooses_the_coding(client: openai.OpenAI) -> None:
    coarse, exact = (
        completion(client, extra_body={"dtufc": ours}).usage
        for ours in ({"codec": "klt", "quality": 0.3, "token_quality": 0.3}, {"codec": "raw", "drafts": "off"})
    )
    assert (coarse.dtufc["codec"], coarse.dtufc["quality"], exact.dtufc["codec"]) == ("klt", 0.3, "raw")
    assert coarse.dtufc["payload_bytes"] < coarse.dtufc["wire_bytes"] < exact.dtufc["payload_bytes"]
    assert coarse.dtufc["bpfp"] < exact.dtufc["bpfp"]
    assert exact.dtufc["payload_bytes"] == exact.dtufc["raw_bytes"]
    assert exact.dtufc["drafted"] == exact.dtufc["accepted"] == exact.dtufc["recoveries"] == 0
    assert set(exact.dtufc["stages"]) >= {"edge.backbone", "edge.encode", "round_trip", "cloud.decode"}
    assert coarse.total_tokens == coarse.prompt_tokens + coarse.completion_tokens
    *_, last = completion(client, stream=True, stream_options={"include_usage": True})
    assert (last.choices, last.usage.completion_tokens) == ([], 8)
    assert last.usage.dtufc["wire_bytes"] > 0


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0]",
        ),
        ({"messages": [{"role": "assistant", "content": "Hello"}]}, "messages"),
        ({"extra_body": {"sead": 1}}, "sead"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"temperature": 2.5}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"frequency_penalty": -3}, "frequency_penalty"),
        ({"logit_bias": {"1": 101}}, "logit_bias"),
        ({"logit_bias": {"4000000000": 1}}, "logit_bias"),
        ({"stop": [str(i) for i in range(17)]}, "stop"),
        ({"stop": ""}, "stop"),
        ({"max_tokens": 100_000}, "max_tokens"),
        ({"extra_body": {"min_p": 2}}, "min_p"),
        ({"extra_body": {"repetition_penalty": 0}}, "repetition_penalty"),
        ({"extra_body": {"stop_token_ids": [4000000000]}}, "stop_token_ids"),
        ({"extra_body": {"dtufc": {"codec": "zip"}}}, "codec"),
        ({"extra_body": {"dtufc": {"quality": 2}}}, "quality"),
        ({"extra_body": {"dtufc": {"token_quality": -1}}}, "quality"),
    ],
)
def test_what_cannot_be_done_is_a_bad_request_that_names_the_field(
    client: openai.OpenAI, fields: dict[str, Any], param: str
) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            chat(client, **fields, stream=stream)
        assert str(caught.value.param).startswith(param)
        assert str(caught.value.body["message"]).startswith(str(caught.value.param))  # type: ignore[index]


def test_a_completion_rejects_token_arrays_and_what_is_not_supported(client: openai.OpenAI) -> None:
    for fields in (
        {"prompt": [1, 2]},
        {"echo": True},
        {"suffix": "x"},
        {"best_of": 2},
        {"prompt": ""},
        {"prompt": "x" * 100_000},
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            completion(client, **fields)
        assert str(caught.value.param).startswith(next(iter(fields)))


@pytest.mark.parametrize("path", ["chat/completions", "completions"])
def test_a_wrong_body_of_any_kind_is_a_bad_request_at_once(http: Http, path: str) -> None:
    for name, content in WRONG_BODIES.items():
        begin = time.perf_counter()
        response = httpx2.post(f"{http.url}/v1/{path}", content=content, headers={"Content-Type": "application/json"})
        assert time.perf_counter() - begin < 1, name
        assert response.status_code == 400, name
        assert len(response.content) < 1000, name
    assert "Traceback" not in http.edge.log_text()


def test_an_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    for call in (chat, completion):
        with pytest.raises(openai.NotFoundError) as caught:
            call(client, model="gpt-4o")
        assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
        assert MODEL in str(caught.value)


def test_a_stream_that_is_closed_ends_its_work(client: openai.OpenAI, http: Http) -> None:
    stream = completion(client, **{**ENDLESS, "max_tokens": 250}, n=2, stream=True)
    next(iter(stream))
    assert http.running() == 2
    stream.close()
    http.wait_until_idle(within_s=1)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_before_the_answer_ends_its_work(http: Http, stream: bool) -> None:
    body = {"model": MODEL, "prompt": PROMPT * 50, "max_tokens": 250, "stream": stream}
    with pytest.raises(httpx2.ReadTimeout):
        httpx2.post(f"{http.url}/v1/completions", json=body, timeout=0.1)
    http.wait_until_idle(within_s=2)  # a pass of the model that has begun runs to its end
    assert "Traceback" not in http.edge.log_text()


def test_several_are_served_at_a_time_by_the_asynchronous_client(http: Http) -> None:
    async def scene() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{http.url}/v1", api_key="none", max_retries=0) as client:

            async def streamed() -> str:
                stream = await client.completions.create(
                    model=MODEL, prompt=PROMPT, max_tokens=8, temperature=0, stream=True
                )
                return "".join([choice.text async for chunk in stream for choice in chunk.choices])

            async def whole() -> str:
                reply = await client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=8, temperature=0)
                return reply.choices[0].text

            return list(await asyncio.gather(streamed(), whole(), streamed(), whole()))

    assert len(set(asyncio.run(scene()))) == 1


def test_health_and_metrics_are_those_of_the_edge(http: Http) -> None:
    health = httpx2.get(f"{http.url}/health")
    assert (health.status_code, health.json()) == (200, {"status": "SERVING"})
    page = httpx2.get(f"{http.url}/metrics")
    assert page.headers["content-type"].startswith("text/plain; version=")
    assert "dtufc_edge_requests_total" in page.text


def test_a_stream_is_server_sent_events_and_ends_with_done(http: Http) -> None:
    with httpx2.stream("POST", f"{http.url}/v1/chat/completions", json={**BODY, "stream": True}) as response:
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        text = response.read().decode()
    *events, done, rest = text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    for event in events:
        name, _, data = event.partition(": ")
        assert name == "data"
        assert json.loads(data)["object"] == "chat.completion.chunk"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize(
    ("content", "media"),
    [
        (b"{", "application/json"),
        (b"", "application/json"),
        (b"\xff", "application/json"),
        (b"[" * 100_000, "application/json"),
        (b'{"seed": ' + b"1" * 5000 + b"}", "application/json"),
        (json.dumps(BODY).encode(), "text/plain"),
        (json.dumps(BODY).encode(), "application/x-www-form-urlencoded"),
    ],
)
def test_a_body_that_is_no_json_is_a_bad_request(http: Http, path: str, content: bytes, media: str) -> None:
    response = httpx2.post(f"{http.url}{path}", content=content, headers={"Content-Type": media})
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/chat/completions", 405), ("POST", "/v1/models", 405), ("GET", "/v1/embeddings", 404)],
)
def test_other_methods_and_paths_have_openais_error_too(http: Http, method: str, path: str, status: int) -> None:
    response = httpx2.request(method, f"{http.url}{path}")
    assert (response.status_code, response.json()["error"]["param"]) == (status, None)


def test_what_the_edge_has_no_room_for_is_rejected_and_says_so(another: Callable[..., Http]) -> None:
    http = another("--queue-limit", "0")
    with http.client() as client, pytest.raises(openai.RateLimitError) as caught:
        completion(client, n=2)
    assert caught.value.response.headers["retry-after"] == "1"
    http.wait_until_idle(within_s=2)
    for content in (b"x" * (MAX_BODY_BYTES + 1), iter([b"x" * 600_000] * 2)):  # one with a length, one without
        large = httpx2.post(f"{http.url}/v1/completions", content=content, headers={"Content-Type": "application/json"})
        assert (large.status_code, large.json()["error"]["type"]) == (413, "invalid_request_error")


def test_the_deadline_of_the_settings_holds_before_a_stream_and_within_one(another: Callable[..., Http]) -> None:
    http = another("--timeout-s", "1.5", "--max-new-tokens", "1000")
    with http.client() as client:
        with pytest.raises(openai.InternalServerError) as caught:
            completion(client, **ENDLESS)
        assert (caught.value.status_code, caught.value.code) == (504, "DEADLINE_EXCEEDED")
        begun = completion(client, **ENDLESS, stream=True)
        with pytest.raises(openai.APIError, match="no answer from the edge") as in_stream:
            list(begun)
        assert in_stream.value.code == "DEADLINE_EXCEEDED"
    http.wait_until_idle(within_s=1)
    assert "Traceback" not in http.edge.log_text()


def test_without_a_cloud_the_service_is_unavailable(another: Callable[..., Http]) -> None:
    http = another(cloud=f"127.0.0.1:{free_port()}")
    with http.client() as client:
        for stream in (False, True):
            with pytest.raises(openai.InternalServerError) as caught:
                chat(client, stream=stream)
            assert (caught.value.status_code, caught.value.code) == (503, "UNAVAILABLE")


def test_a_stop_drains_what_runs_and_says_that_it_serves_no_more(another: Callable[..., Http]) -> None:
    http = another("--drain-s", "20")
    with http.client() as client:
        stream = iter(completion(client, **{**ENDLESS, "max_tokens": 60}, stream=True))
        next(stream)
        http.edge.process.send_signal(signal.SIGTERM)
        end = time.monotonic() + 10
        while (health := httpx2.get(f"{http.url}/health")).status_code == 200:
            assert time.monotonic() < end
        assert health.status_code == 503
        rejected = httpx2.post(f"{http.url}/v1/completions", json={})
        assert (rejected.status_code, rejected.json()["error"]["code"]) == (503, "UNAVAILABLE")
        *_, last = stream
        assert last.choices[0].finish_reason == "length"
    assert http.edge.process.wait(10) == 0
    assert "Traceback" not in http.edge.log_text()


def test_what_outlasts_the_drain_ends_with_an_error(another: Callable[..., Http]) -> None:
    http = another("--drain-s", "0.3", "--max-new-tokens", "1000")
    with http.client() as client:
        stream = iter(completion(client, **ENDLESS, stream=True))
        next(stream)
        http.edge.process.terminate()
        with pytest.raises(openai.APIError, match="it is stopping"):
            list(stream)
        assert http.edge.process.wait(10) == 0
    assert "Traceback" not in http.edge.log_text()


def test_the_interface_has_the_tls_of_the_grpc_address(launch: Callable[..., Service], tmp_path: Path) -> None:
    authority = trustme.CA()
    ca, certificate, key = tmp_path / "ca.pem", tmp_path / "edge.pem", tmp_path / "edge.key"
    issued = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(str(ca))
    certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(str(key))
    url, flags = http_flags()
    files = ("--tls-certificate", str(certificate), "--tls-key", str(key), "--tls-ca", str(ca))
    launch("edge", *ONLY, *flags, *files).wait_until_logged("serving")

    anybody, client = ssl.create_default_context(cafile=ca), ssl.create_default_context(cafile=ca)
    client.load_cert_chain(certificate, key)
    encrypted = f"{url.replace('http', 'https')}/health"
    assert httpx2.get(encrypted, verify=client).json() == {"status": "SERVING"}
    for address, context in ((encrypted, anybody), (f"{url}/health", client)):
        with pytest.raises(httpx2.TransportError):
            httpx2.get(address, verify=context)


@pytest.mark.parametrize("address", ["taken", "192.0.2.1:8000", "nowhere"])
def test_an_address_that_cannot_be_taken_is_told_before_models_are_loaded(http: Http, address: str) -> None:
    given = http.url.removeprefix("http://") if address == "taken" else address
    flags = ("--listen", f"127.0.0.1:{free_port()}", "--metrics-listen", f"127.0.0.1:{free_port()}")
    edge = run_to_end("edge", *flags, "--http-listen", given)
    _, stderr = edge.communicate(timeout=60)
    assert edge.returncode == 2
    assert "http_listen: " in stderr
    assert "Traceback" not in stderr
