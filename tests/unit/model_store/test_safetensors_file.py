import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from model_store.safetensors_file import map_arrays, write_arrays

ARRAYS = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "empty": np.zeros((0, 3), np.float32),
    "number": np.array(7, np.float32),
    'a name with "quotes", ü and \n': np.full(5, np.inf, np.float32),
}
METADATA = {"source_sha256": "0123"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "arrays.safetensors"
    with path.open("wb") as file:
        write_arrays(file, ARRAYS, METADATA)
    return path


def assert_same(arrays, expected=ARRAYS) -> None:
    assert list(arrays) == list(expected)
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, expected[name], strict=True)


def test_what_was_written_is_read(path: Path):
    arrays, metadata = map_arrays(path)
    assert_same(arrays)
    assert metadata == METADATA


def test_the_file_is_one_of_safetensors(path: Path):
    assert_same(dict(sorted(load_file(path).items())), dict(sorted(ARRAYS.items())))
    with safe_open(path, "np") as file:
        assert file.metadata() == METADATA


def test_a_file_that_has_no_name_any_more_is_read_too(path: Path):
    with path.open("rb") as file:
        path.unlink()
        arrays, _ = map_arrays(file)
    assert_same(arrays)


def test_a_file_of_the_library_can_be_read(tmp_path: Path):
    path = tmp_path / "theirs.safetensors"
    save_file(ARRAYS, path, METADATA)
    arrays, metadata = map_arrays(path)
    assert_same(dict(sorted(arrays.items())), dict(sorted(ARRAYS.items())))
    assert metadata == METADATA


def test_torch_takes_the_arrays_without_a_copy_and_the_file_stays_as_it_is(path: Path):
    before = path.read_bytes()
    arrays, _ = map_arrays(path)
    tensor = torch.from_numpy(arrays["a.weight"])
    tensor += 1
    assert tensor.data_ptr() == arrays["a.weight"].ctypes.data
    assert arrays["a.weight"][0, 0] == 1
    assert path.read_bytes() == before


def test_the_arrays_outlive_the_file(path: Path):
    arrays, _ = map_arrays(path)
    path.unlink()
    assert_same(arrays)


def test_a_file_that_was_cut_anywhere_is_refused(path: Path):
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r".+"):
            map_arrays(path)
    path.write_bytes(content + b"\0")
    with pytest.raises(ValueError, match="not what its header says"):
        map_arrays(path)


@pytest.mark.parametrize(
    "header",
    [
        [],
        {},
        {"__metadata__": {}, "a": 1},
        {"__metadata__": {}, "a": {"dtype": "F16", "shape": [2], "data_offsets": [0, 4]}},
        {"__metadata__": {}, "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}},
        {"__metadata__": {}, "a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 4]}},
        {"__metadata__": {}, "a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}},
        {"__metadata__": {}, "a": {"dtype": "F32", "shape": ["1"], "data_offsets": [0, 4]}},
        {"__metadata__": {}, "a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 4]}},
        {"__metadata__": {}, "a": {"dtype": "F32", "shape": [2**70], "data_offsets": [0, 4]}},
    ],
)
def test_a_header_that_does_not_fit_is_refused(tmp_path: Path, header: object):
    encoded = json.dumps(header).encode()
    path = tmp_path / "odd.safetensors"
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + b"\0" * 4)
    with pytest.raises(ValueError, match=r".+"):
        map_arrays(path)


def test_a_length_beyond_all_files_is_refused(path: Path):
    path.write_bytes(b"\xff" * 100)
    with pytest.raises(ValueError, match=r".+"):
        map_arrays(path)
