"""What both sides of a language model read from its configuration, and the tokens that its cut is proven on."""

import inspect
from pathlib import Path
from typing import Any, Final

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

from dtufc.coding.layout import Family
from dtufc.errors import InputError
from dtufc.models.profile import Profile
from dtufc.models.proof import MAX_BYTES_AT_START, Steps, require
from dtufc.models.split import model_class, read_config

_PROMPT_TOKENS: Final = 24
_NEW_TOKENS: Final = 6


def read_decoder(folder: Path, profile: Profile, *, max_bytes: float = MAX_BYTES_AT_START) -> tuple[Any, Any]:
    """The configuration and the class of a folder's language model, whose cut is proven.

    Raises:
        InputError: no language model that keeps a cache of keys and values, another layout than tokens, or a cut that
            differs from the whole.
    """
    config = read_config(folder)
    cls = decoder_class(config)
    layout = profile.layout
    if layout.family != Family.llm or layout.axes or layout.channels not in (None, config.hidden_size):
        problem = f"{layout.describe()}, and the model's features are [tokens, {config.hidden_size}]"
        raise InputError(field="layout", problem=problem, remedy="Write {family: llm}")
    require(folder, config, profile.split, lambda: proof_steps(config), cls=cls, max_bytes=max_bytes)
    return config, cls


def decoder_class(config: Any) -> Any:
    """The class of a language model. Raises InputError unless it has one that keeps a cache of keys and values."""
    cls = model_class(config, (MODEL_FOR_CAUSAL_LM_MAPPING,))
    if "past_key_values" not in inspect.signature(cls.forward).parameters:
        problem = f"{cls.__name__} takes no past_key_values, with which a sequence goes on token by token"
        raise InputError(field="model", problem=problem, remedy="Use a model of another class")
    return cls


def max_tokens_of(config: Any) -> int | None:
    """The longest sequence that the model was made for; None where its configuration names none."""
    names = ("max_position_embeddings", "max_seq_len", "seq_length")
    return next((int(value) for name in names if (value := getattr(config, name, None))), None)


def proof_steps(config: Any) -> Steps:
    """A prompt of 24 tokens, then six tokens one by one; the same ones for the same vocabulary."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(int(config.vocab_size), (1, _PROMPT_TOKENS + _NEW_TOKENS), generator=generator)
    single = [ids[:, index : index + 1] for index in range(_PROMPT_TOKENS, ids.shape[1])]
    return [{"input_ids": part} for part in (ids[:, :_PROMPT_TOKENS], *single)]
