from dtufc.v1 import head_pb2 as _head_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Drafts(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DRAFTS_AUTO: _ClassVar[Drafts]
    DRAFTS_OFF: _ClassVar[Drafts]
    DRAFTS_ON: _ClassVar[Drafts]
DRAFTS_AUTO: Drafts
DRAFTS_OFF: Drafts
DRAFTS_ON: Drafts

class Coding(_message.Message):
    __slots__ = ("profile", "codec", "quality", "target_bpfp", "max_bytes")
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    QUALITY_FIELD_NUMBER: _ClassVar[int]
    TARGET_BPFP_FIELD_NUMBER: _ClassVar[int]
    MAX_BYTES_FIELD_NUMBER: _ClassVar[int]
    profile: str
    codec: str
    quality: float
    target_bpfp: float
    max_bytes: int
    def __init__(self, profile: _Optional[str] = ..., codec: _Optional[str] = ..., quality: _Optional[float] = ..., target_bpfp: _Optional[float] = ..., max_bytes: _Optional[int] = ...) -> None: ...

class Cost(_message.Message):
    __slots__ = ("profile", "codec", "num_frames", "num_values", "raw_bytes", "payload_bytes", "wire_bytes", "bpfp_payload", "bpfp_wire", "stages")
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    NUM_FRAMES_FIELD_NUMBER: _ClassVar[int]
    NUM_VALUES_FIELD_NUMBER: _ClassVar[int]
    RAW_BYTES_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_BYTES_FIELD_NUMBER: _ClassVar[int]
    WIRE_BYTES_FIELD_NUMBER: _ClassVar[int]
    BPFP_PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    BPFP_WIRE_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    profile: str
    codec: str
    num_frames: int
    num_values: int
    raw_bytes: int
    payload_bytes: int
    wire_bytes: int
    bpfp_payload: float
    bpfp_wire: float
    stages: _containers.RepeatedCompositeFieldContainer[_head_pb2.Stage]
    def __init__(self, profile: _Optional[str] = ..., codec: _Optional[str] = ..., num_frames: _Optional[int] = ..., num_values: _Optional[int] = ..., raw_bytes: _Optional[int] = ..., payload_bytes: _Optional[int] = ..., wire_bytes: _Optional[int] = ..., bpfp_payload: _Optional[float] = ..., bpfp_wire: _Optional[float] = ..., stages: _Optional[_Iterable[_Union[_head_pb2.Stage, _Mapping]]] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsReply(_message.Message):
    __slots__ = ("profiles",)
    PROFILES_FIELD_NUMBER: _ClassVar[int]
    profiles: _containers.RepeatedCompositeFieldContainer[_head_pb2.ProfileInfo]
    def __init__(self, profiles: _Optional[_Iterable[_Union[_head_pb2.ProfileInfo, _Mapping]]] = ...) -> None: ...

class AnswerRequest(_message.Message):
    __slots__ = ("coding", "question", "choices")
    CODING_FIELD_NUMBER: _ClassVar[int]
    QUESTION_FIELD_NUMBER: _ClassVar[int]
    CHOICES_FIELD_NUMBER: _ClassVar[int]
    coding: Coding
    question: str
    choices: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, coding: _Optional[_Union[Coding, _Mapping]] = ..., question: _Optional[str] = ..., choices: _Optional[_Iterable[str]] = ...) -> None: ...

class AnswerReply(_message.Message):
    __slots__ = ("letter", "choice", "probabilities", "cost")
    LETTER_FIELD_NUMBER: _ClassVar[int]
    CHOICE_FIELD_NUMBER: _ClassVar[int]
    PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    letter: str
    choice: int
    probabilities: _containers.RepeatedScalarFieldContainer[float]
    cost: Cost
    def __init__(self, letter: _Optional[str] = ..., choice: _Optional[int] = ..., probabilities: _Optional[_Iterable[float]] = ..., cost: _Optional[_Union[Cost, _Mapping]] = ...) -> None: ...

class CompleteRequest(_message.Message):
    __slots__ = ("coding", "prompt", "max_tokens", "plain", "messages", "sampling", "stop", "token_quality", "drafts")
    CODING_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PLAIN_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    TOKEN_QUALITY_FIELD_NUMBER: _ClassVar[int]
    DRAFTS_FIELD_NUMBER: _ClassVar[int]
    coding: Coding
    prompt: str
    max_tokens: int
    plain: bool
    messages: _containers.RepeatedCompositeFieldContainer[ChatMessage]
    sampling: _head_pb2.Sampling
    stop: _containers.RepeatedScalarFieldContainer[str]
    token_quality: float
    drafts: Drafts
    def __init__(self, coding: _Optional[_Union[Coding, _Mapping]] = ..., prompt: _Optional[str] = ..., max_tokens: _Optional[int] = ..., plain: _Optional[bool] = ..., messages: _Optional[_Iterable[_Union[ChatMessage, _Mapping]]] = ..., sampling: _Optional[_Union[_head_pb2.Sampling, _Mapping]] = ..., stop: _Optional[_Iterable[str]] = ..., token_quality: _Optional[float] = ..., drafts: _Optional[_Union[Drafts, str]] = ...) -> None: ...

class ChatMessage(_message.Message):
    __slots__ = ("role", "content")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    role: str
    content: str
    def __init__(self, role: _Optional[str] = ..., content: _Optional[str] = ...) -> None: ...

class CompleteReply(_message.Message):
    __slots__ = ("text", "token", "cost", "finish_reason", "generated")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    GENERATED_FIELD_NUMBER: _ClassVar[int]
    text: str
    token: _head_pb2.SampledToken
    cost: Cost
    finish_reason: str
    generated: Generated
    def __init__(self, text: _Optional[str] = ..., token: _Optional[_Union[_head_pb2.SampledToken, _Mapping]] = ..., cost: _Optional[_Union[Cost, _Mapping]] = ..., finish_reason: _Optional[str] = ..., generated: _Optional[_Union[Generated, _Mapping]] = ...) -> None: ...

class Generated(_message.Message):
    __slots__ = ("prompt_tokens", "new_tokens", "drafted_tokens", "accepted_tokens", "recoveries", "first_token_seconds", "seed")
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NEW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    DRAFTED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    RECOVERIES_FIELD_NUMBER: _ClassVar[int]
    FIRST_TOKEN_SECONDS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    prompt_tokens: int
    new_tokens: int
    drafted_tokens: int
    accepted_tokens: int
    recoveries: int
    first_token_seconds: float
    seed: int
    def __init__(self, prompt_tokens: _Optional[int] = ..., new_tokens: _Optional[int] = ..., drafted_tokens: _Optional[int] = ..., accepted_tokens: _Optional[int] = ..., recoveries: _Optional[int] = ..., first_token_seconds: _Optional[float] = ..., seed: _Optional[int] = ...) -> None: ...

class SegmentRequest(_message.Message):
    __slots__ = ("coding", "image")
    CODING_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    coding: Coding
    image: bytes
    def __init__(self, coding: _Optional[_Union[Coding, _Mapping]] = ..., image: _Optional[bytes] = ...) -> None: ...

class SegmentReply(_message.Message):
    __slots__ = ("label_map_png", "width", "height", "cost")
    LABEL_MAP_PNG_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    label_map_png: bytes
    width: int
    height: int
    cost: Cost
    def __init__(self, label_map_png: _Optional[bytes] = ..., width: _Optional[int] = ..., height: _Optional[int] = ..., cost: _Optional[_Union[Cost, _Mapping]] = ...) -> None: ...

class ClassifyRequest(_message.Message):
    __slots__ = ("coding", "image", "top_k")
    CODING_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    coding: Coding
    image: bytes
    top_k: int
    def __init__(self, coding: _Optional[_Union[Coding, _Mapping]] = ..., image: _Optional[bytes] = ..., top_k: _Optional[int] = ...) -> None: ...

class ClassifyReply(_message.Message):
    __slots__ = ("labels", "cost")
    LABELS_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    labels: _containers.RepeatedCompositeFieldContainer[_head_pb2.Label]
    cost: Cost
    def __init__(self, labels: _Optional[_Iterable[_Union[_head_pb2.Label, _Mapping]]] = ..., cost: _Optional[_Union[Cost, _Mapping]] = ...) -> None: ...

class GenerateImageRequest(_message.Message):
    __slots__ = ("coding", "prompt", "seed", "steps", "guidance", "width", "height")
    CODING_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    GUIDANCE_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    coding: Coding
    prompt: str
    seed: int
    steps: int
    guidance: float
    width: int
    height: int
    def __init__(self, coding: _Optional[_Union[Coding, _Mapping]] = ..., prompt: _Optional[str] = ..., seed: _Optional[int] = ..., steps: _Optional[int] = ..., guidance: _Optional[float] = ..., width: _Optional[int] = ..., height: _Optional[int] = ...) -> None: ...

class GenerateImageReply(_message.Message):
    __slots__ = ("step", "num_steps", "image_png", "width", "height", "cost")
    STEP_FIELD_NUMBER: _ClassVar[int]
    NUM_STEPS_FIELD_NUMBER: _ClassVar[int]
    IMAGE_PNG_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    step: int
    num_steps: int
    image_png: bytes
    width: int
    height: int
    cost: Cost
    def __init__(self, step: _Optional[int] = ..., num_steps: _Optional[int] = ..., image_png: _Optional[bytes] = ..., width: _Optional[int] = ..., height: _Optional[int] = ..., cost: _Optional[_Union[Cost, _Mapping]] = ...) -> None: ...
