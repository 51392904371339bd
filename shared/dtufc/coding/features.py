"""Feature tensors at the border: numpy or torch, float32, float16 or bfloat16, checked before work starts."""

import sys
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from dtufc.coding.arrays import Array
from dtufc.coding.bitstream import Dtype
from dtufc.errors import InputError

if TYPE_CHECKING:
    import torch

NUMPY_DTYPES: dict[Dtype, np.dtype[Any]] = {
    Dtype.float32: np.dtype(np.float32),
    Dtype.float16: np.dtype(np.float16),
    Dtype.bfloat16: np.dtype(ml_dtypes.bfloat16),
}


def as_array(features: "Array | torch.Tensor") -> Array:
    """A contiguous numpy array of the same values and type; bfloat16 as ml_dtypes has it.

    Raises:
        InputError: neither array nor tensor, another type, or a value that is not finite.
    """
    torch_ = sys.modules.get("torch")  # a tensor can only come from a torch that is already imported
    if torch_ is not None and isinstance(features, torch_.Tensor):
        tensor = features.detach().cpu().contiguous()
        if tensor.dtype == torch_.bfloat16:
            array = tensor.view(torch_.uint16).numpy().view(ml_dtypes.bfloat16)
        else:
            array = tensor.numpy()
    elif isinstance(features, np.ndarray):
        array = np.ascontiguousarray(features)
    else:
        raise InputError(
            field="features", problem=f"a {type(features).__name__}", remedy="Give a numpy array or a torch tensor"
        )
    if array.dtype not in NUMPY_DTYPES.values():
        raise InputError(field="features", problem=f"dtype {array.dtype}", remedy="Give float32, float16 or bfloat16")
    if not np.isfinite(array).all():
        raise InputError(field="features", problem="NaN or infinite values", remedy="Give finite values")
    return array


def to_dtype(values: Array, dtype: np.dtype[Any]) -> Array:
    """Rounds to float32 and from there to `dtype`; values out of its range are clipped to its largest value."""
    largest = float(ml_dtypes.finfo(dtype).max)  # type: ignore[no-untyped-call]
    return np.clip(values, -largest, largest).astype(np.float32).astype(dtype)


def dtype_of(array: Array) -> Dtype:
    """The wire's name for the array's type."""
    return next(name for name, dtype in NUMPY_DTYPES.items() if dtype == array.dtype)


def as_tensor(array: Array) -> "torch.Tensor":
    """The torch tensor of the same values and type."""
    import torch

    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(array)
