"""What clients send: options as they cross the wire, and what cannot cross it is bad input at once."""

import math
from collections.abc import Callable

import pytest

from dtufc import Sampling
from dtufc.client.requests import chat_request, complete_request, image_request
from dtufc.coding.rate import Rate
from dtufc.errors import InputError
from dtufc.v1 import head_pb2, inference_pb2

BAD: dict[str, Callable[[], object]] = {
    # the field that the error names, and the call
    "temperature": lambda: Sampling(temperature=math.nan),
    "top_p": lambda: Sampling(top_p=math.inf),
    "top_k": lambda: Sampling(top_k=-1),
    "seed": lambda: Sampling(seed=1 << 64),
    "width": lambda: image_request("rocket", width=64.5),  # type: ignore[arg-type]
    "steps": lambda: image_request("rocket", steps=math.nan),  # type: ignore[arg-type]
    "guidance": lambda: image_request("rocket", guidance=math.inf),
    "min_p": lambda: Sampling(min_p="0.5"),  # type: ignore[arg-type]
    "stop_token_ids": lambda: Sampling(stop_token_ids=[5, -5]),
    "logit_bias": lambda: Sampling(logit_bias={7: math.nan}),
    "max_tokens": lambda: complete_request("Hi", max_tokens=0),
    "token_quality": lambda: complete_request("Hi", token_quality=math.nan),
    "drafts": lambda: complete_request("Hi", drafts="sometimes"),
    "stop": lambda: complete_request("Hi", stop=["\udcff"]),
    "prompt": lambda: complete_request("\udcff"),
    "messages": lambda: chat_request([]),
    "messages[0]": lambda: chat_request([{"role": "user", "content": "Hi", "name": "Ann"}]),
    "messages[1]": lambda: chat_request([{"role": "user", "content": "Hi"}, {"role": "user", "content": ["Hi"]}]),  # type: ignore[dict-item]
}


@pytest.mark.parametrize("field", BAD)
def test_what_a_message_cannot_carry_is_an_input_error_that_names_the_field(field: str) -> None:
    with pytest.raises(InputError) as caught:
        BAD[field]()
    assert caught.value.context["field"] == field


def test_every_option_is_in_the_request() -> None:
    sampling = Sampling(temperature=0.7, top_p=0.9, seed=0, logit_bias={7: -100.0}, stop_token_ids=[2])
    request = complete_request(
        "Hi",
        plain=True,
        max_tokens=5,
        sampling=sampling,
        stop="\n",
        token_quality=0.0,
        drafts="on",
        codec="klt",
        rate=Rate(quality=0.9),
    )
    assert request == inference_pb2.CompleteRequest(
        coding=inference_pb2.Coding(codec="klt", quality=0.9),
        prompt="Hi",
        max_tokens=5,
        plain=True,
        sampling=head_pb2.Sampling(temperature=0.7, top_p=0.9, seed=0, logit_bias={7: -100.0}, stop_token_ids=[2]),
        stop=["\n"],
        token_quality=0.0,
        drafts=inference_pb2.DRAFTS_ON,
    )
    assert request.HasField("token_quality")
    assert request.sampling.HasField("seed")


def test_what_is_not_given_is_left_to_the_edge() -> None:
    assert Sampling().message() == head_pb2.Sampling()


def test_messages_are_dictionaries_or_those_of_the_wire() -> None:
    given = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    request = chat_request(given)
    assert [(turn.role, turn.content) for turn in request.messages] == [("system", "Be brief."), ("user", "Hi")]
    assert chat_request(list(request.messages)) == request
    assert not request.prompt


def test_an_option_that_there_is_not_is_no_option() -> None:
    with pytest.raises(TypeError, match="max_token"):
        complete_request("Hi", max_token=5)  # type: ignore[call-arg]
