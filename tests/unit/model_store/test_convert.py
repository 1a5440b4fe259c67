import os
import pickle
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from model_store import convert as module
from model_store.convert import convert
from model_store.errors import CheckpointRejected
from model_store.safetensors_file import map_arrays

METADATA = {"source_sha256": "0123", "odd": "a=b"}


@pytest.fixture
def lock() -> Iterator[int]:
    descriptor = os.open(os.devnull, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def write_checkpoint(path: Path, **arrays: np.ndarray) -> Path:
    path.write_bytes(pickle.dumps({"model": arrays}, 4))
    return path


def test_the_converted_file_has_the_checkpoint_s_arrays(tmp_path: Path, lock: int):
    half = np.arange(6, dtype=np.float16).reshape(2, 3)
    arrays = {"a": half.T, "__metadata__": half}
    source = write_checkpoint(tmp_path / "source.pkl", **arrays)
    convert(source, tmp_path / "target", METADATA, lock)
    converted, metadata = map_arrays(tmp_path / "target")
    assert list(converted) == ["a"]
    np.testing.assert_array_equal(converted["a"], half.T.astype(np.float32), strict=True)
    assert metadata == METADATA


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x80\x02cposix\nsystem\n.", r"source\.pkl refuses the global posix\.system"),
        (b"\x80\x04", r"source\.pkl is damaged or cut short"),
        (b"<html>", r"source\.pkl is not a pickle"),
    ],
)
def test_what_is_no_checkpoint_is_refused_as_the_reader_refuses_it(
    tmp_path: Path, lock: int, content: bytes, reason: str
):
    (tmp_path / "source.pkl").write_bytes(content)
    with pytest.raises(CheckpointRejected, match=reason):
        convert(tmp_path / "source.pkl", tmp_path / "target", METADATA, lock)
    assert not (tmp_path / "target").exists()


def test_no_more_memory_is_taken_than_the_file_justifies(
    tmp_path: Path, lock: int, monkeypatch: pytest.MonkeyPatch
):
    array = np.zeros(30_000_000, np.uint8)  # 120 MB of float32
    source = write_checkpoint(tmp_path / "source.pkl", array=array)
    convert(source, tmp_path / "target", METADATA, lock)
    monkeypatch.setattr(module, "BYTES_PER_BYTE", 0)
    monkeypatch.setattr(module, "BASE_BYTES", 200_000_000)
    with pytest.raises(CheckpointRejected, match="Memory"):
        convert(source, tmp_path / "target", METADATA, lock)


def test_a_target_that_cannot_be_written_is_an_error_of_the_disk(tmp_path: Path, lock: int):
    source = write_checkpoint(tmp_path / "source.pkl", a=np.zeros(2, np.float32))
    with pytest.raises(FileNotFoundError):
        convert(source, tmp_path / "nowhere" / "target", METADATA, lock)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            convert(source, tmp_path / "target", METADATA, lock)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_converting_needs_neither_torch_nor_the_network():
    code = "import sys, model_store.convert; print({'torch', 'httpx2'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code]) == b"set()\n"
