"""The first layers of a language model of transformers: token ids -> features.

Of any class whose layers are one list.
"""

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedTokenizer,
    PreTrainedTokenizerFast,
)

from dtufc.coding.layout import Family
from dtufc.errors import InputError
from dtufc.models.capabilities import Draft, Turn
from dtufc.models.decoder import decoder_class, max_tokens_of, read_decoder
from dtufc.models.profile import LayoutSpec, Profile
from dtufc.models.sequence_cache import SequenceCache
from dtufc.models.split import Front, check_split, read_config
from dtufc_edge.detokenizer import open_ids
from dtufc_edge.prompt_tokenizer import PromptTokenizer


class DecoderBackbone:
    """Embeddings, layers 1 ... split, and the tokenizer."""

    def __init__(self, folder: Path, profile: Profile, device: torch.device, dtype: torch.dtype) -> None:
        config, cls = read_decoder(folder, profile)
        self._front = Front(folder, config, profile.split, device, dtype, cls=cls)
        self.num_layers = self._front.num_layers
        self.max_tokens = max_tokens_of(config)
        self.tokenizer = _read_tokenizer(folder)
        self._prompts = PromptTokenizer(self.tokenizer)
        self._open_ids = open_ids(self.tokenizer)
        self.ends = frozenset(_ends(folder, config, self.tokenizer))

    @staticmethod
    def draft(folder: Path) -> Draft | None:
        """What a folder's configuration says of a profile, if it is that of a language model that can be cut."""
        if not (folder / "config.json").is_file():
            return None
        config = read_config(folder)
        if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
            return None
        last = check_split(config, 1, cls=decoder_class(config)).last_split
        return Draft(
            layout=LayoutSpec(family=Family.llm, channels=config.hidden_size),
            tasks=("answer", "complete"),
            last_split=last,
        )

    @staticmethod
    def prove(folder: Path, profile: Profile) -> None:
        """Compares the cut model with the whole, once, whatever its size. Raises InputError where they differ."""
        read_decoder(folder, profile, max_bytes=math.inf)

    def chat_ids(self, turns: Sequence[Turn]) -> list[int]:
        """Token ids of a conversation, up to where the reply starts; see `PromptTokenizer.chat_ids`."""
        return self._prompts.chat_ids(turns)

    def plain_ids(self, prompt: str) -> list[int]:
        """Token ids of the prompt as it stands; see `PromptTokenizer.plain_ids`."""
        return self._prompts.plain_ids(prompt)

    def token_id(self, text: str) -> int:
        """The token that `text` starts with."""
        return int(self.tokenizer(text, add_special_tokens=False)["input_ids"][0])

    def decode(self, token_ids: list[int]) -> str:
        """The text of tokens, with those that are special; spaces stay as they are."""
        return str(self.tokenizer.decode(token_ids, clean_up_tokenization_spaces=False))

    def is_open(self, token_id: int) -> bool:
        """Whether the tokens behind this one may change its text, beyond completing a character that is cut."""
        return self._open_ids is None or token_id in self._open_ids

    @cached_property
    def shares_passes(self) -> bool:
        """Whether one pass may advance several sequences by a token each."""
        return self._front.can_share()

    def start(self) -> SequenceCache:
        """A new sequence: its features of earlier tokens are kept, not computed again."""
        return self._front.new_cache()

    def cache_bytes(self, num_tokens: int) -> int:
        """Bytes of keys and values of a sequence of so many tokens, at most."""
        return self._front.cache_bytes(num_tokens)

    def features(self, state: SequenceCache, token_ids: Sequence[int]) -> Tensor:
        """Features of these tokens, which follow those of the state.

        Returns:
            [tokens, d] on the CPU.

        Raises:
            InputError: the sequence would be longer than the model's context.
        """
        num_tokens = state.num_tokens + len(token_ids)
        if self.max_tokens is not None and num_tokens > self.max_tokens:
            problem = f"{num_tokens} tokens, prompt and reply together"
            raise InputError(field="prompt", problem=problem, remedy=f"Stay within the model's {self.max_tokens}")
        return self._front.features(state, input_ids=torch.tensor([list(token_ids)])).cpu()

    def features_together(self, states: Sequence[SequenceCache], token_ids: Sequence[int]) -> list[Tensor]:
        """One more token of each of several sequences -> [1, d] of each, on the CPU, in one pass."""
        return list(self._front.features_together(states, torch.tensor(token_ids)[:, None]).cpu())


def _read_tokenizer(folder: Path) -> Any:
    remedy = "Add the model's tokenizer to the folder"
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem = f"{folder} has no tokenizer that transformers reads: {' '.join(str(error).split())}"
        raise InputError(field="tokenizer", problem=problem, remedy=remedy) from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast | PreTrainedTokenizer):
        problem = f"a {type(tokenizer).__name__} does not tell which tokens are control tokens"
        raise InputError(field="tokenizer", problem=problem, remedy="Add the model's tokenizer.json to the folder")
    return tokenizer


def _ends(folder: Path, config: Any, tokenizer: Any) -> set[int]:
    """The tokens that end a reply: those of tokenizer, configuration, and generation config if there is one."""
    named = [tokenizer.eos_token_id, config.eos_token_id]
    if (folder / "generation_config.json").is_file():
        named.append(GenerationConfig.from_pretrained(folder, local_files_only=True).eos_token_id)
    return {end for ends in named if ends is not None for end in (ends if isinstance(ends, list) else [ends])}
