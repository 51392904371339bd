"""The first layers of a LLaMA-family decoder: token ids -> features.

No forward pass is copied: the edge's part is a `LlamaModel` of `split` layers whose final norm is the identity.
"""

from collections.abc import Sequence
from pathlib import Path
from string import ascii_uppercase

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoTokenizer, DynamicCache, GenerationConfig, LlamaModel
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from dtufc.errors import InputError
from dtufc.models.zoo.tensors import fill, read_tensors


class LlamaBackbone:
    """Layers 0 ... split - 1, and the tokenizer."""

    def __init__(self, folder: Path, split: int, device: torch.device, dtype: torch.dtype) -> None:
        config = AutoConfig.from_pretrained(folder, num_hidden_layers=split)
        self.max_tokens = int(config.max_position_embeddings)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self._ends = _ends(folder, self.tokenizer.eos_token_id)
        with torch.device("meta"):
            self._model = LlamaModel(config)
            self._model.norm = nn.Identity()  # the norm belongs to the head
        self._model.rotary_emb = LlamaRotaryEmbedding(config)  # its buffers are computed, not stored
        names = {name: f"model.{name}" for name in self._model.state_dict()}
        fill(self._model, read_tensors(folder, names, dtype), device)
        self._device = device

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

    def start(self) -> "LlamaSession":
        """A session: its features of earlier tokens are kept, not computed again."""
        return LlamaSession(self._model, self._device, self.max_tokens)


def choice_prompt(question: str, choices: Sequence[str]) -> str:
    """A question with its choices by letter, for `chat_ids`: the next token is the letter."""
    lettered = [f"{letter}. {text}" for letter, text in zip(ascii_uppercase, choices, strict=False)]
    return "\n".join([question, *lettered, "Answer with the letter alone."])


def _ends(folder: Path, eos_token_id: int | None) -> set[int | None]:
    """The tokens that end a reply: the tokenizer's, and those of the generation config where there is one."""
    if not (folder / "generation_config.json").is_file():
        return {eos_token_id}
    ends = GenerationConfig.from_pretrained(folder).eos_token_id
    return {eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None}


class LlamaSession:
    """One sequence on its way through the edge's layers."""

    def __init__(self, model: LlamaModel, device: torch.device, max_tokens: int) -> None:
        self._model = model
        self._device = device
        self._max_tokens = max_tokens
        self._cache = DynamicCache(config=model.config)
        self.num_tokens = 0

    @torch.inference_mode()
    def features(self, token_ids: list[int]) -> Tensor:
        """Features of these tokens, which follow those given before.

        Returns:
            [tokens, d] on the CPU.

        Raises:
            InputError: the sequence would be longer than the model's context.
        """
        self.num_tokens += len(token_ids)
        if self.num_tokens > self._max_tokens:
            raise InputError(
                field="prompt",
                problem=f"{self.num_tokens} tokens, prompt and reply together",
                remedy=f"Stay within the model's {self._max_tokens}",
            )
        ids = torch.tensor([token_ids], device=self._device)
        output = self._model(input_ids=ids, past_key_values=self._cache, use_cache=True)
        features: Tensor = output.last_hidden_state[0]  # [tokens, d]
        return features.cpu()
