import contextlib
import io
import pickle
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.client.arrays import MAX_MEMBERS, read_array, read_arrays
from service.client.errors import UnreadableAnswer
from service.output.archives import write_npy, write_npz, write_zip

ARRAYS = {
    "0.iuv": np.arange(24, dtype=np.uint8).reshape(2, 4, 3),
    "0.vertices": np.arange(6, dtype=np.uint16).reshape(2, 3),
    "boxes": np.zeros((0, 4)),
    "scale": np.array(0.5),
    "embedding": np.ones((2, 3, 3), np.float16),
    "result": np.array('{"model": "größe"}'),
}
MANY = 10**7


def zipped(members, method=zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return file.getvalue()


def npy(header: bytes, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    header += b"\n"
    return b"\x93NUMPY" + version + len(header).to_bytes(2, "little") + header + data


def test_arrays_are_read_as_they_were_written():
    read = read_arrays(write_npz(ARRAYS), max_bytes=MANY)
    assert set(read) == set(ARRAYS)
    for name, array in ARRAYS.items():
        assert read[name].dtype == array.dtype
        assert np.array_equal(read[name], array)
        assert read[name].flags.writeable


def test_the_other_byte_order_is_read_as_well():
    array = np.arange(3, dtype=">u2")
    assert read_array(write_npy(array)).tolist() == [0, 1, 2]


def test_a_bomb_is_not_unpacked():
    bomb = zipped([("a.npy", bytes(10 * MANY))])
    assert len(bomb) < MANY / 10
    with pytest.raises(UnreadableAnswer, match="would take more"):
        read_arrays(bomb, max_bytes=MANY)


def test_a_bomb_that_hides_its_size_is_not_unpacked():
    bomb = bytearray(zipped([("a.npy", write_npy(np.zeros(MANY, np.uint8)))]))
    size = (MANY + 128).to_bytes(4, "little")
    assert bomb.count(size) == 2
    lying = bytes(bomb).replace(size, (200).to_bytes(4, "little"))
    with pytest.raises(UnreadableAnswer):
        read_arrays(lying, max_bytes=1000)


def test_python_objects_are_not_unpickled(tmp_path):
    canary = tmp_path / "canary"

    class Hostile:
        def __reduce__(self):
            return canary.touch, ()

    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
    data = npy(header, pickle.dumps([Hostile()]))
    with pytest.raises(UnreadableAnswer):
        read_array(data)
    assert not canary.exists()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93NUMPY",
        b"no array",
        npy(b"{'descr': '|u1', 'fortran_order': False, 'shape': (4,), }", b"123"),
        npy(b"{'descr': '|u1', 'fortran_order': False, 'shape': (2,), }", b"123"),
        npy(b"{'descr': '|u1', 'fortran_order': False, 'shape': (9" + b"0" * 30 + b",), }", b"123"),
        npy(b"{'descr': '|u1', 'fortran_order': False, 'shape': (-1, -3), }", b"123"),
        npy(b"{'descr': '|u1', 'fortran_order': False, 'shape': (True, 3), }", b"123"),
        npy(b"{'descr': '|u1', 'fortran_order': True, 'shape': (3,), }", b"123"),
        npy(b"{'descr': '<U0', 'fortran_order': False, 'shape': (3,), }"),
        npy(b"{'descr': '|V3', 'fortran_order': False, 'shape': (1,), }", b"123"),
        npy(b"{'descr': '|u1', 'fortran_order': False, 'shape': (1, 1, 1, 1, 3), }", b"123"),
        npy(b"{'descr': [('a', '|u1')], 'fortran_order': False, 'shape': (3,), }", b"123"),
        npy(b"{'descr': '|u1', 'fortran_order': False, 'shape': (0, 9999999999, 9999999999), }"),
        npy(b"__import__('os').system('true')", b"123"),
        npy(b"(" * 5000, b"123"),
        npy(b"{'descr': '|u1', 'fortran_order': False, 'shape': (3,), }", b"123", b"\x09\x00"),
    ],
)
def test_what_is_no_array_is_refused(data):
    with pytest.raises(UnreadableAnswer):
        read_array(data)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_only_the_usual_packing_is_unpacked(method):
    with pytest.raises(UnreadableAnswer, match="packed"):
        read_arrays(zipped([("a.npy", write_npy(np.zeros(3)))], method), max_bytes=MANY)


def test_two_arrays_of_one_name_are_refused():
    data = write_npy(np.zeros(3))
    with pytest.warns(UserWarning, match="Duplicate"):
        archive = zipped([("a.npy", data), ("a.npy", data)])
    with pytest.raises(UnreadableAnswer, match="one name"):
        read_arrays(archive, max_bytes=MANY)


def test_an_archive_of_too_many_arrays_is_refused():
    with pytest.raises(UnreadableAnswer, match="files"):
        read_arrays(write_zip({f"{i}.npy": b"" for i in range(MAX_MEMBERS + 1)}), max_bytes=MANY)


def test_a_name_that_is_no_text_is_refused():
    good = zipped([("größe.npy", write_npy(np.zeros(3)))])
    with pytest.raises(UnreadableAnswer, match="no archive"):
        read_arrays(good.replace("größe".encode(), b"gr\x80\x80\x80\x80e"), max_bytes=MANY)


GOOD = write_npz(ARRAYS)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_a_damaged_archive_is_arrays_or_an_error_of_ours(data):
    damaged = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(GOOD) - 1))] = data.draw(st.integers(0, 255))
    damaged = damaged[: data.draw(st.integers(0, len(GOOD)))]
    with contextlib.suppress(UnreadableAnswer):
        read_arrays(bytes(damaged), max_bytes=MANY)
