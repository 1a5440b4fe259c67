"""An archive of arrays, of which nothing is believed: no pickle, no bombs, no false shapes."""

import io
import math
import re
import zipfile
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.client.errors import UnreadableAnswer

# An answer has a hundred instances of a dozen maps at most, each with two numbers beside it.
MAX_MEMBERS = 20_000
# What zipfile raises of an archive that is damaged, also in the name of a file.
NO_ARCHIVE = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    UnicodeDecodeError,
)
COMPRESSIONS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
# numpy.lib.format, version 1.0: the magic string, the header's length in two bytes, the header.
MAGIC = b"\x93NUMPY\x01\x00"
SAMPLES_FROM = len(MAGIC) + 2
# As NumPy writes it for plain arrays of booleans, numbers and text. What it would evaluate is only
# compared here.
HEADER = re.compile(
    rb"\{'descr': '([<>|](?:b1|[iu][1248]|f[248]|U[0-9]{1,8}))', 'fortran_order': False, "
    rb"'shape': \(((?:[0-9]{1,10}(?:, ?|(?=\)))){0,4})\), \} *\n"
)


def read_members(content: bytes, *, max_bytes: int) -> dict[str, bytes]:
    """The files of an archive by name; `max_bytes` is what they may take unpacked, all together.

    Raises:
        UnreadableAnswer: it is no such archive, or a larger one.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            _check_members(members, max_bytes)
            return {member.filename: archive.read(member) for member in members}
    except NO_ARCHIVE as error:
        raise UnreadableAnswer(f"The answer is no archive: {error}.") from error


def read_arrays(content: bytes, *, max_bytes: int) -> dict[str, NDArray[Any]]:
    """The arrays of an archive by name; `max_bytes` as in `read_members`.

    Raises:
        UnreadableAnswer: it is no such archive, or a larger one.
    """
    members = read_members(content, max_bytes=max_bytes)
    return {name.removesuffix(".npy"): read_array(data) for name, data in members.items()}


def read_array(data: bytes) -> NDArray[Any]:
    """The array in the bytes of a .npy file.

    Raises:
        UnreadableAnswer: it is none, has objects in it, or not as many numbers as it says.
    """
    length = int.from_bytes(data[len(MAGIC) : SAMPLES_FROM], "little")
    header = HEADER.fullmatch(data[SAMPLES_FROM : SAMPLES_FROM + length])
    if not data.startswith(MAGIC) or header is None:
        raise UnreadableAnswer("An array of the answer is of a kind that is not read here.")
    dtype = np.dtype(header[1].decode())
    shape = tuple(int(size) for size in header[2].split(b",") if size.strip())
    samples = memoryview(data)[SAMPLES_FROM + length :]
    if not dtype.itemsize or math.prod(shape) * dtype.itemsize != len(samples):
        raise UnreadableAnswer("An array of the answer is not as large as it says.")
    # Native order, and its own memory, which can be written to.
    try:
        return np.ndarray(shape, dtype, samples).astype(dtype.newbyteorder("="))
    except ValueError as error:
        # An array of nothing, but of sides beyond all bounds.
        raise UnreadableAnswer("An array of the answer has no shape.") from error


def _check_members(members: list[zipfile.ZipInfo], max_bytes: int) -> None:
    if len(members) > MAX_MEMBERS:
        raise UnreadableAnswer(f"The answer has more than {MAX_MEMBERS} files.")
    if len({member.filename for member in members}) < len(members):
        raise UnreadableAnswer("The answer has two files of one name.")
    if any(member.compress_type not in COMPRESSIONS for member in members):
        raise UnreadableAnswer("The answer is packed in a way that is not read here.")
    # What is unpacked of a member is never more than it says here.
    if sum(member.file_size for member in members) > max_bytes:
        raise UnreadableAnswer(f"The answer would take more than {max_bytes} bytes.")
