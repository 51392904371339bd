"""The first layers of a language model of transformers: token ids -> features.

Of any class whose layers are one list.
"""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoTokenizer, GenerationConfig

from dtufc.coding.layout import Family
from dtufc.errors import InputError
from dtufc.models.capabilities import Draft
from dtufc.models.decoder import decoder_class, max_tokens_of, read_decoder
from dtufc.models.profile import LayoutSpec, Profile
from dtufc.models.split import Front, check_split, read_config


class DecoderBackbone:
    """Embeddings, layers 1 ... split, and the tokenizer."""

    def __init__(self, folder: Path, profile: Profile, device: torch.device, dtype: torch.dtype) -> None:
        config, cls = read_decoder(folder, profile)
        self._front = Front(folder, config, profile.split, device, dtype, cls=cls)
        self.num_layers = self._front.num_layers
        self.max_tokens = max_tokens_of(config)
        self.tokenizer = _read_tokenizer(folder)
        self._ends = _ends(folder, config, self.tokenizer)

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

    def chat_ids(self, prompt: str) -> list[int]:
        """Token ids of one user turn in the model's chat template, up to where the reply starts.

        Where the tokenizer has no template, those of the prompt itself.
        """
        if not self.tokenizer.chat_template:
            return self.plain_ids(prompt)
        turn = [{"role": "user", "content": prompt}]
        encoded = self.tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=True)
        return list(encoded["input_ids"])

    def plain_ids(self, prompt: str) -> list[int]:
        """Token ids of the prompt as it stands."""
        return list(self.tokenizer(prompt)["input_ids"])

    def token_id(self, text: str) -> int:
        """The token that `text` starts with."""
        return int(self.tokenizer(text, add_special_tokens=False)["input_ids"][0])

    def is_end(self, token_id: int) -> bool:
        """Whether this token ends a reply."""
        return token_id in self._ends

    def decode(self, token_ids: list[int]) -> str:
        """The text of tokens."""
        return str(self.tokenizer.decode(token_ids))

    def start(self) -> "DecoderSession":
        """A new sequence: its features of earlier tokens are kept, not computed again."""
        return DecoderSession(self._front, self.max_tokens)


class DecoderSession:
    """One sequence on its way through the edge's layers."""

    def __init__(self, front: Front, max_tokens: int | None) -> None:
        self._front = front
        self._max_tokens = max_tokens
        self._cache = front.new_cache()
        self.num_tokens = 0

    def features(self, token_ids: list[int]) -> Tensor:
        """Features of these tokens, which follow those given before.

        Returns:
            [tokens, d] on the CPU.

        Raises:
            InputError: the sequence would be longer than the model's context.
        """
        self.num_tokens += len(token_ids)
        if self._max_tokens is not None and self.num_tokens > self._max_tokens:
            raise InputError(
                field="prompt",
                problem=f"{self.num_tokens} tokens, prompt and reply together",
                remedy=f"Stay within the model's {self._max_tokens}",
            )
        return self._front.features(self._cache, input_ids=torch.tensor([token_ids])).cpu()


def _read_tokenizer(folder: Path) -> Any:
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem = f"{folder} has no tokenizer that transformers reads: {' '.join(str(error).split())}"
        raise InputError(
            field="tokenizer", problem=problem, remedy="Add the model's tokenizer to the folder"
        ) from error


def _ends(folder: Path, config: Any, tokenizer: Any) -> set[int]:
    """The tokens that end a reply: those of tokenizer, configuration, and generation config if there is one."""
    named = [tokenizer.eos_token_id, config.eos_token_id]
    if (folder / "generation_config.json").is_file():
        named.append(GenerationConfig.from_pretrained(folder, local_files_only=True).eos_token_id)
    return {end for ends in named if ends is not None for end in (ends if isinstance(ends, list) else [ends])}
