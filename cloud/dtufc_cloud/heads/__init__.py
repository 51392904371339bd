"""Heads: features at the split point -> result, one module a model family."""

from torch import Tensor

from dtufc.errors import InputError


def finite(result: Tensor) -> Tensor:
    """The result as it is. Raises InputError where a number in it overflowed: nothing can be read from such a one."""
    if not result.isfinite().all():
        problem = "the model's numbers overflow on its features"
        raise InputError(field="frame", problem=problem, remedy="Send smaller features, or run the cloud in float32")
    return result
