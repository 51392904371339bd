"""Heads: features at the split -> result, one module a family of models.

A family is a class that is built from a folder of weights, a profile, a device and a dtype, and that an entry of the
group `dtufc.heads` names. What it can do it says by the protocols of `dtufc.models.capabilities`; what several heads
need is here.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from dtufc.errors import InputError
from dtufc.models.capabilities import Label


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
