"""Calls whose end is looked at: was it the undisturbed result or an error, and after how long did the client know?"""

import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import grpc

from dtufc.errors import DtufcError
from dtufc.serving.limits import MAX_TOP_LOG_PROBABILITIES
from dtufc.serving.status import error_info
from dtufc.serving.transport import blocking_channel, check_health
from dtufc.v1 import head_pb2, inference_pb2, inference_pb2_grpc

OK: Final = "as undisturbed"
HEALTH_S: Final = 2.0  # deadline of a question for health
SLACK_S: Final = 1.0  # behind a deadline: until a busy machine has told the client
_IMAGE: Final = Path(__file__).parents[3] / "samples" / "chelsea.jpg"
_STREAM: Final = "complete"
_FLOOD_TOKENS: Final = 256


def _requests(num_tokens: int) -> Mapping[str, Any]:
    raw = inference_pb2.Coding(codec="raw")
    question = "Is it? " * 100
    return {
        "answer": inference_pb2.AnswerRequest(question=question, choices=["yes", "no"]),
        "answer in raw": inference_pb2.AnswerRequest(question=question, choices=["yes", "no"], coding=raw),
        "classify": inference_pb2.ClassifyRequest(image=_IMAGE.read_bytes()),
        _STREAM: _stream_request(num_tokens),
        f"{_STREAM} in raw": _stream_request(num_tokens, raw),
    }


def _stream_request(num_tokens: int, coding: inference_pb2.Coding | None = None) -> inference_pb2.CompleteRequest:
    prompt, drafts = "One, two, three, four,", inference_pb2.DRAFTS_OFF
    return inference_pb2.CompleteRequest(prompt=prompt, max_tokens=num_tokens, plain=True, drafts=drafts, coding=coding)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """How a call ended for its client.

    Attributes:
        call: its kind, and when it was made.
        outcome: OK, a status with the reason that came with it, or what was wrong with the result.
        seconds: until the client knew.
        deadline_s: that the call had.
        tokens: that had come, of a stream.
        verdict: empty if all is well, else what is not.
    """

    call: str
    outcome: str
    seconds: float
    deadline_s: float
    tokens: int | None = None
    verdict: str = ""


class Asked:
    """A call on its way, in a thread of its own.

    Attributes:
        tokens: that have come so far, of a stream.
    """

    def __init__(self, call: str, deadline_s: float, work: Callable[["Asked"], str]) -> None:
        self.call, self._deadline_s, self._work = call, deadline_s, work
        self.tokens: int | None = None
        self._start = time.monotonic()
        self._thread = threading.Thread(target=self._run, daemon=True)  # one that hangs does not hold the command
        self._thread.start()

    @property
    def is_over(self) -> bool:
        return not self._thread.is_alive()

    def seen(self, allowed: Collection[str] = ()) -> Seen:
        """Waits for the end, but not for ever.

        Args:
            allowed: statuses that are right here, alone or with their reason; the undisturbed result always is.
        """
        self._thread.join(max(0.0, self._start + self._deadline_s + 10 * SLACK_S - time.monotonic()))
        outcome = "hangs" if self._thread.is_alive() else self._outcome
        seconds = time.monotonic() - self._start if self._thread.is_alive() else self._seconds
        verdict = ""
        if seconds > self._deadline_s + SLACK_S:
            verdict = "beyond its deadline"
        elif outcome != OK and not {outcome, outcome.partition(" ")[0]} & set(allowed):
            verdict = "not expected"
        return Seen(
            call=self.call,
            outcome=outcome,
            seconds=seconds,
            deadline_s=self._deadline_s,
            tokens=self.tokens,
            verdict=verdict,
        )

    def _run(self) -> None:
        try:
            self._outcome = self._work(self)
        except grpc.RpcError as error:
            sent = error_info(error)
            self._outcome = error.code().name + (f" ({sent.code})" if sent else "")
        except DtufcError as error:
            self._outcome = error.code
        self._seconds = time.monotonic() - self._start


class Client:
    """One client of an edge, which knows the undisturbed results."""

    def __init__(self, address: str, *, num_tokens: int = 48, expected: Mapping[str, Any] | None = None) -> None:
        """
        Args:
            address: of the edge.
            num_tokens: of a stream.
            expected: undisturbed results, by kind of call; None: `learn` asks for them.
        """
        self._address = address
        self._requests = _requests(num_tokens)
        self._channel = blocking_channel(address)
        self._stub = inference_pb2_grpc.InferenceServiceStub(self._channel)
        self.expected: dict[str, Any] = dict(expected or {})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def learn(self, kinds: Collection[str]) -> None:
        """Asks for the undisturbed results. Raises grpc.RpcError."""
        for kind in kinds:
            if kind.startswith(_STREAM):
                stream = self._stub.Complete(self._requests[kind], timeout=120)
                self.expected[kind] = [_part(reply) for reply in stream]
            else:
                self.expected[kind] = _result(self._method(kind)(self._requests[kind], timeout=120))

    def ask(self, kind: str, deadline_s: float, when: str = "") -> Asked:
        """Makes a call of one of the kinds that were learned."""
        work = self._stream if kind.startswith(_STREAM) else self._unary
        return Asked(f"{kind}, {when}", deadline_s, lambda asked: work(asked, kind, deadline_s))

    def flood(self, deadline_s: float) -> Asked:
        """Asks for a stream of long messages, and reads none of them."""
        sampling = head_pb2.Sampling(log_probabilities=True, top_log_probabilities=MAX_TOP_LOG_PROBABILITIES)
        request = inference_pb2.CompleteRequest(prompt="One,", plain=True, max_tokens=_FLOOD_TOKENS, sampling=sampling)

        def work(_: Asked) -> str:
            code: grpc.StatusCode = self._stub.Complete(request, timeout=deadline_s).code()
            return code.name

        return Asked("the last of them", deadline_s, work)

    def _method(self, kind: str) -> Any:
        return self._stub.Classify if kind == "classify" else self._stub.Answer

    def _unary(self, _: Asked, kind: str, deadline_s: float) -> str:
        reply = self._method(kind)(self._requests[kind], timeout=deadline_s)
        return OK if _result(reply) == self.expected[kind] else "another result"

    def _stream(self, asked: Asked, kind: str, deadline_s: float) -> str:
        asked.tokens, number, expected = 0, -1, self.expected[kind]
        for number, reply in enumerate(self._stub.Complete(self._requests[kind], timeout=deadline_s)):
            if _part(reply) != expected[number]:
                return "another text"
            asked.tokens += reply.HasField("token")
        return OK if number + 1 == len(expected) else "a shorter text"


def health(address: str, side: str) -> Asked:
    """Asks whether a side serves."""

    def work(_: Asked) -> str:
        check_health(address, timeout_s=HEALTH_S)
        return OK

    return Asked(f"health of the {side}", HEALTH_S, work)


def _result(reply: Any) -> Any:
    """What a client reads of a reply: all but its cost."""
    if isinstance(reply, inference_pb2.AnswerReply):
        return reply.letter, list(reply.probabilities)
    return [(label.index, label.probability) for label in reply.labels]


def _part(reply: inference_pb2.CompleteReply) -> tuple[str, int, str]:
    return reply.text, reply.token.token_id, reply.finish_reason
