"""Read a checkpoint's arrays, under detectron2's names, without running anything in the file."""

import os
import struct
import zipfile
from collections.abc import Mapping, Sequence
from io import BufferedIOBase
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from model_store.caffe2_names import convert_blobs
from model_store.errors import CheckpointRejected, CheckpointUnavailable
from model_store.pickled_arrays import ArrayMaker, PickledArray, find_numpy_globals
from model_store.torch_archive import read_archive
from model_store.unpickling import Unpickler, printable

Arrays: TypeAlias = dict[str, NDArray[np.float32]]

# How torch.save's files begin, and how they did before torch 1.6.
_ZIP_MAGIC = b"PK\x03\x04"
_OLD_TORCH_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
# Names in a message.
_NUM_SHOWN = 10
# What reading a damaged file raises.
_DAMAGE = (
    ArithmeticError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
)


def read_checkpoint(path: Path) -> Arrays:
    """The arrays of a detectron2 `.pkl` or `.pth`, or of a Caffe2 `.pkl`, by parameter name.

    They are float32, C-contiguous and writable; arrays that shared memory when the file was
    written may do so again.

    Raises:
        CheckpointUnavailable: the file cannot be opened.
        CheckpointRejected: it is damaged, or is anything but plain data with arrays in it.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise CheckpointUnavailable(f"cannot open {path.name}: {error.strerror}") from error
    with file:
        try:
            return _find_arrays(_read_content(file))
        except CheckpointRejected as error:
            raise CheckpointRejected(f"{path.name} {error}") from error
        except _DAMAGE as error:
            raise CheckpointRejected(
                f"{path.name} is damaged or cut short ({printable(repr(error))})"
            ) from error


def select_parameters(
    arrays: Mapping[str, NDArray[np.float32]], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[Arrays, tuple[str, ...]]:
    """The arrays of a network whose parameters have these shapes, and the names of the others.

    Raises:
        CheckpointRejected: arrays are missing, misshapen or not finite; the message lists them.
    """
    missing = [name for name in shapes if name not in arrays]
    misshapen = [
        f"{name} {list(arrays[name].shape)} instead of {list(shape)}"
        for name, shape in shapes.items()
        if name in arrays and arrays[name].shape != tuple(shape)
    ]
    if missing or misshapen:
        raise CheckpointRejected(
            "the checkpoint is probably of another architecture: of the network's "
            f"{len(shapes)} arrays, {len(missing)} are missing{_list_first(missing)}, and "
            f"{len(misshapen)} have another shape{_list_first(misshapen)}"
        )
    # A network with one of these finds nobody anywhere, and says so with every appearance of
    # success: better to refuse what a diverged training or a damaged file has left.
    not_finite = [name for name in shapes if not np.isfinite(arrays[name]).all()]
    if not_finite:
        raise CheckpointRejected(
            f"the checkpoint has {len(not_finite)} arrays with values that are not finite"
            f"{_list_first(not_finite)}"
        )
    unused = tuple(name for name in arrays if name not in shapes)
    return {name: arrays[name] for name in shapes}, unused


def _read_content(file: BufferedIOBase) -> object:
    num_bytes = os.fstat(file.fileno()).st_size
    magic = file.read(len(_OLD_TORCH_MAGIC))
    file.seek(0)
    # Protocol 2 holds the bytes of an array as text, of which they are made: that is twice.
    maker = ArrayMaker(max_bytes=2 * num_bytes)
    if magic.startswith(_ZIP_MAGIC):
        return read_archive(file, num_bytes, maker)
    if magic == _OLD_TORCH_MAGIC:
        raise CheckpointRejected(
            "has the form that torch had before 1.6: load it and save it with a newer torch"
        )
    return Unpickler(file, num_bytes, find_numpy_globals(maker)).load()


def _find_arrays(content: object) -> Arrays:
    match content:
        case {"model": dict(model)}:
            arrays = _unwrap(model)
        case {"blobs": dict(blobs)}:
            arrays = convert_blobs(_unwrap(blobs))
        case dict():
            arrays = _unwrap(content)
        case _:
            arrays = {}
    if not arrays:
        raise CheckpointRejected("is not a checkpoint: it has no arrays with names")
    return arrays


def _unwrap(values: Mapping[object, object]) -> Arrays:
    arrays = {}
    for name, value in values.items():
        if isinstance(name, str) and isinstance(value, PickledArray):
            if value.array is None:
                raise CheckpointRejected(f"has no data for {printable(name)}")
            arrays[name] = value.array
    return arrays


def _list_first(names: Sequence[str]) -> str:
    if not names:
        return ""
    shown = ", ".join(names[:_NUM_SHOWN])
    return f" ({shown}{', ...' if len(names) > _NUM_SHOWN else ''})"
