"""What torch.save wrote, read without torch: a pickle beside the bytes of its tensors.

`torch.load(weights_only=True)` makes what it allows as large as the file asks for, and that of
torch 2.12 hands out quantized tensors that reach beyond the file's bytes (pytorch issue 184652).
Here the same strict reader serves all kinds of checkpoint, and the HTTP side can import it.
"""

import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from io import BufferedIOBase, BytesIO
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from model_store.errors import CheckpointRejected
from model_store.pickled_arrays import PickledArray, find_numpy_globals, make_float32, view_bytes
from model_store.unpickling import Arguments, Budget, Global, Unpickler

_BFLOAT16 = "torch.BFloat16Storage"
_STORAGE_DTYPES: dict[str, np.dtype[Any]] = {
    "torch.FloatStorage": np.dtype("<f4"),
    "torch.DoubleStorage": np.dtype("<f8"),
    "torch.HalfStorage": np.dtype("<f2"),
    _BFLOAT16: np.dtype("<u2"),
    "torch.LongStorage": np.dtype("<i8"),
    "torch.IntStorage": np.dtype("<i4"),
    "torch.ShortStorage": np.dtype("<i2"),
    "torch.CharStorage": np.dtype("<i1"),
    "torch.ByteStorage": np.dtype("<u1"),
    "torch.BoolStorage": np.dtype("<b1"),
    # Nobody needs these, but the bytes of others follow theirs.
    "torch.ComplexFloatStorage": np.dtype("<c8"),
    "torch.ComplexDoubleStorage": np.dtype("<c16"),
    "torch.storage.UntypedStorage": np.dtype("V1"),
}
# Float32 weights that were deflated take nine tenths, and those that were bfloat16 before a half.
MAX_INFLATION, MIN_INFLATED_BYTES = 4, 2**20
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# The first pickles of a file of torch before 1.6. torch/serialization.py
_OLD_NUMBERS = (0x1950A86A20F9469CFC6C, 1001)


class _Entries:
    """The bytes of an archive's storages by key, each read when it is first asked for."""

    def __init__(self, archive: zipfile.ZipFile, folder: str) -> None:
        self._archive = archive
        self._folder = folder
        self._read: dict[str, bytearray] = {}

    def __getitem__(self, key: str) -> bytearray:
        if key not in self._read:
            self._read[key] = bytearray(self._archive.read(f"{self._folder}/data/{key}"))
        return self._read[key]


_Storages: TypeAlias = _Entries | dict[str, bytearray]


@dataclass(frozen=True, slots=True)
class _Storage:
    """Bytes of which tensors are made, among those of the file, once that was read so far."""

    kind: str
    num_elements: int
    key: str
    storages: _Storages


def read_archive(file: BufferedIOBase, num_bytes: int) -> object:
    """What was saved since torch 1.6, a zip file, with a PickledArray for each tensor.

    Raises:
        CheckpointRejected: it holds something that is not allowed.
        zipfile.BadZipFile, EOFError, LookupError, OSError, RuntimeError, ValueError: it is damaged.
    """
    # The archive stays open: an array's bytes are read when the array is.
    archive = zipfile.ZipFile(file)
    entries = archive.infolist()
    if any(entry.compress_type not in _COMPRESSIONS for entry in entries):
        raise CheckpointRejected("is an archive that is compressed in another way than deflated")
    total = sum(entry.file_size for entry in entries)
    is_stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
    if total > (num_bytes if is_stored else MAX_INFLATION * num_bytes + MIN_INFLATED_BYTES):
        raise CheckpointRejected("is an archive of more bytes than the file has")
    names = archive.namelist()
    pickles = [name for name in names if name.endswith("/data.pkl")]
    if len(pickles) != 1 or f"{pickles[0].removesuffix('data.pkl')}constants.pkl" in names:
        raise CheckpointRejected("is an archive, but not one that torch.save wrote")
    folder = pickles[0].removesuffix("/data.pkl")
    byte_order = f"{folder}/byteorder"
    if byte_order in names and archive.read(byte_order) != b"little":
        raise CheckpointRejected("holds big-endian numbers")
    pickled = archive.read(pickles[0])
    budget = Budget(2 * max(num_bytes, total))
    find = partial(_find_storage, _Entries(archive, folder))
    return Unpickler(BytesIO(pickled), len(pickled), _find_globals(budget), budget, find).load()


def read_old_archive(file: BufferedIOBase, num_bytes: int) -> object:
    """What was saved before torch 1.6: some pickles, and the bytes of each storage.

    Raises:
        CheckpointRejected: it holds something that is not allowed.
        EOFError, LookupError, OSError, ValueError: it is damaged.
    """
    budget = Budget(2 * num_bytes)
    return _read_old_archive(file, num_bytes, _find_globals(budget), budget)


def read_pickle(file: BufferedIOBase, num_bytes: int) -> object:
    """What was pickled, with a PickledArray for each array of NumPy and each tensor.

    Raises:
        CheckpointRejected: it holds something that is not allowed.
        EOFError, LookupError, OSError, ValueError: it is damaged.
    """
    # Protocol 2 holds the bytes of an array as text, of which they are made: that is twice.
    budget = Budget(2 * num_bytes)
    return Unpickler(file, num_bytes, _find_globals(budget), budget).load()


def _read_old_archive(
    file: BufferedIOBase, num_bytes: int, known: Mapping[str, Global], budget: Budget
) -> object:
    used: dict[str, _Storage] = {}
    storages: dict[str, bytearray] = {}

    def find(persistent_id: object) -> _Storage:
        # A view of another storage has five values more, and has not been written since 2017.
        if not (isinstance(persistent_id, tuple) and persistent_id[5:] == (None,)):
            raise CheckpointRejected("refers to a storage in a way that torch no longer does")
        storage = _find_storage(storages, persistent_id[:5])
        used.setdefault(persistent_id[2], storage)
        return storage

    def read(load_persistent: Callable[[object], object] | None = None) -> object:
        left = num_bytes - file.tell()
        return Unpickler(file, left, known, budget, load_persistent).load()

    match read(), read(), read():
        case numbers_1, numbers_2, {"little_endian": True} if (
            numbers_1,
            numbers_2,
        ) == _OLD_NUMBERS:
            content = read(find)
        case _:
            raise CheckpointRejected("is of a torch whose files are not known")
    keys = read()
    if not isinstance(keys, list):
        raise CheckpointRejected("has no list of its storages")
    for key in keys:
        storage = used[key] if isinstance(key, str) else None
        (num_elements,) = struct.unpack("<q", file.read(8))
        if (
            storage is None
            or storage.kind not in _STORAGE_DTYPES
            or num_elements != storage.num_elements
            or key in storages
        ):
            raise CheckpointRejected("has a storage of another size than it says")
        size = num_elements * _STORAGE_DTYPES[storage.kind].itemsize
        if size > num_bytes - file.tell():
            raise EOFError("it ends too early")
        storages[key] = bytearray(size)
        file.readinto(storages[key])
    return content


def _find_storage(storages: _Storages, persistent_id: object) -> _Storage:
    """The storage that a pickle refers to by kind, dtype, key, device and length."""
    match persistent_id:
        case ("storage", Global() as kind, str(key), str(), int(num_elements)) if (
            kind.name in _STORAGE_DTYPES and num_elements >= 0
        ):
            return _Storage(kind.name, num_elements, key, storages)
        case ("storage", _, str(), str(), int()):
            return _Storage("of another kind", 0, "", storages)
    raise CheckpointRejected("refers to something that is not a storage of numbers")


def _find_globals(budget: Budget) -> dict[str, Global]:
    # A checkpoint of a training also holds its optimizer's and its schedule's numbers, which may
    # be NumPy's.
    known = find_numpy_globals(budget) | {
        "torch._utils._rebuild_tensor": Global("tensor", partial(_describe_tensor, budget)),
        "torch._utils._rebuild_tensor_v2": Global("tensor", partial(_describe_tensor, budget)),
        "torch._utils._rebuild_parameter": Global("parameter", _unwrap_parameter),
        "torch._utils._rebuild_parameter_with_state": Global("parameter", _unwrap_parameter),
        "torch._tensor._rebuild_from_type_v2": Global("tensor", _unwrap_tensor),
        **{name: Global(name) for name in _STORAGE_DTYPES},
    }
    # How a tensor's storage is pickled without torch.save: as a file of its own, of one storage.
    # It knows no other such file.
    load_bytes = Global("storage", partial(_load_bytes, dict(known), budget))
    return known | {"torch.storage._load_from_bytes": load_bytes}


def _load_bytes(known: Mapping[str, Global], budget: Budget, arguments: Arguments) -> _Storage:
    match arguments:
        case (bytearray(content),):
            budget.spend(len(content))
            storage = _read_old_archive(BytesIO(content), len(content), known, budget)
            if isinstance(storage, _Storage):
                return storage
    raise CheckpointRejected("has a storage that is none")


def _describe_tensor(budget: Budget, arguments: Arguments) -> PickledArray:
    match arguments:
        case (_Storage() as storage, offset, shape, strides, *_):
            make = partial(_make_tensor, budget, storage, offset, shape, strides)
            return PickledArray(budget, make)
    raise CheckpointRejected("has a tensor without a storage, an offset, a shape and strides")


def _make_tensor(
    budget: Budget, storage: _Storage, offset: object, shape: object, strides: object
) -> NDArray[np.float32]:
    dtype = _STORAGE_DTYPES.get(storage.kind)
    if dtype is None or dtype.kind not in "fiub":
        raise CheckpointRejected("has a tensor that is not of plain numbers")
    data = storage.storages[storage.key]
    if storage.num_elements * dtype.itemsize != len(data):
        raise CheckpointRejected("has a storage of another size than it says")
    view = view_bytes(data, dtype, shape, strides, offset)
    if storage.kind != _BFLOAT16:
        return make_float32(view, budget)
    budget.spend(view.size * view.itemsize)
    bits = view.astype(np.uint32, order="C")
    bits <<= 16
    return bits.view(np.float32)


def _unwrap_parameter(arguments: Arguments) -> PickledArray:
    match arguments:
        case (PickledArray() as array, *_):
            return array
    raise CheckpointRejected("has a parameter without a tensor")


def _unwrap_tensor(arguments: Arguments) -> object:
    # A tensor with attributes of its own: function, type, arguments, attributes.
    match arguments:
        case (Global(construct=make), _, tuple(inner), _) if make and make is not _unwrap_tensor:
            return make(inner)
    raise CheckpointRejected("has a tensor without what makes it")
