from io import BytesIO
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

import numpy as np
import pytest

from service.output.archives import write_npy, write_npz, write_zip


def test_files_come_back_and_pictures_are_not_compressed_twice():
    files = {"result.json": b"{}" * 1000, "0.iuv.png": b"\x89PNG" * 1000}
    with ZipFile(BytesIO(write_zip(files))) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()} == files
        assert archive.getinfo("0.iuv.png").compress_type == ZIP_STORED
        assert archive.getinfo("result.json").compress_type == ZIP_DEFLATED


def test_the_same_files_are_the_same_bytes():
    assert write_zip({"a": b"1"}) == write_zip({"a": b"1"})


def test_arrays_come_back_with_their_types():
    arrays = {
        "0.iuv": np.arange(24, dtype=np.uint8).reshape(2, 4, 3),
        "uv": np.linspace(0, 1, 8, dtype=np.float32).reshape(2, 2, 2),
        "boxes": np.zeros((0, 4)),
        "result": np.array('{"model": "é"}'),
    }
    with np.load(BytesIO(write_npz(arrays)), allow_pickle=False) as read:
        assert set(read) == set(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(read[name], array)
            assert read[name].dtype == array.dtype


def test_an_array_alone_comes_back():
    array = np.arange(6, dtype=np.float64).reshape(2, 3)
    np.testing.assert_array_equal(np.load(BytesIO(write_npy(array)), allow_pickle=False), array)


def test_python_objects_are_never_written():
    with pytest.raises(ValueError, match="allow_pickle"):
        write_npz({"a": np.array([{}])})
