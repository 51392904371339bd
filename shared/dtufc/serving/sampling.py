"""What a request may ask of the sampling of its tokens: one check, which each side makes where a request comes in."""

from collections.abc import Mapping
from typing import Final

from dtufc.errors import InputError
from dtufc.serving.limits import MAX_LOGIT_BIASES, MAX_STOP_TOKEN_IDS, MAX_TOP_LOG_PROBABILITIES
from dtufc.v1 import head_pb2

_RANGES: Final[Mapping[str, tuple[float, float]]] = {
    "temperature": (0.0, 2.0),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (0.01, 100.0),  # no logit overflows
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
    "top_log_probabilities": (0, MAX_TOP_LOG_PROBABILITIES),
}
_BIAS: Final = 100.0
_LENGTHS: Final[Mapping[str, int]] = {"logit_bias": MAX_LOGIT_BIASES, "stop_token_ids": MAX_STOP_TOKEN_IDS}


def check_sampling(sampling: head_pb2.Sampling) -> None:
    """Checks all that can be checked without the model: its token ids are the cloud's to check.

    Raises:
        InputError: a value out of the range that head.proto states, or not a number; too many entries; top log
            probabilities without log probabilities. `field` is the field of head.proto.
    """
    for descriptor, value in sampling.ListFields():
        name = descriptor.name
        if name in _RANGES:
            low, high = _RANGES[name]
            if not low <= value <= high:
                raise InputError(field=name, problem=f"{value}", remedy=f"Give {low:g} to {high:g}")
        if name in _LENGTHS and len(value) > _LENGTHS[name]:
            raise InputError(field=name, problem=f"{len(value)} entries", remedy=f"Give at most {_LENGTHS[name]}")
    if sampling.HasField("top_p") and sampling.top_p == 0:
        raise InputError(field="top_p", problem="0", remedy="Give more than 0, at most 1")
    for token_id, bias in sampling.logit_bias.items():
        if not -_BIAS <= bias <= _BIAS:
            problem = f"{bias} for token {token_id}"
            raise InputError(field="logit_bias", problem=problem, remedy=f"Give {-_BIAS:g} to {_BIAS:g}")
    if sampling.top_log_probabilities and not sampling.log_probabilities:
        remedy = "Set log_probabilities too"
        raise InputError(field="top_log_probabilities", problem="asked for without log_probabilities", remedy=remedy)
