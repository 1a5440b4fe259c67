"""The globals that a pickle of NumPy arrays mentions, and what stands in for each.

NumPy's own would take their state from the file unchecked. Here a dtype comes from a list, and an
array is made of bytes that the file really has.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeGuard

import numpy as np
from numpy.typing import NDArray

from model_store.errors import CheckpointRejected
from model_store.unpickling import Arguments, Global, printable

_DTYPES: dict[str, np.dtype[Any]] = {
    code: np.dtype(f"<{code}")
    for code in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")
}
MAX_DIMENSIONS = 8


class ArrayMaker:
    """Makes float32 arrays of one file's bytes.

    A pickle can name the same bytes a million times, to be copied each time; `max_bytes` bounds
    the sum.
    """

    def __init__(self, max_bytes: int) -> None:
        self._num_bytes_left = max_bytes

    def make(
        self,
        dtype: np.dtype[Any],
        shape: object,
        data: bytearray,
        *,
        order: Literal["C", "F"] = "C",
        offset: int = 0,
        strides: Sequence[int] | None = None,
    ) -> NDArray[np.float32]:
        """An array in C order, writable: a view of `data` where no conversion is needed.

        Raises:
            CheckpointRejected: the shape does not fit the data, or the bound is exceeded.
        """
        if not is_shape(shape):
            raise CheckpointRejected("has an array with an impossible shape")
        self.spend(math.prod(shape) * dtype.itemsize)
        try:
            view = np.ndarray(shape, dtype, data, offset, strides, order)
        except (TypeError, ValueError):
            raise CheckpointRejected("has an array that is larger than its data") from None
        # What lies outside float32's range becomes infinite, which is refused where it is used.
        with np.errstate(over="ignore", invalid="ignore"):
            return np.asarray(view, np.float32, order="C")

    def spend(self, num_bytes: int) -> None:
        """Count bytes that are about to be made."""
        self._num_bytes_left -= num_bytes
        if self._num_bytes_left < 0:
            raise CheckpointRejected("has arrays that are larger than the file")


@dataclass(slots=True)
class PickledArray:
    """An array, once its state is there."""

    maker: ArrayMaker
    array: NDArray[np.float32] | None = None

    def build(self, state: object) -> None:
        """Take the state that `numpy.ndarray` pickles: version, shape, dtype, order, data."""
        match state:
            case (int(), shape, _Dtype() as dtype, int(is_fortran), data):
                order: Literal["C", "F"] = "F" if is_fortran else "C"
                self.array = _make_of_all(self.maker, dtype, shape, data, order)
            case _:
                raise CheckpointRejected("has an array without a shape, a dtype and data")


@dataclass(frozen=True, slots=True)
class _Dtype:
    dtype: np.dtype[Any]

    def build(self, state: object) -> None:
        match state:
            case (3 | 4, "<" | "|" | "=", None, None, None, -1, -1, 0):
                return
        raise CheckpointRejected("refuses a dtype that is not plain little-endian numbers")


def find_numpy_globals(maker: ArrayMaker) -> dict[str, Global]:
    """What pickles of NumPy arrays mention, by NumPy 1 and 2 and by Python 2 and 3."""
    empty_bytes = Global("bytes", _make_empty_bytes)
    found = {
        "numpy.ndarray": Global("numpy.ndarray"),
        "numpy.dtype": Global("numpy.dtype", _make_dtype),
        "collections.OrderedDict": Global("OrderedDict", _make_dict),
        "_codecs.encode": Global("encode", partial(_encode, maker)),
        "__builtin__.bytes": empty_bytes,
        "builtins.bytes": empty_bytes,
    }
    for core in ("numpy.core", "numpy._core"):
        found |= {
            f"{core}.multiarray._reconstruct": Global("_reconstruct", partial(_announce, maker)),
            f"{core}.multiarray.scalar": Global("scalar", partial(_make_scalar, maker)),
            f"{core}.numeric._frombuffer": Global("_frombuffer", partial(_make_array, maker)),
        }
    return found


def is_shape(value: object) -> TypeGuard[tuple[int, ...]]:
    """Whether it is a tuple of not too many lengths."""
    return (
        isinstance(value, tuple)
        and len(value) <= MAX_DIMENSIONS
        and all(type(length) is int and length >= 0 for length in value)
    )


def _make_dtype(arguments: Arguments) -> _Dtype:
    match arguments:
        case (str(code), *_) if code in _DTYPES:
            return _Dtype(_DTYPES[code])
        case (str(code), *_):
            raise CheckpointRejected(f"refuses the dtype {printable(code)}")
    raise CheckpointRejected("refuses a dtype without a name")


def _announce(maker: ArrayMaker, arguments: Arguments) -> PickledArray:
    match arguments:
        case (Global(name="numpy.ndarray"), (0,), _):
            return PickledArray(maker)
    raise CheckpointRejected("has an array that is not a plain numpy.ndarray")


def _make_scalar(maker: ArrayMaker, arguments: Arguments) -> PickledArray:
    match arguments:
        case (_Dtype() as dtype, data):
            return PickledArray(maker, _make_of_all(maker, dtype, (), data))
    raise CheckpointRejected("has a number without a dtype and data")


def _make_array(maker: ArrayMaker, arguments: Arguments) -> PickledArray:
    match arguments:
        case (data, _Dtype() as dtype, shape, ("C" | "F") as order):
            return PickledArray(maker, _make_of_all(maker, dtype, shape, data, order))
        case (data, _Dtype() as dtype, shape, "K", axes) if is_shape(axes):
            array = _make_of_all(maker, dtype, shape, data)
            if sorted(axes) == list(range(array.ndim)):
                return PickledArray(maker, np.asarray(array.transpose(axes), order="C"))
    raise CheckpointRejected("has an array without data, a dtype, a shape and an order")


def _make_of_all(
    maker: ArrayMaker,
    dtype: _Dtype,
    shape: object,
    data: object,
    order: Literal["C", "F"] = "C",
) -> NDArray[np.float32]:
    if isinstance(data, str):  # a short string of Python 2
        data = bytearray(data, "latin-1")
    if not isinstance(data, bytearray):
        raise CheckpointRejected("has an array whose data are not bytes")
    array = maker.make(dtype.dtype, shape, data, order=order)
    if array.size * dtype.dtype.itemsize != len(data):
        raise CheckpointRejected("has an array that is smaller than its data")
    return array


def _encode(maker: ArrayMaker, arguments: Arguments) -> bytearray:
    # How protocol 2 writes the bytes of Python 3.
    match arguments:
        case (str(text), "latin1" | "latin-1"):
            maker.spend(len(text))
            return bytearray(text, "latin-1")
    raise CheckpointRejected("encodes something other than Latin-1 text")


def _make_empty_bytes(arguments: Arguments) -> bytearray:
    # How protocol 2 writes no bytes at all.
    if arguments:
        raise CheckpointRejected("makes bytes of something")
    return bytearray()


def _make_dict(arguments: Arguments) -> dict[str, object]:
    match arguments:
        case ():
            return {}
        case (list(pairs),):  # Python 2
            return dict(_read_pair(pair) for pair in pairs)
    raise CheckpointRejected("has an ordered dictionary of something other than pairs")


def _read_pair(pair: object) -> tuple[str, object]:
    match pair:
        case [str(key), value]:
            return key, value
    raise CheckpointRejected("has an ordered dictionary of something other than names and values")
