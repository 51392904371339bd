"""What both sides of a language model read from its configuration, and the tokens that its cut is proven on."""

from typing import Any, Final

import torch

from dtufc.models.proof import Steps

_PROMPT_TOKENS: Final = 24
_NEW_TOKENS: Final = 6


def max_tokens_of(config: Any) -> int | None:
    """The longest sequence that the model was made for; None where its configuration names none."""
    names = ("max_position_embeddings", "max_seq_len", "seq_length")
    return next((int(value) for name in names if (value := getattr(config, name, None))), None)


def proof_steps(config: Any) -> Steps:
    """A prompt of 24 tokens, then six tokens one by one; the same ones for the same vocabulary."""
    ids = torch.randint(
        int(config.vocab_size), (1, _PROMPT_TOKENS + _NEW_TOKENS), generator=torch.Generator().manual_seed(0)
    )
    single = [ids[:, index : index + 1] for index in range(_PROMPT_TOKENS, ids.shape[1])]
    return [{"input_ids": part} for part in (ids[:, :_PROMPT_TOKENS], *single)]
