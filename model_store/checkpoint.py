"""Read a checkpoint's arrays, under detectron2's names, without running anything in the file."""

import os
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from io import BufferedReader
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from model_store.caffe2_names import convert_blobs
from model_store.errors import CheckpointRejected, CheckpointUnavailable
from model_store.pickled_arrays import PickledArray
from model_store.torch_archive import read_archive, read_old_archive, read_pickle
from model_store.unpickling import printable

Arrays: TypeAlias = dict[str, NDArray[np.float32]]

# How torch.save's files begin, and how they did before torch 1.6.
_ZIP_MAGIC = b"PK\x03\x04"
_OLD_TORCH_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
# Intact files of other kinds, which people take for checkpoints: how they begin, after how many
# bytes.
_OTHER_KINDS = (
    (0, b"\x89HDF", "an HDF5 file"),
    (0, b"\x1f\x8b", "compressed with gzip: unpack it"),
    (0, b"\x93NUMPY", "a NumPy file"),
    (0, b"<", "a web page"),
    (8, b'{"', "a safetensors file"),
    (257, b"ustar", "a tar archive: unpack it, or save it with a newer torch"),
)
_NUM_MAGIC_BYTES = 512
_ANCHORS = "proposal_generator.anchor_generator.cell_anchors."
# What training on several devices puts before every name.
_WRAPPER = "module."
# Names in a message.
_NUM_SHOWN = 10
# What reading a damaged file raises.
_DAMAGE = (
    ArithmeticError,
    EOFError,
    LookupError,
    zlib.error,
    OSError,
    RuntimeError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
)


def read_checkpoint(path: Path) -> Arrays:
    """The arrays of a detectron2 `.pkl` or `.pth`, or of a Caffe2 `.pkl`, by parameter name.

    They are float32, C-contiguous and writable; arrays that shared memory when the file was
    written may do so again. A stranger's file is read in a process of its own: model_store/convert.

    Raises:
        CheckpointUnavailable: the file cannot be opened.
        CheckpointRejected: it is damaged, or is anything but plain data with arrays in it.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise CheckpointUnavailable(f"cannot open {path.name}: {error.strerror}") from error
    with file:
        return read_open_checkpoint(file, path.name)


def read_open_checkpoint(file: BufferedReader, name: str) -> Arrays:
    """The arrays of an open file, as `read_checkpoint` has them; `name` is for messages.

    Raises:
        CheckpointRejected: it is damaged, or is anything but plain data with arrays in it.
    """
    try:
        return _find_arrays(_read_content(file))
    except CheckpointRejected as error:
        raise CheckpointRejected(f"{name} {error}") from error
    except MemoryError as error:
        raise CheckpointRejected(f"{name} takes more memory than its size justifies") from error
    except _DAMAGE as error:
        reason = printable(repr(error))
        raise CheckpointRejected(f"{name} is damaged or cut short ({reason})") from error


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


def check_configuration(
    arrays: Mapping[str, NDArray[np.float32]], served: Mapping[str, NDArray[np.float32]]
) -> None:
    """Compare what a file has of its configuration with what will be served, by name.

    Older versions of detectron2 write these arrays beside the parameters. They change no shape, so
    a model that was trained with others loads, and is wrong.

    Raises:
        CheckpointRejected: they differ; the message has both.
    """
    for name, array in arrays.items():
        expected = served.get(name)
        if expected is None:
            # One level of anchors more.
            is_same, shown = not name.startswith(_ANCHORS), "nothing"
        else:
            # The file's may have been written in half precision.
            is_same = array.size == expected.size and np.allclose(
                array.ravel(), expected.ravel(), rtol=0.01, atol=0.01
            )
            shown = _show(expected)
        if not is_same:
            raise CheckpointRejected(
                f"the checkpoint was trained with another configuration: {printable(name)} is "
                f"{_show(array)} in the file, and {shown} would be served"
            )


def _show(array: NDArray[np.float32]) -> str:
    values = [f"{value:g}" for value in array.ravel()[:_NUM_SHOWN].round(3).tolist()]
    return f"[{', '.join(values)}{', ...' if array.size > _NUM_SHOWN else ''}]"


def _read_content(file: BufferedReader) -> object:
    num_bytes = os.fstat(file.fileno()).st_size
    magic = file.read(_NUM_MAGIC_BYTES)
    file.seek(0)
    if magic.startswith(_ZIP_MAGIC):
        return read_archive(file, num_bytes)
    if magic.startswith(_OLD_TORCH_MAGIC):
        return read_old_archive(file, num_bytes)
    for place, beginning, kind in _OTHER_KINDS:
        if magic.startswith(beginning, place):
            raise CheckpointRejected(f"is not a pickle and not an archive of torch, but {kind}")
    return read_pickle(file, num_bytes)


def _find_arrays(content: object) -> Arrays:
    match content:
        case {"model": dict(model)}:
            arrays = _read_arrays(model)
        case {"blobs": dict(blobs)}:
            arrays = convert_blobs(_read_arrays(blobs))
        case dict():
            arrays = _read_arrays(content)
        case _:
            arrays = {}
    if not arrays:
        raise CheckpointRejected("is not a checkpoint: it has no arrays with names")
    while all(name.startswith(_WRAPPER) for name in arrays):
        arrays = {name.removeprefix(_WRAPPER): array for name, array in arrays.items()}
    return arrays


def _read_arrays(values: Mapping[str, object]) -> Arrays:
    arrays = {}
    for name, value in values.items():
        if isinstance(value, PickledArray):
            try:
                arrays[name] = value.read()
            except CheckpointRejected as error:
                raise CheckpointRejected(f"{error}: {printable(name)}") from error
    return arrays


def _list_first(names: Sequence[str]) -> str:
    if not names:
        return ""
    shown = ", ".join(names[:_NUM_SHOWN])
    return f" ({shown}{', ...' if len(names) > _NUM_SHOWN else ''})"
