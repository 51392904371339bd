from google.protobuf import any_pb2 as _any_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DescribeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DescribeReply(_message.Message):
    __slots__ = ("profiles",)
    PROFILES_FIELD_NUMBER: _ClassVar[int]
    profiles: _containers.RepeatedCompositeFieldContainer[ProfileInfo]
    def __init__(self, profiles: _Optional[_Iterable[_Union[ProfileInfo, _Mapping]]] = ...) -> None: ...

class ProfileInfo(_message.Message):
    __slots__ = ("name", "family", "split", "num_layers", "digest", "codecs", "tasks", "qualities")
    class QualitiesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: QualityRange
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[QualityRange, _Mapping]] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    FAMILY_FIELD_NUMBER: _ClassVar[int]
    SPLIT_FIELD_NUMBER: _ClassVar[int]
    NUM_LAYERS_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    CODECS_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    QUALITIES_FIELD_NUMBER: _ClassVar[int]
    name: str
    family: str
    split: int
    num_layers: int
    digest: bytes
    codecs: _containers.RepeatedScalarFieldContainer[str]
    tasks: _containers.RepeatedScalarFieldContainer[str]
    qualities: _containers.MessageMap[str, QualityRange]
    def __init__(self, name: _Optional[str] = ..., family: _Optional[str] = ..., split: _Optional[int] = ..., num_layers: _Optional[int] = ..., digest: _Optional[bytes] = ..., codecs: _Optional[_Iterable[str]] = ..., tasks: _Optional[_Iterable[str]] = ..., qualities: _Optional[_Mapping[str, QualityRange]] = ...) -> None: ...

class QualityRange(_message.Message):
    __slots__ = ("lowest", "highest")
    LOWEST_FIELD_NUMBER: _ClassVar[int]
    HIGHEST_FIELD_NUMBER: _ClassVar[int]
    lowest: float
    highest: float
    def __init__(self, lowest: _Optional[float] = ..., highest: _Optional[float] = ...) -> None: ...

class RunRequest(_message.Message):
    __slots__ = ("profile", "frame", "task")
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    profile: str
    frame: bytes
    task: _any_pb2.Any
    def __init__(self, profile: _Optional[str] = ..., frame: _Optional[bytes] = ..., task: _Optional[_Union[_any_pb2.Any, _Mapping]] = ...) -> None: ...

class RunReply(_message.Message):
    __slots__ = ("result", "stages")
    RESULT_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    result: _any_pb2.Any
    stages: _containers.RepeatedCompositeFieldContainer[Stage]
    def __init__(self, result: _Optional[_Union[_any_pb2.Any, _Mapping]] = ..., stages: _Optional[_Iterable[_Union[Stage, _Mapping]]] = ...) -> None: ...

class AnswerTask(_message.Message):
    __slots__ = ("token_ids",)
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, token_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class AnswerResult(_message.Message):
    __slots__ = ("probabilities",)
    PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    probabilities: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, probabilities: _Optional[_Iterable[float]] = ...) -> None: ...

class GenerateRequest(_message.Message):
    __slots__ = ("session_id", "open", "rows", "hold", "drafted", "close")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    OPEN_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    HOLD_FIELD_NUMBER: _ClassVar[int]
    DRAFTED_FIELD_NUMBER: _ClassVar[int]
    CLOSE_FIELD_NUMBER: _ClassVar[int]
    session_id: bytes
    open: OpenSession
    rows: _containers.RepeatedCompositeFieldContainer[Rows]
    hold: bool
    drafted: _containers.RepeatedScalarFieldContainer[int]
    close: bool
    def __init__(self, session_id: _Optional[bytes] = ..., open: _Optional[_Union[OpenSession, _Mapping]] = ..., rows: _Optional[_Iterable[_Union[Rows, _Mapping]]] = ..., hold: _Optional[bool] = ..., drafted: _Optional[_Iterable[int]] = ..., close: _Optional[bool] = ...) -> None: ...

class OpenSession(_message.Message):
    __slots__ = ("profile", "codec", "dtype", "channels", "sampling", "max_rows", "num_prompt_rows", "prompt_ids", "new_ids", "end_ids")
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    MAX_ROWS_FIELD_NUMBER: _ClassVar[int]
    NUM_PROMPT_ROWS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_IDS_FIELD_NUMBER: _ClassVar[int]
    NEW_IDS_FIELD_NUMBER: _ClassVar[int]
    END_IDS_FIELD_NUMBER: _ClassVar[int]
    profile: str
    codec: str
    dtype: str
    channels: int
    sampling: Sampling
    max_rows: int
    num_prompt_rows: int
    prompt_ids: _containers.RepeatedScalarFieldContainer[int]
    new_ids: _containers.RepeatedScalarFieldContainer[int]
    end_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, profile: _Optional[str] = ..., codec: _Optional[str] = ..., dtype: _Optional[str] = ..., channels: _Optional[int] = ..., sampling: _Optional[_Union[Sampling, _Mapping]] = ..., max_rows: _Optional[int] = ..., num_prompt_rows: _Optional[int] = ..., prompt_ids: _Optional[_Iterable[int]] = ..., new_ids: _Optional[_Iterable[int]] = ..., end_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class Rows(_message.Message):
    __slots__ = ("frame", "step_frame", "position")
    FRAME_FIELD_NUMBER: _ClassVar[int]
    STEP_FRAME_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    frame: bytes
    step_frame: bytes
    position: int
    def __init__(self, frame: _Optional[bytes] = ..., step_frame: _Optional[bytes] = ..., position: _Optional[int] = ...) -> None: ...

class GenerateReply(_message.Message):
    __slots__ = ("num_rows", "tokens", "can_rewind", "stages")
    NUM_ROWS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    CAN_REWIND_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    num_rows: int
    tokens: _containers.RepeatedCompositeFieldContainer[SampledToken]
    can_rewind: bool
    stages: _containers.RepeatedCompositeFieldContainer[Stage]
    def __init__(self, num_rows: _Optional[int] = ..., tokens: _Optional[_Iterable[_Union[SampledToken, _Mapping]]] = ..., can_rewind: _Optional[bool] = ..., stages: _Optional[_Iterable[_Union[Stage, _Mapping]]] = ...) -> None: ...

class SampledToken(_message.Message):
    __slots__ = ("token_id", "log_probability", "top")
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    LOG_PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    token_id: int
    log_probability: float
    top: _containers.RepeatedCompositeFieldContainer[TokenLogProbability]
    def __init__(self, token_id: _Optional[int] = ..., log_probability: _Optional[float] = ..., top: _Optional[_Iterable[_Union[TokenLogProbability, _Mapping]]] = ...) -> None: ...

class TokenLogProbability(_message.Message):
    __slots__ = ("token_id", "log_probability")
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    LOG_PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    token_id: int
    log_probability: float
    def __init__(self, token_id: _Optional[int] = ..., log_probability: _Optional[float] = ...) -> None: ...

class Sampling(_message.Message):
    __slots__ = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "seed", "logit_bias", "log_probabilities", "top_log_probabilities", "stop_token_ids")
    class LogitBiasEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: float
        def __init__(self, key: _Optional[int] = ..., value: _Optional[float] = ...) -> None: ...
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    MIN_P_FIELD_NUMBER: _ClassVar[int]
    REPETITION_PENALTY_FIELD_NUMBER: _ClassVar[int]
    PRESENCE_PENALTY_FIELD_NUMBER: _ClassVar[int]
    FREQUENCY_PENALTY_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    LOGIT_BIAS_FIELD_NUMBER: _ClassVar[int]
    LOG_PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    TOP_LOG_PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    STOP_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    seed: int
    logit_bias: _containers.ScalarMap[int, float]
    log_probabilities: bool
    top_log_probabilities: int
    stop_token_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, temperature: _Optional[float] = ..., top_p: _Optional[float] = ..., top_k: _Optional[int] = ..., min_p: _Optional[float] = ..., repetition_penalty: _Optional[float] = ..., presence_penalty: _Optional[float] = ..., frequency_penalty: _Optional[float] = ..., seed: _Optional[int] = ..., logit_bias: _Optional[_Mapping[int, float]] = ..., log_probabilities: _Optional[bool] = ..., top_log_probabilities: _Optional[int] = ..., stop_token_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class SegmentTask(_message.Message):
    __slots__ = ("left", "top", "right", "bottom", "width", "height")
    LEFT_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    RIGHT_FIELD_NUMBER: _ClassVar[int]
    BOTTOM_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    left: int
    top: int
    right: int
    bottom: int
    width: int
    height: int
    def __init__(self, left: _Optional[int] = ..., top: _Optional[int] = ..., right: _Optional[int] = ..., bottom: _Optional[int] = ..., width: _Optional[int] = ..., height: _Optional[int] = ...) -> None: ...

class SegmentResult(_message.Message):
    __slots__ = ("label_map_png",)
    LABEL_MAP_PNG_FIELD_NUMBER: _ClassVar[int]
    label_map_png: bytes
    def __init__(self, label_map_png: _Optional[bytes] = ...) -> None: ...

class ClassifyTask(_message.Message):
    __slots__ = ("top_k",)
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    top_k: int
    def __init__(self, top_k: _Optional[int] = ...) -> None: ...

class ClassifyResult(_message.Message):
    __slots__ = ("labels",)
    LABELS_FIELD_NUMBER: _ClassVar[int]
    labels: _containers.RepeatedCompositeFieldContainer[Label]
    def __init__(self, labels: _Optional[_Iterable[_Union[Label, _Mapping]]] = ...) -> None: ...

class Label(_message.Message):
    __slots__ = ("index", "name", "probability")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    index: int
    name: str
    probability: float
    def __init__(self, index: _Optional[int] = ..., name: _Optional[str] = ..., probability: _Optional[float] = ...) -> None: ...

class DecodeImageTask(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DecodeImageResult(_message.Message):
    __slots__ = ("image_png",)
    IMAGE_PNG_FIELD_NUMBER: _ClassVar[int]
    image_png: bytes
    def __init__(self, image_png: _Optional[bytes] = ...) -> None: ...

class Stage(_message.Message):
    __slots__ = ("name", "seconds")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    name: str
    seconds: float
    def __init__(self, name: _Optional[str] = ..., seconds: _Optional[float] = ...) -> None: ...
