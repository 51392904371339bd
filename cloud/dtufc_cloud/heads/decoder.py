"""The last layers of a language model of transformers: features -> logits.

Of any class whose layers are one list.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from dtufc.errors import DtufcError, InputError
from dtufc.models.decoder import max_tokens_of, read_decoder
from dtufc.models.profile import Profile
from dtufc.models.sequence_cache import SequenceCache
from dtufc.models.split import Back
from dtufc_cloud.heads import check_finite


class DecoderHead:
    """Layers split + 1 ... L, final norm and output matrix."""

    def __init__(self, folder: Path, profile: Profile, device: torch.device, dtype: torch.dtype) -> None:
        config, cls = read_decoder(folder, profile)
        self._back = Back(folder, config, profile.split, device, dtype, cls=cls)
        self.num_layers = self._back.num_layers
        self._channels = int(config.hidden_size)
        self.example_shape = (2, self._channels)
        self.max_tokens = max_tokens_of(config)
        self.vocabulary = int(config.get_text_config().vocab_size)

    def check(self, shape: tuple[int, ...]) -> None:
        """[tokens, d], no more tokens than the model's context."""
        if len(shape) != 2 or shape[1] != self._channels or shape[0] > (self.max_tokens or shape[0]):
            most = f", at most {self.max_tokens} tokens" if self.max_tokens else ""
            remedy = f"Send [tokens, {self._channels}]{most}"
            raise InputError(field="frame", problem=f"features of shape {shape}", remedy=remedy)

    def forward(self, features: Tensor, last: int = 0) -> Tensor:
        """`logits`, differentiable by the features."""
        blank = torch.zeros(1, len(features), dtype=torch.long)
        logits = self._back.output(features, input_ids=blank, logits_to_keep=last, use_cache=False).logits
        return logits[0, -last:].float().cpu()

    def gradient(self, features: Tensor, generator: torch.Generator) -> Tensor:
        """Of the log-probability of sampled next tokens: E[g g'] is the model's Fisher information."""
        x = features.detach().to(torch.float32, copy=True).requires_grad_(True)
        log_probabilities = torch.log_softmax(self.forward(x), dim=-1)
        sampled = torch.multinomial(log_probabilities.detach().exp(), 1, generator=generator)
        (gradient,) = torch.autograd.grad(log_probabilities.gather(1, sampled).sum(), x)
        return gradient

    @torch.inference_mode()
    def logits(self, features: Tensor, last: int = 0) -> Tensor:
        """Features [tokens, d] -> logits [tokens, vocabulary], float32; of the `last` tokens alone, if given."""
        return check_finite(self.forward(features, last))

    def answer(self, features: Tensor, token_ids: Sequence[int]) -> list[float]:
        """The probability of each of these tokens to come next, among them alone.

        Raises:
            InputError: a token that the model does not have.
        """
        logits = self.logits(features, last=1)[0]
        if max(token_ids) >= len(logits):
            raise InputError(
                field="token_ids", problem=f"{list(token_ids)}", remedy=f"Give ids from 0 to {len(logits) - 1}"
            )
        chosen = logits[list(token_ids)].double()
        return [float(p) for p in torch.softmax(chosen, dim=0)]

    @cached_property
    @torch.inference_mode()
    def shares_passes(self) -> bool:
        """Whether one pass may advance several sequences by a token each."""
        return self._back.can_share()

    def start(self) -> SequenceCache:
        """A new sequence."""
        return self._back.new_cache()

    @torch.inference_mode()
    def cache_bytes(self, num_tokens: int) -> int:
        """Bytes of keys and values of a sequence of so many tokens, at most."""
        return self._back.cache_bytes(num_tokens)

    @torch.inference_mode()
    def next_logits(self, state: SequenceCache, features: Tensor, last: int) -> Tensor:
        """Features [tokens, d] that follow those of the state -> logits [last, vocabulary], float32."""
        blank = torch.zeros(1, len(features), dtype=torch.long)
        logits = self._back.output(features, state, input_ids=blank, logits_to_keep=last).logits
        return check_finite(logits[0, -last:].float().cpu())

    @torch.inference_mode()
    def next_logits_together(
        self, states: Sequence[SequenceCache], features: Sequence[Tensor]
    ) -> list[Tensor | DtufcError]:
        """One more row [1, d] of each of several sequences -> logits [1, vocabulary] of each, float32, or its error."""
        logits = self._back.output_together(features, states).logits
        return [_finite_or_error(row) for row in logits[:, -1:].float().cpu()]


def _finite_or_error(logits: Tensor) -> Tensor | DtufcError:
    try:
        return check_finite(logits)
    except InputError as error:
        return error
