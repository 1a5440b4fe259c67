"""What torch.save wrote, read without torch: a zip file with a pickle and the bytes of its tensors.

`torch.load(weights_only=True)` makes what it allows as large as the file asks for, and that of
torch 2.12 hands out quantized tensors that reach beyond the file's bytes (pytorch issue 184652).
Here the same strict reader serves both kinds of checkpoint, and the HTTP side can import it.
"""

import zipfile
from dataclasses import dataclass
from functools import partial
from io import BufferedIOBase, BytesIO
from typing import Any

import numpy as np

from model_store.errors import CheckpointRejected
from model_store.pickled_arrays import ArrayMaker, PickledArray, find_numpy_globals, is_shape
from model_store.unpickling import Arguments, Global, Unpickler

_STORAGE_DTYPES: dict[str, np.dtype[Any]] = {
    "torch.FloatStorage": np.dtype("<f4"),
    "torch.DoubleStorage": np.dtype("<f8"),
    "torch.HalfStorage": np.dtype("<f2"),
    "torch.LongStorage": np.dtype("<i8"),
    "torch.IntStorage": np.dtype("<i4"),
    "torch.ShortStorage": np.dtype("<i2"),
    "torch.CharStorage": np.dtype("<i1"),
    "torch.ByteStorage": np.dtype("<u1"),
    "torch.BoolStorage": np.dtype("<b1"),
}


@dataclass(frozen=True, slots=True)
class _Storage:
    dtype: np.dtype[Any]
    data: bytearray


def read_archive(file: BufferedIOBase, num_bytes: int, maker: ArrayMaker) -> object:
    """What was saved, with a PickledArray for each tensor.

    Raises:
        CheckpointRejected: it holds something that is not allowed.
        zipfile.BadZipFile, EOFError, LookupError, OSError, RuntimeError, ValueError: it is damaged.
    """
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if not all(_is_stored(entry) for entry in entries):
            raise CheckpointRejected("is a compressed archive, which torch.save does not write")
        if sum(entry.file_size for entry in entries) > num_bytes:
            raise CheckpointRejected("is an archive of more bytes than the file has")
        names = archive.namelist()
        pickles = [name for name in names if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise CheckpointRejected("is an archive, but not one that torch.save wrote")
        folder = pickles[0].removesuffix("/data.pkl")
        byte_order = f"{folder}/byteorder"
        if byte_order in names and archive.read(byte_order) != b"little":
            raise CheckpointRejected("holds big-endian numbers")
        pickled = archive.read(pickles[0])
        storages = _Storages(archive, folder)
        known_globals = _find_torch_globals(maker)
        return Unpickler(BytesIO(pickled), len(pickled), known_globals, storages.find).load()


class _Storages:
    """The storages of an archive, each read once."""

    def __init__(self, archive: zipfile.ZipFile, folder: str) -> None:
        self._archive = archive
        self._folder = folder
        self._data_of: dict[str, bytearray] = {}

    def find(self, persistent_id: object) -> _Storage:
        """The storage that a pickle refers to by kind, dtype, key, device and length."""
        match persistent_id:
            case ("storage", Global() as kind, str(key), str(), int(num_elements)) if (
                kind.name in _STORAGE_DTYPES
            ):
                storage = _Storage(_STORAGE_DTYPES[kind.name], self._read(key))
                if num_elements * storage.dtype.itemsize != len(storage.data):
                    raise CheckpointRejected("has a storage of another size than it says")
                return storage
        raise CheckpointRejected("refers to something that is not a storage of numbers")

    def _read(self, key: str) -> bytearray:
        if key not in self._data_of:
            self._data_of[key] = bytearray(self._archive.read(f"{self._folder}/data/{key}"))
        return self._data_of[key]


def _is_stored(entry: zipfile.ZipInfo) -> bool:
    return entry.compress_type == zipfile.ZIP_STORED and entry.compress_size == entry.file_size


def _find_torch_globals(maker: ArrayMaker) -> dict[str, Global]:
    # A checkpoint of a training also holds its optimizer's and its schedule's numbers, which may
    # be NumPy's.
    return find_numpy_globals(maker) | {
        "torch._utils._rebuild_tensor_v2": Global("tensor", partial(_make_tensor, maker)),
        "torch._utils._rebuild_parameter": Global("parameter", _unwrap_parameter),
        **{name: Global(name) for name in _STORAGE_DTYPES},
    }


def _make_tensor(maker: ArrayMaker, arguments: Arguments) -> PickledArray:
    match arguments:
        case (_Storage() as storage, int(offset), shape, strides, *_) if is_shape(strides):
            size = storage.dtype.itemsize
            array = maker.make(
                storage.dtype,
                shape,
                storage.data,
                offset=offset * size,
                strides=[stride * size for stride in strides],
            )
            return PickledArray(maker, array)
    raise CheckpointRejected("has a tensor without a storage, an offset, a shape and strides")


def _unwrap_parameter(arguments: Arguments) -> PickledArray:
    match arguments:
        case (PickledArray() as array, *_):
            return array
    raise CheckpointRejected("has a parameter without a tensor")
