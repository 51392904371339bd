"""HeadService.Generate and Step as somebody else's edge may call them: every message that is wrong is told as such."""

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest
import torch

from dtufc.coding import bitstream
from dtufc.coding.feature_codec import EncodedFrame
from dtufc.serving.limits import MAX_DRAFTED
from dtufc.serving.transport import channel
from dtufc.v1 import head_pb2, head_pb2_grpc
from dtufc_cloud.pipeline import CloudPipeline
from tests.serving.local_pair import local_cloud, pipelines, tiny_decoder

CHANNELS = 32
NUM_PROMPT_ROWS = 6
MAX_ROWS = 20
OK = grpc.StatusCode.OK
INPUT = grpc.StatusCode.INVALID_ARGUMENT
LOST = grpc.StatusCode.ABORTED
MISMATCH = grpc.StatusCode.FAILED_PRECONDITION


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> CloudPipeline:
    return pipelines(tiny_decoder("Llama", tmp_path_factory.mktemp("llama")))[1]


class Speaker:
    """Writes the messages of one session."""

    def __init__(self, pipeline: CloudPipeline) -> None:
        self.pipeline = pipeline
        self.features = torch.from_numpy(np.random.default_rng(0).normal(size=(64, CHANNELS)).astype(np.float32))

    def open(self, **changes: Any) -> head_pb2.OpenSession:
        fields: dict[str, Any] = {
            "profile": "tiny",
            "codec": "raw",
            "dtype": "float32",
            "channels": CHANNELS,
            "max_rows": MAX_ROWS,
            "num_prompt_rows": NUM_PROMPT_ROWS,
        }
        return head_pb2.OpenSession(**{**fields, **changes})

    def frame(self, start: int, stop: int) -> EncodedFrame:
        return self.pipeline.codec.encode(self.features[start:stop], codec="raw")

    def rows(self, start: int, stop: int) -> head_pb2.Rows:
        return head_pb2.Rows(frame=self.frame(start, stop), position=start)

    def step(self, position: int, count: int = 1) -> head_pb2.Rows:
        frame = self.frame(position, position + count)
        return head_pb2.Rows(step_frame=bitstream.pack_step(frame.frame, position))

    def prompt(self, **changes: Any) -> head_pb2.GenerateRequest:
        return head_pb2.GenerateRequest(open=self.open(**changes), rows=[self.rows(0, NUM_PROMPT_ROWS)])


Message = head_pb2.GenerateRequest
Messages = Callable[[Speaker], list[Message]]


async def spoken(pipeline: CloudPipeline, messages: list[Message], **settings: Any) -> tuple[Any, list[Any]]:
    """The status of a stream of messages, and its replies; afterwards nothing is held."""
    async with local_cloud(pipeline, **settings) as cloud, channel(cloud.address) as to_cloud:
        call = head_pb2_grpc.HeadServiceStub(to_cloud).Generate(timeout=20)  # type: ignore[no-untyped-call]
        replies: list[Any] = []
        try:
            for message in messages:
                await call.write(message)
                reply = await call.read()
                if reply is grpc.aio.EOF:
                    break
                replies.append(reply)
            await call.done_writing()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass
        code = await call.code()
        assert cloud.service.sessions.budget.reserved == cloud.service.sessions.budget.sequences == 0
        assert code not in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN), await call.details()
        return code, replies


WRONG: dict[str, tuple[grpc.StatusCode, Messages]] = {
    "nothing": (INPUT, lambda s: [Message()]),
    "rows before the opening": (INPUT, lambda s: [Message(rows=[s.rows(0, 3)])]),
    "an opening twice": (INPUT, lambda s: [s.prompt(), s.prompt()]),
    "a profile that is not served": (MISMATCH, lambda s: [s.prompt(profile="other")]),
    "a codec that is none": (INPUT, lambda s: [s.prompt(codec="zip")]),
    "a type that is none": (INPUT, lambda s: [s.prompt(dtype="int8")]),
    "other channels": (INPUT, lambda s: [s.prompt(channels=31)]),
    "no channels": (INPUT, lambda s: [s.prompt(channels=0)]),
    "channels without end": (INPUT, lambda s: [s.prompt(channels=(1 << 32) - 1)]),
    "no prompt": (INPUT, lambda s: [s.prompt(num_prompt_rows=0)]),
    "a prompt beyond all rows": (INPUT, lambda s: [s.prompt(num_prompt_rows=21)]),
    "rows beyond the model": (INPUT, lambda s: [s.prompt(max_rows=129)]),
    "rows without end": (INPUT, lambda s: [s.prompt(max_rows=(1 << 32) - 1)]),
    "tokens that are none": (INPUT, lambda s: [s.prompt(new_ids=[97])]),
    "more tokens than rows": (INPUT, lambda s: [s.prompt(new_ids=[1] * 21)]),
    "prompt tokens that are none": (INPUT, lambda s: [s.prompt(prompt_ids=[1 << 31])]),
    "a temperature below 0": (INPUT, lambda s: [s.prompt(sampling=head_pb2.Sampling(temperature=-1))]),
    "a temperature without a seed": (INPUT, lambda s: [s.prompt(sampling=head_pb2.Sampling(temperature=1))]),
    "a bias for no token": (INPUT, lambda s: [s.prompt(sampling=head_pb2.Sampling(logit_bias={97: 1.0}))]),
    "ends without end": (INPUT, lambda s: [s.prompt(end_ids=[1] * 65)]),
    "no rows": (INPUT, lambda s: [s.prompt(), Message()]),
    "rows that go on for ever at one place": (
        INPUT,
        lambda s: [s.prompt(max_rows=128), Message(rows=[s.step(6)] * 99)],
    ),
    "a gap in the rows": (INPUT, lambda s: [s.prompt(), Message(rows=[s.step(7)])]),
    "a gap in one message": (INPUT, lambda s: [s.prompt(), Message(rows=[s.step(6), s.step(8)])]),
    "rows twice in one message": (INPUT, lambda s: [s.prompt(), Message(rows=[s.step(6), s.step(6)])]),
    "more rows than were named": (INPUT, lambda s: [s.prompt(), Message(rows=[s.rows(6, 21)])]),
    "more frames than rows": (INPUT, lambda s: [s.prompt(), Message(rows=[s.step(6)] * 21)]),
    "a token within the prompt": (INPUT, lambda s: [s.prompt(), Message(rows=[s.rows(2, 4)])]),
    "rows ahead of the reply": (INPUT, lambda s: [s.prompt(), Message(rows=[s.rows(6, 9)])]),
    "rows that are nothing": (INPUT, lambda s: [s.prompt(), Message(rows=[head_pb2.Rows()])]),
    "a frame that is cut": (INPUT, lambda s: [s.prompt(), Message(rows=[head_pb2.Rows(frame=s.frame(6, 7)[:20])])]),
    "a step frame that is cut": (INPUT, lambda s: [s.prompt(), Message(rows=[head_pb2.Rows(step_frame=b"\6\1")])]),
    "a frame of other channels": (
        INPUT,
        lambda s: [
            s.prompt(),
            Message(rows=[head_pb2.Rows(frame=s.pipeline.codec.encode(s.features[:1, :31], codec="raw"), position=6)]),
        ],
    ),
    "a step frame of another type": (
        INPUT,
        lambda s: [s.prompt(dtype="bfloat16"), Message(rows=[s.step(6)])],
    ),
    "guesses without rows": (INPUT, lambda s: [s.prompt(), Message(rows=[s.step(6)], drafted=[1])]),
    "guesses that are held": (INPUT, lambda s: [s.prompt(), Message(rows=[s.step(6, 2)], drafted=[1], hold=True)]),
    "too many guesses": (
        INPUT,
        lambda s: [s.prompt(max_rows=64), Message(rows=[s.rows(6, 24)], drafted=[1] * (MAX_DRAFTED + 1))],
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_message_that_is_wrong_ends_the_session_with_its_error(what: str, pipeline: CloudPipeline) -> None:
    status, messages = WRONG[what]
    code, _ = asyncio.run(spoken(pipeline, messages(Speaker(pipeline))))
    assert code == status


def test_rows_that_come_again_give_the_same_tokens(pipeline: CloudPipeline) -> None:
    speaker = Speaker(pipeline)
    steps = [Message(rows=[speaker.step(6 + index)]) for index in range(4)]
    code, replies = asyncio.run(spoken(pipeline, [speaker.prompt(), *steps, *steps[2:], steps[1], *steps[2:]]))
    assert code == OK
    tokens = [[token.token_id for token in reply.tokens] for reply in replies]
    assert tokens[5:7] == tokens[3:5]
    assert tokens[7:] == tokens[2:5]
    assert [reply.num_rows for reply in replies] == [6, 7, 8, 9, 10, 9, 10, 8, 9, 10]


def test_a_session_that_was_lost_goes_on_with_its_rows_in_one_message(pipeline: CloudPipeline) -> None:
    speaker = Speaker(pipeline)
    sampling = head_pb2.Sampling(temperature=1.0, seed=3, presence_penalty=2.0, repetition_penalty=1.5)
    first = speaker.prompt(sampling=sampling, prompt_ids=range(NUM_PROMPT_ROWS))
    steps = [Message(rows=[speaker.step(6 + index)]) for index in range(6)]
    _, replies = asyncio.run(spoken(pipeline, [first, *steps]))
    tokens = [reply.tokens[0].token_id for reply in replies]
    again = speaker.prompt(sampling=sampling, prompt_ids=range(NUM_PROMPT_ROWS), new_ids=tokens[:5])
    again.rows.extend(speaker.rows(6 + index, 7 + index) for index in range(4))
    again.hold = True
    code, replies = asyncio.run(spoken(pipeline, [again, *steps[4:]]))
    assert code == OK
    assert not replies[0].tokens
    assert [reply.tokens[0].token_id for reply in replies[1:]] == tokens[5:]


def test_calls_of_step_are_a_session_too_and_one_that_is_not_known_is_lost(pipeline: CloudPipeline) -> None:
    speaker, key = Speaker(pipeline), b"0123456789abcdef"

    async def run() -> None:
        async with local_cloud(pipeline, session_idle_s=0.3) as cloud, channel(cloud.address) as to_cloud:
            stub = head_pb2_grpc.HeadServiceStub(to_cloud)  # type: ignore[no-untyped-call]

            async def code_of(message: Message, session_id: bytes = key) -> grpc.StatusCode:
                message.session_id = session_id
                try:
                    await stub.Step(message, timeout=20)
                except grpc.aio.AioRpcError as error:
                    return error.code()
                return OK

            budget = cloud.service.sessions.budget
            assert await code_of(speaker.prompt(), b"short") == INPUT
            assert await code_of(Message(rows=[speaker.step(6)])) == LOST
            assert await code_of(speaker.prompt()) == OK
            assert await code_of(Message(rows=[speaker.step(6)]), b"another session.") == LOST
            both = await asyncio.gather(*(code_of(Message(rows=[speaker.step(6)])) for _ in range(2)))
            assert both == [OK, OK]
            assert await code_of(speaker.prompt()) == OK
            assert budget.sequences == 1, "an opening with the same id takes the place of the session"
            both = await asyncio.gather(*(code_of(speaker.prompt()) for _ in range(2)))
            assert OK in both, "the later opening takes the id; the earlier may end with its session"
            assert set(both) <= {OK, LOST}
            assert budget.sequences == 1
            both = await asyncio.gather(*(code_of(Message(rows=[speaker.step(9)])) for _ in range(2)))
            assert sorted(both, key=str) == sorted([INPUT, LOST], key=str), "the first ends it"
            assert budget.sequences == 0
            assert await code_of(speaker.prompt()) == OK
            assert await code_of(Message(close=True)) == OK
            assert budget.sequences == 0
            assert await code_of(Message(close=True)) == LOST
            assert await code_of(speaker.prompt()) == OK
            assert await code_of(Message(rows=[speaker.step(9)])) == INPUT
            assert budget.sequences == 0, "an error ends the session"
            assert await code_of(speaker.prompt()) == OK
            await asyncio.sleep(0.5)
            assert budget.sequences == 0, "it was idle"

    asyncio.run(run())
