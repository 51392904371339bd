"""Feature tensors at the border: what people give becomes an array that is checked, exactly or not at all.

numpy or torch --as_array--> finite float32, float16 or bfloat16     nothing is cast, filled, dropped or clipped
bytes of a .npy --read_npy--> the same
arrays of codecs --as_tensor--> torch
"""

import sys
from collections.abc import Iterable, Mapping
from io import BytesIO
from math import prod
from tokenize import TokenError
from typing import TYPE_CHECKING, Any, Final

import ml_dtypes
import numpy as np
from numpy.lib import format as npy

from dtufc.coding.arrays import Array
from dtufc.coding.bitstream import MAX_VALUES, Dtype
from dtufc.errors import InputError

if TYPE_CHECKING:
    import torch

NUMPY_DTYPES: dict[Dtype, np.dtype[Any]] = {
    Dtype.float32: np.dtype(np.float32),
    Dtype.float16: np.dtype(np.float16),
    Dtype.bfloat16: np.dtype(ml_dtypes.bfloat16),
}
_SAVED_BFLOAT16: Final = np.dtype("V2")  # what numpy.save and numpy.load make of it; no other type comes out so
_TYPES: Final = ", ".join(list(Dtype.__members__)[:-1]) + f" or {list(Dtype.__members__)[-1]}"
_NPY_HEADERS: Final = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
_ZIP: Final = b"PK"


def as_array(features: "Array | torch.Tensor", field: str = "features", max_values: int = MAX_VALUES) -> Array:
    """A contiguous numpy array of the same values and type; bfloat16 as ml_dtypes has it.

    Its size is checked before anything is copied: a broadcast array holds few values and has a shape of many.

    Args:
        features: a numpy array or a torch tensor, of any strides and byte order, on any device.
        field: of the error.
        max_values: that it may have.

    Raises:
        InputError: neither array nor tensor, or one without values; another type; too many values; a masked one, or
            one that is not finite.
    """
    torch_ = sys.modules.get("torch")  # a tensor can only come from a torch that is already imported
    if torch_ is not None and isinstance(features, torch_.Tensor):
        array = _of_tensor(features, field, max_values)
    elif isinstance(features, np.ndarray):
        array = _of_ndarray(features, field, max_values)
    else:
        problem = f"a {type(features).__name__}"
        raise InputError(field=field, problem=problem, remedy="Give a numpy array or a torch tensor")
    wrong = array.size - np.count_nonzero(np.isfinite(array))
    if wrong:
        problem = f"NaN or infinite values, {wrong} of {array.size}"
        raise InputError(field=field, problem=problem, remedy="Give finite values")
    return array


def as_arrays(
    features: "Iterable[Array | torch.Tensor]", field: str = "samples", max_values: int = MAX_VALUES
) -> list[Array]:
    """`as_array` of each; an error names which.

    Raises:
        InputError: no list of arrays, an empty one, or one of them is rejected.
    """
    if hasattr(features, "shape") or isinstance(features, str | bytes | Mapping) or not isinstance(features, Iterable):
        problem = f"a {type(features).__name__} is no list of them"
        raise InputError(field=field, problem=problem, remedy="Give a list of arrays or tensors, one for each sample")
    arrays = [as_array(one, f"{field}[{index}]", max_values) for index, one in enumerate(features)]
    if not arrays:
        raise InputError(field=field, problem="none were given", remedy="Give about ten, in a list")
    return arrays


def read_npy(data: bytes, field: str) -> Array:
    """The features in the bytes of a .npy file; what its header claims is checked against them first.

    Args:
        data: of the file, as `numpy.save` writes it.
        field: of the error.

    Raises:
        InputError: other bytes, more or fewer than the header says, or features that `as_array` rejects.
    """
    remedy = "Give a .npy file of one array, as numpy.save writes it"
    if data.startswith(_ZIP):
        raise InputError(field=field, problem="is an archive, as .npz and .pt are", remedy=remedy)
    file = BytesIO(data)
    try:
        shape, is_fortran, dtype = _NPY_HEADERS[npy.read_magic(file)](file)  # type: ignore[no-untyped-call]
        content = memoryview(data)[file.tell() :]
        if dtype.hasobject:
            raise InputError(field=field, problem="holds Python objects, which are not read", remedy=remedy)
        if min(shape, default=1) < 0 or prod(shape) * dtype.itemsize != len(content):
            problem = f"its header says shape {shape} of {dtype}, and {len(content)} bytes follow"
            raise InputError(field=field, problem=problem, remedy=remedy)
        array = np.frombuffer(content, dtype).reshape(shape, order="F" if is_fortran else "C")
    except (
        ValueError,
        SyntaxError,
        TokenError,
        LookupError,
        TypeError,
        OverflowError,
        RecursionError,
        MemoryError,
    ) as e:
        raise InputError(field=field, problem="is no .npy file of one array", remedy=remedy) from e
    return as_array(array, field)


def to_dtype(values: Array, dtype: np.dtype[Any]) -> Array:
    """Rounds to float32 and from there to `dtype`; values out of its range are clipped to its largest value."""
    largest = float(ml_dtypes.finfo(dtype).max)  # type: ignore[no-untyped-call]
    return np.clip(values, -largest, largest).astype(np.float32).astype(dtype)


def dtype_of(array: Array) -> Dtype:
    """The wire's name for the array's type."""
    return next(name for name, dtype in NUMPY_DTYPES.items() if dtype == array.dtype)


def as_tensor(array: Array) -> "torch.Tensor":
    """The torch tensor of the same values and type, of an array that `as_array` or a codec gave."""
    import torch

    array = np.require(array, requirements="W")  # a copy of what is read-only, which torch does not know
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _of_ndarray(array: Array, field: str, max_values: int) -> Array:
    dtype = array.dtype.newbyteorder("=") if array.dtype.kind == "f" else array.dtype
    if dtype not in (*NUMPY_DTYPES.values(), _SAVED_BFLOAT16):
        raise _wrong_type(field, dtype)
    _check_size(field, array.size, max_values)
    masked = int(np.count_nonzero(array.mask)) if isinstance(array, np.ma.MaskedArray) else 0
    if masked:
        problem = f"{masked} of {array.size} values are masked"
        raise InputError(field=field, problem=problem, remedy="Drop these rows, or give features.filled(value)")
    plain = np.require(np.asarray(array), dtype, ("C", "A"))
    return plain.view(NUMPY_DTYPES[Dtype.bfloat16]) if dtype == _SAVED_BFLOAT16 else plain


def _of_tensor(tensor: "torch.Tensor", field: str, max_values: int) -> Array:
    import torch

    for is_so, problem, remedy in (
        (tensor.is_nested, "a nested tensor", "Give each of its tensors, as unbind() has them"),
        (tensor.is_meta, "a tensor without values, on the device meta", "Give one with values"),
        (tensor.is_quantized, "a quantized tensor", "Give tensor.dequantize()"),
        (tensor.layout != torch.strided, f"a tensor of layout {tensor.layout}", "Give tensor.to_dense()"),
    ):
        if is_so:
            raise InputError(field=field, problem=problem, remedy=remedy)
    name = str(tensor.dtype).removeprefix("torch.")
    if name not in Dtype.__members__:
        raise _wrong_type(field, name)
    _check_size(field, tensor.numel(), max_values)
    try:
        plain = tensor.detach().cpu().resolve_neg().contiguous()
        if plain.dtype == torch.bfloat16:
            return plain.view(torch.uint16).numpy().view(NUMPY_DTYPES[Dtype.bfloat16])
        return plain.numpy()
    except (RuntimeError, TypeError) as error:  # one that a trace, a transform or another library stands behind
        problem = f"a tensor whose values cannot be read: {' '.join(str(error).split())}"
        raise InputError(field=field, problem=problem, remedy="Give a plain tensor") from error


def _wrong_type(field: str, dtype: object) -> InputError:
    return InputError(field=field, problem=f"dtype {dtype}", remedy=f"Give {_TYPES}")


def _check_size(field: str, num_values: int, max_values: int) -> None:
    if num_values > max_values:
        raise InputError(field=field, problem=f"{num_values} values", remedy=f"Give at most {max_values}")
