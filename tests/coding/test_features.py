"""What people give as features: taken exactly, or rejected in one line that says what to do."""

import io
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import dtufc
from dtufc.coding.arrays import Array
from dtufc.coding.features import as_array, as_tensor, read_npy
from dtufc.errors import InputError

VALUES = np.arange(24, dtype=np.float32).reshape(4, 6) - 7.5
BFLOAT16 = VALUES.astype(ml_dtypes.bfloat16)


def saved(array: Array) -> bytes:
    """As numpy.save writes it."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def frozen(array: Array) -> Array:
    array = array.copy()
    array.setflags(write=False)
    return array


def unaligned(array: Array) -> Array:
    return np.frombuffer(b"\0" + array.tobytes(), array.dtype, offset=1).reshape(array.shape)


TAKEN: dict[str, Any] = {
    "a plain array": VALUES,
    "read-only": frozen(VALUES),
    "column by column": np.asfortranarray(VALUES),
    "backwards": VALUES[::-1, ::-1].copy()[::-1, ::-1],
    "every other row of another": np.repeat(VALUES, 2, axis=0)[::2],
    "not aligned": unaligned(VALUES),
    "big-endian": VALUES.astype(">f4"),
    "a masked array that masks nothing": np.ma.masked_array(VALUES, np.zeros(VALUES.shape, bool)),  # type: ignore[no-untyped-call]
    "float16": VALUES.astype(np.float16),
    "bfloat16": BFLOAT16,
    "bfloat16 as numpy.load has it": BFLOAT16.view("V2"),
    "bfloat16 as numpy.load has it, transposed": BFLOAT16.T.copy().view("V2").T,
    "a tensor": torch.from_numpy(VALUES.copy()),
    "a parameter": torch.nn.Parameter(torch.from_numpy(VALUES.copy())),
    "a tensor in a graph": torch.from_numpy(VALUES.copy()).requires_grad_() * 1,
    "a transposed tensor": torch.from_numpy(VALUES.T.copy()).T,
    "an expanded tensor": torch.ones(1, 6).expand(4, 6) * torch.from_numpy(VALUES),
    "a tensor whose sign is a flag": torch.complex(torch.zeros(4, 6), -torch.from_numpy(VALUES)).conj().imag,
    "a bfloat16 tensor": torch.from_numpy(VALUES.copy()).bfloat16(),
    "a float16 tensor": torch.from_numpy(VALUES.copy()).half(),
}


@pytest.mark.parametrize("given_", TAKEN.values(), ids=list(TAKEN))
def test_every_value_is_taken_as_it_is(given_: Any) -> None:
    array = as_array(given_)
    assert array.dtype.name in ("float32", "float16", "bfloat16")
    assert (type(array), array.flags.c_contiguous, array.flags.aligned) == (np.ndarray, True, True)
    np.testing.assert_array_equal(array.astype(np.float32), VALUES)
    assert torch.equal(as_tensor(array).float(), torch.from_numpy(VALUES))


class OfAnotherLibrary:
    """Like an array of jax or pandas."""

    shape = (4, 6)

    def __array__(self, *_: Any, **__: Any) -> Array:
        return VALUES


def with_a_mask() -> Array:
    return np.ma.masked_array(VALUES, VALUES > 3)  # type: ignore[no-untyped-call]


MANY = 10**6  # squared, more than any memory holds
REJECTED: dict[str, tuple[Callable[[], Any], str]] = {
    "masked values": (with_a_mask, r"13 of 24 values are masked\. .*filled"),
    "float64": (lambda: VALUES.astype(np.float64), "dtype float64. Give float32, float16 or bfloat16"),
    "float128": (lambda: VALUES.astype(np.longdouble), "dtype float"),
    "integers": (lambda: VALUES.astype(np.int64), "dtype int64"),
    "truth values": (lambda: VALUES > 0, "dtype bool"),
    "complex": (lambda: VALUES.astype(np.complex64), "dtype complex64"),
    "objects": (lambda: VALUES.astype(object), "dtype object"),
    "texts": (lambda: VALUES.astype(str), "dtype <U32"),
    "dates": (lambda: np.zeros((4, 6), "M8[s]"), "dtype datetime64"),
    "records": (lambda: np.zeros((4, 6), [("x", "f4")]), "dtype .*x"),
    "records of two bytes": (lambda: np.zeros((4, 6), [("x", "u2")]), "dtype .*x"),
    "float8": (lambda: VALUES.astype(ml_dtypes.float8_e4m3fn), "dtype float8_e4m3fn"),
    "NaN": (lambda: np.where(VALUES > 3, np.nan, VALUES).astype(np.float32), "NaN or infinite values, 13 of 24"),
    "infinite": (lambda: np.full((4, 6), np.inf, ml_dtypes.bfloat16), "NaN or infinite values, 24 of 24"),
    "a shape beyond memory": (lambda: np.broadcast_to(np.float32(0), (MANY, MANY)), "1000000000000 values"),
    "a list": (VALUES.tolist, "a list. Give a numpy array or a torch tensor"),
    "a number": (lambda: 3.0, "a float"),
    "nothing": (lambda: None, "a NoneType"),
    "of another library": (OfAnotherLibrary, "a OfAnotherLibrary"),
    "a float64 tensor": (lambda: torch.zeros(4, 6, dtype=torch.float64), "dtype float64"),
    "a float8 tensor": (lambda: torch.zeros(4, 6).to(torch.float8_e4m3fn), "dtype float8_e4m3fn"),
    "a complex tensor": (lambda: torch.zeros(4, 6, dtype=torch.complex64).conj(), "dtype complex64"),
    "a tensor without values": (lambda: torch.zeros(4, 6, device="meta"), "meta"),
    "a sparse tensor": (lambda: torch.zeros(4, 6).to_sparse(), r"sparse_coo\. Give tensor\.to_dense\(\)"),
    "a tensor beyond memory": (lambda: torch.zeros(1).expand(MANY, MANY), "1000000000000 values"),
    "a tensor of NaN": (lambda: torch.full((4, 6), torch.nan), "NaN"),
}


@pytest.fixture(scope="module")
def codec() -> dtufc.FeatureCodec:
    rng = np.random.default_rng(0)
    return dtufc.fit([rng.standard_normal((40, 6)).astype(np.float32) for _ in range(3)], learned=False)


@pytest.mark.parametrize(("make", "match"), REJECTED.values(), ids=list(REJECTED))
def test_what_cannot_be_taken_exactly_is_rejected_in_one_line(
    codec: dtufc.FeatureCodec, make: Callable[[], Any], match: str
) -> None:
    with pytest.raises(InputError, match=f"features: .*{match}") as error:
        codec.encode(make())
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match=rf"samples\[1\]: .*{match}"):
        dtufc.fit([VALUES, make()])
    with pytest.raises(InputError, match=rf"gradients\[0\]: .*{match}"):
        dtufc.fit([VALUES], gradients=[make()])


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors", "ignore:torch.quantize_per_tensor")
def test_nested_and_quantized_tensors_are_rejected(codec: dtufc.FeatureCodec) -> None:
    nested = torch.nested.nested_tensor([torch.zeros(2, 6), torch.zeros(3, 6)])
    with pytest.raises(InputError, match=r"a nested tensor\. Give each of its tensors"):
        codec.encode(nested)
    with pytest.raises(InputError, match=r"a quantized tensor\. Give tensor\.dequantize\(\)"):
        codec.encode(torch.quantize_per_tensor(torch.zeros(4, 6), 0.1, 0, torch.qint8))


def test_a_tensor_inside_a_transform_of_torch_is_rejected(codec: dtufc.FeatureCodec) -> None:
    with pytest.raises(InputError, match="a tensor whose values cannot be read"):
        torch.vmap(lambda x: codec.decode_tensor(codec.encode(x)))(torch.zeros(2, 4, 6))


@pytest.mark.parametrize(
    "samples",
    [VALUES, torch.from_numpy(VALUES), {"a": VALUES}, "features.npy", b"features", 3, None, OfAnotherLibrary()],
    ids=["array", "tensor", "dict", "text", "bytes", "number", "nothing", "another library's"],
)
def test_samples_that_are_no_list_are_rejected(samples: Any) -> None:
    with pytest.raises(InputError, match=r"samples: .* is no list of them\. Give a list of arrays"):
        dtufc.fit(samples)
    if samples is not None:
        with pytest.raises(InputError, match=r"gradients: .* is no list of them"):
            dtufc.fit([VALUES], gradients=samples)


def test_samples_of_several_types_and_libraries_are_fitted_together() -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((20, 6)).astype(np.float16).astype(np.float32) for _ in range(4)]
    mixed = [arrays[0], torch.from_numpy(arrays[1]).half(), arrays[2].astype(">f4"), torch.from_numpy(arrays[3])]
    assert dtufc.fit(iter(mixed), learned=False).profile.digest == dtufc.fit(arrays, learned=False).profile.digest  # type: ignore[arg-type]


def test_each_tensor_of_a_tuple_is_named(codec: dtufc.FeatureCodec) -> None:
    pair = dtufc.TupleCodec([codec, codec])
    with pytest.raises(InputError, match=r"tensors\[1\]: features: a list"):
        pair.encode([VALUES, VALUES.tolist()])
    with pytest.raises(InputError, match=r"samples\[1\]\[0\]: a list"):
        dtufc.fit_tuple([(VALUES, VALUES), (VALUES.tolist(), VALUES)], axes="TC")
    with pytest.raises(InputError, match=r"samples\[0\]: .*no list"):
        dtufc.fit_tuple([VALUES], axes="TC")  # type: ignore[list-item]


def header(text: str, version: int = 1) -> bytes:
    length = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + length + text.encode("latin1")


def claiming(shape: str, descr: str = "'<f4'", order: str = "False") -> bytes:
    return header(f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}}}")


@pytest.mark.parametrize("name", [name for name, one in TAKEN.items() if isinstance(one, np.ndarray)])
def test_an_array_that_numpy_saved_is_read_back(name: str) -> None:
    array = read_npy(saved(TAKEN[name]), "a.npy")
    np.testing.assert_array_equal(array.astype(np.float32), VALUES)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "is no .npy file"),
        (b"no array", "is no .npy file"),
        (saved(VALUES)[:40], "is no .npy file"),
        (saved(VALUES)[:-1], "its header says shape (4, 6) of float32, and 95 bytes follow"),
        (saved(VALUES) + saved(VALUES), "bytes follow"),
        (claiming("(10**12,)"), "is no .npy file"),
        (claiming("(1000000000000,)"), "1000000000000"),
        (claiming("(0, 1000000000000)") , "shape"),
        (claiming("(-2, -3)") + bytes(24), "bytes follow"),
        (claiming("(True,)") + bytes(4), ""),
        (claiming("(1000000000000,)", "'|V0'"), ""),
        (claiming("(1000000000000,)", "'<U0'"), ""),
        (claiming("(1,)", "'|O'"), "Python objects"),
        (claiming("(1,)", "'nonsense'"), "is no .npy file"),
        (claiming("(1,)", "()"), "is no .npy file"),
        (claiming("(1,)", "[[[1]]]"), "is no .npy file"),
        (claiming("(1,)", "('<f4', (1000000, 1000000))"), ""),
        (header("(" * 5000), "is no .npy file"),
        (header("{'a': " * 1500), "is no .npy file"),
        (header("\"'"), "is no .npy file"),
        (header("{}", 3), "is no .npy file"),
        (header("x" * 20000, 2), "is no .npy file"),
        (saved(VALUES.astype(np.float64)), "dtype float64"),
        (saved(np.full((2, 2), np.nan, np.float32)), "NaN"),
        (b"PK\x03\x04", "archive"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_array_of_features_is_rejected_and_nothing_allocated(data: bytes, match: str) -> None:
    with pytest.raises(InputError) as error:
        as_checked(read_npy(data, "a.npy"))
    assert match in str(error.value)
    assert "\n" not in str(error.value)


def as_checked(array: Array) -> None:
    """Shapes are the layout's to check."""
    if array.size < 4:
        raise InputError(field="a.npy", problem=f"shape {array.shape}", remedy="-")


@given(st.integers(0, 127), st.integers(1, 255), st.binary(max_size=3))
def test_no_header_gives_another_error(at: int, flip: int, more: bytes) -> None:
    data = bytearray(saved(VALUES))
    data[at] ^= flip
    with suppress(InputError):
        assert read_npy(bytes(data) + more, "a.npy").nbytes == VALUES.nbytes
