"""Heads: features at the split -> result, one module a family of models.

A family is a class that is built from a folder of weights, a profile, a device and a dtype, and that an entry of the
group `dtufc.heads` names. What it can do it says by the protocols below, which tasks ask for.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from dtufc.coding.arrays import Array
from dtufc.errors import InputError


class Head(Protocol):
    """What every family gives."""

    @property
    def num_layers(self) -> int:
        """Layers of the whole model: the largest split."""

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises InputError unless features of this shape, of one input, are what this head takes."""


@runtime_checkable
class NextTokenLogits(Protocol):
    """Features of tokens -> what comes next."""

    def answer(self, features: Tensor, token_ids: Sequence[int]) -> list[float]:
        """The probability of each of these tokens to come next, among them alone."""

    def next_token(self, features: Tensor) -> int:
        """The most probable next token."""


@runtime_checkable
class DenseLabels(Protocol):
    """Features of patches -> a label for every pixel."""

    def label_map(self, features: Tensor, box: tuple[int, int, int, int], size: tuple[int, int]) -> Array:
        """Labels uint8[height, width] of the image that lies at `box` of the model's input."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """One class and its probability."""

    index: int
    name: str
    probability: float


@runtime_checkable
class Labels(Protocol):
    """Features of an image -> what it shows."""

    def labels(self, features: Tensor, count: int) -> list[Label]:
        """The most probable classes, at most `count`, best first."""


@runtime_checkable
class ImageDecoder(Protocol):
    """A latent -> an image."""

    def image(self, features: Tensor) -> Array:
        """uint8[H, W, 3]."""


@runtime_checkable
class Differentiable(Protocol):
    """A head that can say how much its result depends on each value of the features: what a fit is told."""

    def gradient(self, features: Tensor, generator: torch.Generator) -> Tensor:
        """g, float32, of the features' shape, at random: E[g g'] is what errors in the features cost the result."""


def signed_gradient(
    forward: Callable[[Tensor], Tensor],
    features: Tensor,
    generator: torch.Generator,
    weight: Callable[[Tensor], Tensor] = torch.ones_like,
) -> Tensor:
    """The gradient of the weighted output under random signs: E[g g'] is the squared change of all of it.

    The Fisher information, as for text, would cover only the sampled classes, few of a thousand.
    """
    x = features.detach().to(torch.float32, copy=True).requires_grad_(True)
    output = forward(x)
    signs = torch.randint(0, 2, output.shape, generator=generator) * 2.0 - 1.0
    (gradient,) = torch.autograd.grad(output, x, weight(output.detach()) * signs)
    return gradient


def check_finite(result: Tensor) -> Tensor:
    """The result as it is. Raises InputError where a number in it overflowed: nothing can be read from such a one."""
    if not result.isfinite().all():
        problem = "the model's numbers overflow on its features"
        raise InputError(field="frame", problem=problem, remedy="Send smaller features, or run the cloud in float32")
    return result


def top_labels(logits: Tensor, names: dict[int, str], count: int) -> list[Label]:
    """The most probable classes of logits [classes], at most `count`, best first."""
    probabilities = logits.double().softmax(dim=0)
    best = probabilities.topk(min(count, len(probabilities)))
    return [
        Label(index=index, name=names.get(index, str(index)), probability=probability)
        for index, probability in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
