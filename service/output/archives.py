"""Many files in one: PKWARE, APPNOTE.TXT, without ZIP64."""

import struct
from collections import deque
from collections.abc import Iterable, Mapping
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from zlib_ng import zlib_ng

from service.output.chunks import (
    Chunk,
    Chunks,
    Count,
    count_nothing,
    drain,
    join,
    pieces_of,
    total_bytes,
)
from service.output.png import Deflater

_STORED, _DEFLATED = 0, 8
_VERSION = 20
# Names are UTF-8.
_FLAGS = 1 << 11
# The first of January 1980, the earliest that a ZIP file can tell: the same answer is the same
# bytes. MS-DOS' time and date.
_TIME, _DATE = 0, 1 << 5 | 1
MAX_BYTES = 2**32 - 1


class ZipWriter:
    """A ZIP file in the making; pictures, which are compressed already, are stored as they are."""

    def __init__(self, count: Count = count_nothing) -> None:
        self._count = count
        self._chunks: Chunks = deque()
        self._num_bytes = 0
        self._directory: list[bytes] = []

    def add(self, name: str, content: Chunks) -> None:
        """Another file; its chunks are dropped on the way, or kept as they are.

        Raises:
            ValueError: the archive would have 4 GiB or more.
        """
        method = _STORED if name.endswith((".png", ".npz")) else _DEFLATED
        checksum, num_bytes = 0, total_bytes(content)
        if method == _DEFLATED:
            packed: Chunks = deque()
            deflater = Deflater()
            for chunk in drain(content, self._count):
                for piece in pieces_of(chunk):
                    checksum = zlib_ng.crc32(piece, checksum)
                    self._keep(packed, deflater.compress(piece))
            self._keep(packed, deflater.flush())
        else:
            packed = content
            for chunk in packed:
                checksum = zlib_ng.crc32(chunk, checksum)
        self._append(name.encode(), method, checksum, num_bytes, packed)

    def finish(self) -> Chunks:
        """The whole file."""
        directory = b"".join(self._directory)
        num_files = len(self._directory)
        end = struct.pack(
            "<4s4H2LH", b"PK\5\6", 0, 0, num_files, num_files, len(directory), self._num_bytes, 0
        )
        self._keep(self._chunks, directory + end)
        return self._chunks

    def _append(
        self, name: bytes, method: int, checksum: int, num_bytes: int, packed: Iterable[Chunk]
    ) -> None:
        num_packed = total_bytes(packed)
        if max(num_bytes, self._num_bytes + num_packed) > MAX_BYTES - 2**20:
            raise ValueError("an archive of 4 GiB or more cannot be written")
        what = struct.pack(
            "<5H3L2H",
            *(_VERSION, _FLAGS, method, _TIME, _DATE),
            *(checksum, num_packed, num_bytes, len(name), 0),
        )
        head = b"PK\3\4" + what + name
        # No comment, one disk, nothing said of the file's kind, and where it begins.
        tail = struct.pack("<3H2L", 0, 0, 0, 0, self._num_bytes)
        self._directory.append(b"PK\1\2" + struct.pack("<H", _VERSION) + what + tail + name)
        self._keep(self._chunks, head)
        self._chunks.extend(packed)
        self._num_bytes += len(head) + num_packed

    def _keep(self, chunks: Chunks, chunk: bytes) -> None:
        if chunk:
            self._count(len(chunk))
            chunks.append(chunk)


def write_zip(files: Mapping[str, bytes]) -> bytes:
    """A ZIP file of these files."""
    archive = ZipWriter()
    for name, data in files.items():
        archive.add(name, deque([data]))
    return join(archive.finish())


def write_npz(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """NumPy's archive of named arrays, compressed fast and without pickle.

    Raises:
        ValueError: an array holds Python objects.
    """
    return join(pack_arrays(arrays))


def pack_arrays(arrays: Mapping[str, NDArray[Any]], count: Count = count_nothing) -> Chunks:
    """The same in chunks, which are counted as they are made."""
    archive = ZipWriter(count)
    for name, array in arrays.items():
        archive.add(f"{name}.npy", npy_of(array))
    return archive.finish()


def write_npy(array: NDArray[Any]) -> bytes:
    """NumPy's file of one array, without pickle.

    Raises:
        ValueError: it holds Python objects.
    """
    return join(npy_of(array))


def npy_of(array: NDArray[Any]) -> Chunks:
    """The same as its head and a view of the array, which is copied only where it has to be.

    Raises:
        ValueError: it holds Python objects.
    """
    head = BytesIO()
    if array.dtype.hasobject or not array.size:
        np.save(head, array, allow_pickle=False)
        return deque([head.getvalue()])
    samples = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    described = np.lib.format.header_data_from_array_1_0(array)
    np.lib.format.write_array_header_1_0(head, {**described, "fortran_order": False})
    return deque([head.getvalue(), samples.data])
