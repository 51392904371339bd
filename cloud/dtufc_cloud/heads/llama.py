"""The last layers of a LLaMA-family decoder: features -> logits.

No forward pass is copied: the cloud's part is a `LlamaForCausalLM` of the layers that are left, fed `inputs_embeds`.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from dtufc.errors import InputError
from dtufc.models.zoo.tensors import fill, read_tensors, shift_layer
from dtufc_cloud.heads import finite


class LlamaHead:
    """Layers split ... L - 1, final norm and output matrix."""

    def __init__(self, folder: Path, split: int, device: torch.device, dtype: torch.dtype) -> None:
        config = AutoConfig.from_pretrained(folder)
        tied = config.tie_word_embeddings
        config = AutoConfig.from_pretrained(
            folder, num_hidden_layers=config.num_hidden_layers - split, tie_word_embeddings=False
        )
        with torch.device("meta"):
            self._model = LlamaForCausalLM(config)
        del self._model.model.embed_tokens  # tokens never come here
        self._model.model.rotary_emb = LlamaRotaryEmbedding(config)  # its buffers are computed, not stored
        names = {name: _stored_name(name, split, tied) for name in self._model.state_dict()}
        fill(self._model, read_tensors(folder, names, dtype), device)
        self._device = device
        self._dtype = dtype

    def forward(self, features: Tensor, last: int = 0) -> Tensor:
        """`logits`, differentiable by the features."""
        embeds = features.to(self._device, self._dtype)[None]  # [1, tokens, d]
        logits = self._model(inputs_embeds=embeds, use_cache=False, logits_to_keep=last).logits
        return logits[0].float().cpu()

    @torch.inference_mode()
    def logits(self, features: Tensor, last: int = 0) -> Tensor:
        """Features [tokens, d] -> logits [tokens, vocabulary], float32; of the `last` tokens alone, if given."""
        return finite(self.forward(features, last))

    def answer(self, features: Tensor, token_ids: Sequence[int]) -> list[float]:
        """The probability of each of these tokens to come next, among them alone.

        Raises:
            InputError: a token that the model does not have.
        """
        logits = self.logits(features, last=1)[0]
        if not token_ids or max(token_ids) >= len(logits):
            raise InputError(
                field="token_ids", problem=f"{list(token_ids)}", remedy=f"Give ids from 0 to {len(logits) - 1}"
            )
        chosen = logits[list(token_ids)].double()
        return [float(p) for p in torch.softmax(chosen, dim=0)]

    def next_token(self, features: Tensor) -> int:
        """The most probable next token."""
        return int(self.logits(features, last=1)[0].argmax())


def _stored_name(name: str, split: int, tied: bool) -> str:
    """The name that a tensor of the cloud's part has in the whole model."""
    return "model.embed_tokens.weight" if tied and name == "lm_head.weight" else shift_layer(name, split)
