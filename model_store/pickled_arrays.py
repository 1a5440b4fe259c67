"""Arrays that a file describes, and the globals that a pickle of NumPy arrays mentions.

NumPy's own would take their state from the file unchecked. Here an array is a description until
somebody asks for its numbers, and then it is made of bytes that the file really has.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from model_store.errors import CheckpointRejected
from model_store.unpickling import MAX_KEY_LENGTH, Arguments, Budget, Global, printable

_NUMBERS = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")
MAX_DIMENSIONS = 8
MAX_LENGTH = 2**62


def view_bytes(
    data: bytearray, dtype: np.dtype[Any], shape: object, strides: object = None, offset: object = 0
) -> NDArray[Any]:
    """The array of these bytes; the strides and the offset are in elements, and C's if not given.

    NumPy does not look whether strides stay within the bytes.

    Raises:
        CheckpointRejected: a part of it would lie outside of the bytes, or its shape is none.
    """
    if not is_shape(shape):
        raise CheckpointRejected("has an array with an impossible shape")
    if strides is None:
        strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    if not (is_shape(strides) and len(strides) == len(shape) and _is_length(offset)):
        raise CheckpointRejected("has an array with an impossible offset or impossible strides")
    last = sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
    num_elements = 0 if 0 in shape else last + 1
    if (offset + num_elements) * dtype.itemsize > len(data):
        raise CheckpointRejected("has an array that is larger than its data")
    size = dtype.itemsize
    try:
        return np.ndarray(shape, dtype, data, offset * size, [stride * size for stride in strides])
    except (OverflowError, ValueError):
        raise CheckpointRejected("has an array with an impossible shape") from None


def make_float32(view: NDArray[Any], budget: Budget) -> NDArray[np.float32]:
    """The same numbers as float32 in C order: a view where they are that already."""
    budget.spend(view.size * view.itemsize)
    # What lies outside float32's range becomes infinite, which is refused where it is used.
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(view, np.float32, order="C")


class PickledArray:
    """An array that is made when it is read; it may be announced before it is described."""

    __slots__ = ("_budget", "_make")

    def __init__(self, budget: Budget, make: Callable[[], NDArray[np.float32]] | None = None):
        self._budget = budget
        self._make = make

    def read(self) -> NDArray[np.float32]:
        """The numbers, writable.

        Raises:
            CheckpointRejected: they are no real numbers, or not in the file.
        """
        if self._make is None:
            raise CheckpointRejected("has no data for an array")
        return self._make()

    def build(self, state: object) -> None:
        """Take the state that `numpy.ndarray` pickles: version, shape, dtype, order, data."""
        match state:
            case (int(), shape, _Dtype() as dtype, bool() | 0 | 1 as is_fortran, data):
                self._make = partial(
                    _make_array, self._budget, data, dtype, shape, is_fortran=bool(is_fortran)
                )
            case _:
                raise CheckpointRejected("has an array without a shape, a dtype and data")


@dataclass(slots=True)
class _Dtype:
    """A dtype by its name; only one of plain numbers can be used."""

    code: str
    byte_order: str | None = "<"

    def build(self, state: object) -> None:
        match state:
            case (3 | 4, "<" | ">" | "|" | "=" as byte_order, None, None, None, -1, -1, 0):
                self.byte_order = byte_order
            case _:
                self.byte_order = None

    def find(self) -> np.dtype[Any]:
        if self.code not in _NUMBERS or self.byte_order is None:
            raise CheckpointRejected(f"refuses the dtype {printable(self.code)}")
        return np.dtype((">" if self.byte_order == ">" else "<") + self.code)


def find_numpy_globals(budget: Budget) -> dict[str, Global]:
    """What pickles of NumPy arrays mention, by NumPy 1 and 2 and by Python 2 and 3."""
    found = {
        "numpy.ndarray": Global("numpy.ndarray"),
        "numpy.dtype": Global("numpy.dtype", _make_dtype),
        "collections.OrderedDict": Global("OrderedDict", partial(_make_dict, budget)),
        "collections.defaultdict": Global("defaultdict", lambda _: {}),
        "_codecs.encode": Global("encode", partial(_encode, budget)),
        "__builtin__.bytes": Global("bytes", _make_empty_bytes),
        "builtins.bytes": Global("bytes", _make_empty_bytes),
    }
    for core in ("numpy.core", "numpy._core"):
        found |= {
            f"{core}.multiarray._reconstruct": Global("_reconstruct", partial(_announce, budget)),
            f"{core}.multiarray.scalar": Global("scalar", partial(_describe_scalar, budget)),
            f"{core}.numeric._frombuffer": Global("_frombuffer", partial(_describe, budget)),
        }
    return found


def is_shape(value: object) -> TypeGuard[tuple[int, ...]]:
    """Whether it is a tuple of not too many lengths."""
    return isinstance(value, tuple) and len(value) <= MAX_DIMENSIONS and all(map(_is_length, value))


def _is_length(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= MAX_LENGTH


def _make_dtype(arguments: Arguments) -> _Dtype:
    match arguments:
        case (str(code), *_):
            return _Dtype(code)
    raise CheckpointRejected("refuses a dtype without a name")


def _announce(budget: Budget, arguments: Arguments) -> PickledArray:
    match arguments:
        case (Global(name="numpy.ndarray"), (0,), _):
            return PickledArray(budget)
    raise CheckpointRejected("has an array that is not a plain numpy.ndarray")


def _describe_scalar(budget: Budget, arguments: Arguments) -> PickledArray:
    match arguments:
        case (_Dtype() as dtype, data):
            return PickledArray(budget, partial(_make_array, budget, data, dtype, ()))
    raise CheckpointRejected("has a number without a dtype and data")


def _describe(budget: Budget, arguments: Arguments) -> PickledArray:
    match arguments:
        case (data, _Dtype() as dtype, shape, "C" | "F" as order):
            make = partial(_make_array, budget, data, dtype, shape, is_fortran=order == "F")
        case (data, _Dtype() as dtype, shape, "K", axes):
            make = partial(_make_array, budget, data, dtype, shape, axes=axes)
        case _:
            raise CheckpointRejected("has an array without data, a dtype, a shape and an order")
    return PickledArray(budget, make)


def _make_array(
    budget: Budget,
    data: object,
    dtype: _Dtype,
    shape: object,
    *,
    is_fortran: bool = False,
    axes: object = None,
) -> NDArray[np.float32]:
    numbers = dtype.find()
    if isinstance(data, str):  # a short string of Python 2
        budget.spend(len(data))
        data = bytearray(data, "latin-1")
    if not isinstance(data, bytearray):
        raise CheckpointRejected("has an array whose data are not bytes")
    if not is_shape(shape):
        raise CheckpointRejected("has an array with an impossible shape")
    view = view_bytes(data, numbers, shape[::-1] if is_fortran else shape)
    if view.nbytes != len(data):
        raise CheckpointRejected("has an array that is smaller than its data")
    if is_fortran:
        view = view.T
    if axes is not None:
        if not (is_shape(axes) and sorted(axes) == list(range(view.ndim))):
            raise CheckpointRejected("has an array whose axes are in no order")
        view = view.transpose(axes)
    return make_float32(view, budget)


def _encode(budget: Budget, arguments: Arguments) -> bytearray:
    # How protocols 0 to 2 write the bytes of Python 3.
    match arguments:
        case (str(text), "latin1" | "latin-1"):
            budget.spend(len(text))
            return bytearray(text, "latin-1")
    raise CheckpointRejected("encodes something other than Latin-1 text")


def _make_empty_bytes(arguments: Arguments) -> bytearray:
    # How protocols 0 to 2 write no bytes at all.
    if arguments:
        raise CheckpointRejected("makes bytes of something")
    return bytearray()


def _make_dict(budget: Budget, arguments: Arguments) -> dict[str, object]:
    match arguments:
        case ():
            return {}
        case (list(pairs),):  # Python 2
            budget.count_opcodes(len(pairs))
            return dict(_read_pair(pair) for pair in pairs)
    raise CheckpointRejected("has an ordered dictionary of something other than pairs")


def _read_pair(pair: object) -> tuple[str, object]:
    match pair:
        case [str(key), value] if len(key) <= MAX_KEY_LENGTH:
            return key, value
    raise CheckpointRejected("has an ordered dictionary of something other than names and values")
