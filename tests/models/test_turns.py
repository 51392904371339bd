"""What a client sends is a conversation, or an error that names the field."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch

from dtufc.errors import InputError
from dtufc.models.capabilities import Turn
from dtufc.serving.worker import Worker
from dtufc.v1 import inference_pb2
from dtufc_edge.pipeline import EdgePipeline
from dtufc_edge.settings import EdgeSettings
from dtufc_edge.tasks import Call
from dtufc_edge.tasks.text import prompt_ids, turns_of
from tests.models.test_zoo import profile_of
from tests.models.tokens import save_tiny, tokenizer_of


def request(*messages: tuple[str, str], prompt: str = "", plain: bool = False) -> inference_pb2.CompleteRequest:
    sent = [inference_pb2.ChatMessage(role=role, content=content) for role, content in messages]
    return inference_pb2.CompleteRequest(prompt=prompt, messages=sent, plain=plain)


def test_a_prompt_is_one_turn_of_the_user() -> None:
    for plain in (False, True):
        assert turns_of(request(prompt=" hi\n", plain=plain)) == [Turn(role="user", content=" hi\n")]


def test_messages_are_turns_as_they_are_and_only_the_user_must_say_something() -> None:
    sent = [("system", ""), ("user", " a\n"), ("assistant", ""), ("user", "b")]
    turns = turns_of(request(*sent))
    assert [(turn.role, turn.content) for turn in turns] == sent


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (request(), r"prompt: it is empty\."),
        (request(prompt=" \n"), r"prompt: it is empty\."),
        (request(("user", "a"), prompt="b"), r"prompt: there are messages as well\."),
        (request(("user", "a"), prompt=" "), r"prompt: there are messages as well\."),
        (request(("user", "a"), plain=True), r"plain: "),
        (
            request(("user", "a"), ("tool", "b"), ("user", "c")),
            r"messages\[1\]\.role: 'tool' is not known\. Give",
        ),
        (request(("", "a")), r"messages\[0\]\.role: it is empty\."),
        (request(("User", "a")), r"messages\[0\]\.role: 'User' is not known\."),
        (request(("user", "a"), ("assistant", "b"), ("user", "\t")), r"messages\[2\]\.content: it is empty\."),
        (request(("user", "a"), ("assistant", "b")), r"messages\[1\]\.role: the last message is of assistant\."),
        (request(("system", "a")), r"messages\[0\]\.role: the last message is of system\."),
    ],
)
def test_anything_else_is_an_error_that_names_the_field(sent: inference_pb2.CompleteRequest, message: str) -> None:
    with pytest.raises(InputError, match=message):
        turns_of(sent)


def test_a_conversation_becomes_tokens_within_the_limits(tmp_path: Path) -> None:
    """Limits of 10 tokens: 160 characters over all messages, and 10 messages, before anything is tokenized."""
    save_tiny("byte-level", tmp_path / "model")
    pipeline = EdgePipeline(profile_of("decoder", tmp_path / "model", 1), torch.device("cpu"), torch.float32)
    nobody: Any = None

    async def ids_of(turns: list[Turn], plain: bool) -> list[int]:
        call = Call(
            pipeline=pipeline,
            settings=EdgeSettings(max_prompt_tokens=10),
            admitted=nobody,
            worker=Worker(threads=1, queue_limit=0),
            exchange=nobody,
            passes=nobody,
            images=nobody,
            budget=nobody,
        )
        return await prompt_ids(call, turns, plain=plain)

    def ids(*contents: str, plain: bool = False) -> list[int]:
        return asyncio.run(ids_of([Turn(role="user", content=content) for content in contents], plain))

    tokenizer = tokenizer_of("byte-level")
    assert ids("the cat", plain=True) == tokenizer("the cat")["input_ids"]
    assert tokenizer.decode(ids("the cat")) == "<s>[INST] the cat [/INST]"
    with pytest.raises(InputError, match=r"prompt: 161 characters\. Stay within 10 tokens\."):
        ids("a" * 80, "b" * 81)
    with pytest.raises(InputError, match=r"prompt: 17 tokens\."):
        ids("abcdefghijkl")
    with pytest.raises(InputError, match=r"messages: 11 messages\."):
        ids(*["a"] * 11)
