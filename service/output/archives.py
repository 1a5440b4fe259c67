"""Many files in one."""

from collections.abc import Mapping
from io import BytesIO
from typing import Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

import numpy as np
from numpy.typing import NDArray

# The earliest that a ZIP file can tell: the same answer is the same bytes.
DATE = (1980, 1, 1, 0, 0, 0)


def write_zip(files: Mapping[str, bytes]) -> bytes:
    """A ZIP file; pictures, which are compressed already, are stored as they are."""
    content = BytesIO()
    with ZipFile(content, "w") as archive:
        for name, data in files.items():
            method = ZIP_STORED if name.endswith((".png", ".npz")) else ZIP_DEFLATED
            member = ZipInfo(name, DATE)
            member.compress_type = method
            archive.writestr(member, data, compresslevel=1)
    return content.getvalue()


def write_npz(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """NumPy's archive of named arrays, compressed fast and without pickle.

    Raises:
        ValueError: an array holds Python objects.
    """
    return write_zip({f"{name}.npy": write_npy(array) for name, array in arrays.items()})


def write_npy(array: NDArray[Any]) -> bytes:
    """NumPy's file of one array, without pickle.

    Raises:
        ValueError: it holds Python objects.
    """
    file = BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()
