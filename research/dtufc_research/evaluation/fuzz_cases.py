"""Hostile gRPC calls: each is made of a seed and its number alone, so that any can be repeated."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Final

import numpy as np
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from PIL import Image

from dtufc.coding import bitstream
from dtufc.coding.bitstream import StepContext
from dtufc.coding.feature_codec import FeatureCodec
from dtufc.serving.limits import SESSION_ID_BYTES
from dtufc.v1 import head_pb2, inference_pb2
from dtufc_research.evaluation.fuzz_wire import hostile_bytes, hostile_frame, hostile_message, hostile_step
from dtufc_research.evaluation.tiny import CHANNELS

EDGE: Final = "edge"
CLOUD: Final = "cloud"
_INFERENCE: Final = "/dtufc.v1.InferenceService/"
_HEAD: Final = "/dtufc.v1.HeadService/"
_HEALTH: Final = "/grpc.health.v1.Health/"
_REFLECTION: Final = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
_PROMPT_ROWS: Final = 5
_MAX_ROWS: Final = 16
_WATCH_S: Final = 1.0  # a watch has no end of its own
_TASKS: Final = (b"\x08\x00", b"\x0a\x01\xff", b"\x0a\x05\xff\xff\xff\xff\x0f", b"\x08\xff\xff\xff\x07")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One hostile call.

    Attributes:
        side: edge or cloud.
        method: its path.
        messages: all that are sent; the last is hostile.
        sends_many: whether the method takes a stream. If not, each message is a call of its own.
        gets_many: whether it answers with a stream.
        deadline_s: None: one that nothing should meet.
        is_compressed: with gzip.
        exists: whether there is such a method.
    """

    side: str
    method: str
    messages: tuple[bytes, ...]
    sends_many: bool = False
    gets_many: bool = False
    deadline_s: float | None = None
    is_compressed: bool = False
    exists: bool = True

    @property
    def name(self) -> str:
        """For a tally: side, service and method."""
        return f"{self.side} {self.method.rpartition('.')[2]}" if self.exists else "methods that do not exist"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Method:
    """A method with valid messages, and how often it is called."""

    weight: int
    path: str
    valid: Sequence[Message]
    sides: tuple[str, ...] = (EDGE,)
    sends_many: bool = False
    gets_many: bool = False


class Calls:
    """Makes hostile calls to a pair that serves a tiny decoder and a tiny classifier."""

    def __init__(self, decoder: FeatureCodec, classifier: FeatureCodec) -> None:
        """
        Args:
            decoder: codec of the profile `tiny`.
            classifier: codec of the profile `tiny-vit`.
        """
        self._codecs = {"tiny": decoder, "tiny-vit": classifier}
        generator = np.random.default_rng(0)
        features = generator.standard_normal((_PROMPT_ROWS + 1, CHANNELS), np.float32)
        image = generator.standard_normal((17, CHANNELS), np.float32)
        self._prompts = {codec: decoder.encode(features[:-1], codec=codec) for codec in decoder.codecs}
        self._rows = {codec: decoder.encode(features[-1:], codec=codec) for codec in decoder.codecs}
        self._images = [classifier.encode(image, codec=codec) for codec in classifier.codecs]
        self._contexts = {codec: StepContext.of(bitstream.parse(row)) for codec, row in self._rows.items()}
        self._methods = [*_edge_methods(), *self._cloud_methods(), *_common_methods()]
        self._weights = [method.weight for method in self._methods]
        self._others = [message.SerializeToString() for method in self._methods for message in method.valid]

    def valid(self) -> list[Call]:
        """A valid call of every unary method, and of every kind of message."""
        return [
            self._call(method, side, message, message.SerializeToString())
            for method in self._methods
            for side in method.sides
            for message in method.valid
            if "/grpc." not in method.path
        ]

    def hostile(self, random: Random) -> Call:
        """The call that this generator makes next."""
        (method,) = random.choices(self._methods, self._weights)
        valid = random.choice(method.valid)
        if isinstance(valid, head_pb2.GenerateRequest) and valid.session_id:
            valid = _named(valid, random.randbytes(SESSION_ID_BYTES))
        data = valid.SerializeToString()
        message = hostile_message(random, data, valid.DESCRIPTOR, self._others, self._bytes_of)
        call = self._call(method, random.choice(method.sides), valid, message)
        way = random.random()
        if way < 0.01:
            return replace(call, method=f"{call.method}s", exists=False)
        if way < 0.02:
            return replace(call, deadline_s=random.choice((0.0005, 0.005, 0.02)))
        return replace(call, is_compressed=way < 0.04)

    def _call(self, method: _Method, side: str, valid: Message, message: bytes) -> Call:
        before: tuple[bytes, ...] = ()
        if isinstance(valid, head_pb2.GenerateRequest) and not valid.HasField("open"):
            before = (self._opening(valid).SerializeToString(),)  # rows and ends are of a session
        return Call(
            side=side,
            method=method.path,
            messages=(*before, message),
            sends_many=method.sends_many,
            gets_many=method.gets_many,
            deadline_s=_WATCH_S if method.path.endswith("Watch") else None,
        )

    def _bytes_of(self, random: Random, name: str, old: bytes) -> bytes:
        """Hostile content of a bytes field."""
        way = random.random()
        if way < 0.1:
            return random.choice((b"", bytes(1000), random.randbytes(30), bytes(300_000)))
        if name == "frame" and way < 0.95:
            return hostile_frame(random, old or random.choice((*self._prompts.values(), *self._images)))
        if name == "step_frame" and way < 0.95:
            codec = random.choice(list(self._rows))
            return hostile_step(random, self._step(codec), self._contexts[codec])
        if name == "value" and way < 0.5:  # of a task
            return random.choice(
                (b"\x08\x00", b"\x0a\x01\xff", b"\x0a\x05\xff\xff\xff\xff\x0f", b"\x08\xff\xff\xff\x07")
            )
        return hostile_bytes(random, old)

    def _step(self, codec: str) -> bytes:
        return bitstream.pack_step(bitstream.parse(self._rows[codec]), _PROMPT_ROWS)

    def _opening(self, later: head_pb2.GenerateRequest) -> head_pb2.GenerateRequest:
        """What opens the session that this message goes on with."""
        codec = next((name for name in self._rows for row in later.rows if row.step_frame == self._step(name)), "raw")
        opening = _opening(codec, self._prompts[codec])
        opening.session_id = later.session_id
        return opening

    def _cloud_methods(self) -> list[_Method]:
        runs = [
            *(_run("tiny", frame, head_pb2.AnswerTask(token_ids=[33, 34])) for frame in self._prompts.values()),
            *(_run("tiny-vit", frame, head_pb2.ClassifyTask(top_k=3)) for frame in self._images),
            _run("tiny-vit", self._images[0], head_pb2.SegmentTask(right=56, bottom=56, width=9, height=9)),
            _run("tiny", self._prompts["raw"], head_pb2.DecodeImageTask()),
        ]
        sessions = [_opening(codec, frame) for codec, frame in self._prompts.items()]
        sessions.append(_opening("raw", self._prompts["raw"], _sampling()))
        for codec in self._rows:
            rows = [head_pb2.Rows(step_frame=self._step(codec))]
            sessions.append(head_pb2.GenerateRequest(rows=rows))
            sessions.append(head_pb2.GenerateRequest(rows=rows, hold=True))
        frame = self._rows["raw"]
        sessions.append(head_pb2.GenerateRequest(rows=[head_pb2.Rows(frame=frame, position=_PROMPT_ROWS)]))
        sessions.append(head_pb2.GenerateRequest(close=True))
        named = [_named(session, bytes([index]) * SESSION_ID_BYTES) for index, session in enumerate(sessions)]
        return [
            _Method(weight=1, path=f"{_HEAD}Describe", valid=[head_pb2.DescribeRequest()], sides=(CLOUD,)),
            _Method(weight=18, path=f"{_HEAD}Run", valid=runs, sides=(CLOUD,)),
            _Method(weight=14, path=f"{_HEAD}Step", valid=named, sides=(CLOUD,)),
            _Method(
                weight=12, path=f"{_HEAD}Generate", valid=sessions, sides=(CLOUD,), sends_many=True, gets_many=True
            ),
        ]


def _edge_methods() -> list[_Method]:
    raw = inference_pb2.Coding(profile="tiny", codec="raw")
    klt = inference_pb2.Coding(codec="klt", quality=0.4)
    image = _image("JPEG")
    answers = [
        inference_pb2.AnswerRequest(coding=coding, question="Is it?", choices=["yes", "no"])
        for coding in (raw, klt, inference_pb2.Coding(max_bytes=20_000), inference_pb2.Coding(target_bpfp=6))
    ]
    messages = [inference_pb2.ChatMessage(role="user", content="Hi")]
    completions = [
        inference_pb2.CompleteRequest(coding=raw, prompt="One, two", max_tokens=3, plain=True),
        inference_pb2.CompleteRequest(coding=klt, prompt="One", max_tokens=3, sampling=_sampling(), stop=["x"]),
        inference_pb2.CompleteRequest(messages=messages, max_tokens=2, token_quality=0.5),
        inference_pb2.CompleteRequest(prompt="abab", max_tokens=4, drafts=inference_pb2.DRAFTS_ON, plain=True),
    ]
    images = [inference_pb2.ClassifyRequest(image=_image(kind), top_k=3) for kind in ("JPEG", "PNG", "WEBP")]
    segments = [inference_pb2.SegmentRequest(image=image, coding=inference_pb2.Coding(codec="klt"))]
    generated = [inference_pb2.GenerateImageRequest(prompt="a cat", seed=1, steps=2, guidance=2, width=64, height=64)]
    return [
        _Method(weight=1, path=f"{_INFERENCE}ListModels", valid=[inference_pb2.ListModelsRequest()]),
        _Method(weight=12, path=f"{_INFERENCE}Answer", valid=answers),
        _Method(weight=16, path=f"{_INFERENCE}Complete", valid=completions, gets_many=True),
        _Method(weight=3, path=f"{_INFERENCE}Segment", valid=segments),
        _Method(weight=9, path=f"{_INFERENCE}Classify", valid=images),
        _Method(weight=3, path=f"{_INFERENCE}GenerateImage", valid=generated, gets_many=True),
    ]


def _common_methods() -> list[_Method]:
    both: Any = {"sides": (EDGE, CLOUD)}
    checks = [health_pb2.HealthCheckRequest(), health_pb2.HealthCheckRequest(service="dtufc.v1.HeadService")]
    request = reflection_pb2.ServerReflectionRequest
    asked = [
        request(list_services=""),
        request(file_by_filename="dtufc/v1/head.proto"),
        request(file_containing_symbol="dtufc.v1.HeadService"),
        request(all_extension_numbers_of_type="dtufc.v1.Rows"),
    ]
    return [
        _Method(weight=2, path=f"{_HEALTH}Check", valid=checks, **both),
        _Method(weight=1, path=f"{_HEALTH}Watch", valid=checks, gets_many=True, **both),
        _Method(weight=3, path=_REFLECTION, valid=asked, sends_many=True, gets_many=True, **both),
    ]


def _sampling() -> head_pb2.Sampling:
    return head_pb2.Sampling(
        temperature=0.8,
        top_p=0.9,
        top_k=10,
        min_p=0.05,
        repetition_penalty=1.1,
        presence_penalty=0.5,
        frequency_penalty=0.5,
        seed=7,
        logit_bias={40: 2.0},
        log_probabilities=True,
        top_log_probabilities=3,
        stop_token_ids=[2],
    )


def _opening(codec: str, frame: bytes, sampling: head_pb2.Sampling | None = None) -> head_pb2.GenerateRequest:
    opening = head_pb2.OpenSession(
        profile="tiny",
        codec=codec,
        dtype="float32",
        channels=CHANNELS,
        sampling=sampling,
        max_rows=_MAX_ROWS,
        num_prompt_rows=_PROMPT_ROWS,
        prompt_ids=[40, 41, 42, 43, 44] if sampling else [],
        end_ids=[2],
    )
    return head_pb2.GenerateRequest(open=opening, rows=[head_pb2.Rows(frame=frame)])


def _named(message: head_pb2.GenerateRequest, session_id: bytes) -> head_pb2.GenerateRequest:
    named = head_pb2.GenerateRequest()
    named.CopyFrom(message)
    named.session_id = session_id
    return named


def _run(profile: str, frame: bytes, task: Message) -> head_pb2.RunRequest:
    packed = AnyMessage()
    packed.Pack(task)
    return head_pb2.RunRequest(profile=profile, frame=frame, task=packed)


def _image(kind: str) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()
