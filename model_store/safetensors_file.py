"""Arrays in a safetensors file, read as views of the mapped file.

The library's functions for NumPy copy every array that they read, and write under a name of their
own, which a killed process leaves behind.
https://github.com/huggingface/safetensors#format
"""

import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_store.plain_files import create_file

METADATA = "__metadata__"
_LENGTH = struct.Struct("<Q")
_ALIGNMENT = 8


def write_arrays(
    path: Path, arrays: Mapping[str, NDArray[np.float32]], metadata: Mapping[str, str]
) -> None:
    """Write C-contiguous arrays to a new file, and bring it to the disk.

    Raises:
        OSError: the file cannot be written.
    """
    header: dict[str, Any] = {METADATA: dict(metadata)}
    end = 0
    for name, array in arrays.items():
        begin, end = end, end + array.nbytes
        header[name] = {"dtype": "F32", "shape": array.shape, "data_offsets": [begin, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % _ALIGNMENT)
    with create_file(path) as file:
        file.write(_LENGTH.pack(len(encoded)) + encoded)
        for array in arrays.values():
            file.write(array.data)
        file.flush()
        os.fsync(file.fileno())


def map_arrays(path: Path) -> tuple[dict[str, NDArray[np.float32]], dict[str, str]]:
    """The arrays and the metadata of a file that `write_arrays` wrote.

    The arrays are writable, and what is written to them is not written to the file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not such a file, or not a whole one.
    """
    content = np.memmap(path, np.uint8, mode="c")
    if len(content) < _LENGTH.size:
        raise ValueError("the file has no header")
    (num_header_bytes,) = _LENGTH.unpack(content[: _LENGTH.size].tobytes())
    try:
        header = json.loads(content[_LENGTH.size :][:num_header_bytes].tobytes())
    except RecursionError:
        raise ValueError("the header is nested too deeply") from None
    data = content[_LENGTH.size + num_header_bytes :]
    match header:
        case {"__metadata__": dict(metadata), **entries}:
            arrays = {str(name): _view(data, entry) for name, entry in entries.items()}
            if sum(array.nbytes for array in arrays.values()) == len(data):
                return arrays, metadata
    raise ValueError("the file is not what its header says")


def _view(data: NDArray[np.uint8], entry: object) -> NDArray[np.float32]:
    match entry:
        # NumPy takes a negative offset, and reads what lies before the file.
        case {"dtype": "F32", "shape": list(shape), "data_offsets": [int(begin), int()]} if (
            begin >= 0
        ):
            try:
                return np.ndarray(shape, np.float32, data, begin)
            except (OverflowError, TypeError) as error:
                raise ValueError("an array lies beyond the end of the file") from error
    raise ValueError("an array has no dtype, shape and place")
