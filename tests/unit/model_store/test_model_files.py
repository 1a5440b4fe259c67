import hashlib
import os
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model_store import model_files as module
from model_store.catalogue import ModelCard, load_catalogue
from model_store.errors import CheckpointRejected, CheckpointUnavailable
from model_store.model_files import ModelFiles

ARRAY = np.arange(6, dtype=np.float32)
CONTENT = pickle.dumps({"model": {"a.weight": ARRAY}}, 4)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT).hexdigest()
CARD = replace(load_catalogue()["R_101_FPN_s1x"], md5_prefix=MD5[:6])


@pytest.fixture
def lock() -> Iterator[int]:
    descriptor = os.open(os.devnull, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "model.pkl"
    path.write_bytes(CONTENT)
    return path


def converted_at(path: Path) -> int:
    return path.with_name(f"{path.name}.safetensors").stat().st_ino


def test_the_converted_arrays_are_there_after_the_conversion_only(path: Path, lock: int):
    files = ModelFiles(CARD, path)
    assert files.map_arrays() is None
    assert not files.is_converted_intact()
    for arrays in (files.convert(lock), files.map_arrays()):
        assert arrays is not None
        assert list(arrays) == ["a.weight"]
        assert (arrays["a.weight"] == ARRAY).all()
    assert files.is_converted_intact()
    assert files.count_bytes() == sum(
        (path.parent / name).stat().st_size for name in ("model.pkl", "model.pkl.safetensors")
    )


def test_what_is_converted_stays_so(path: Path, lock: int):
    ModelFiles(CARD, path).convert(lock)
    first = converted_at(path)
    ModelFiles(CARD, path).convert(lock)
    assert converted_at(path) == first


def test_a_checkpoint_that_was_only_touched_is_digested_and_not_converted(path: Path, lock: int):
    files = ModelFiles(CARD, path)
    files.convert(lock)
    first = converted_at(path)
    os.utime(path, (0, 0))
    assert files.map_arrays() is None
    files.convert(lock)
    assert converted_at(path) == first
    assert files.map_arrays() is not None


def test_a_time_cut_to_whole_seconds_is_the_same_time(path: Path, lock: int):
    files = ModelFiles(CARD, path)
    os.utime(path, (1.75, 1.75))
    files.convert(lock)
    os.utime(path, (1, 1))
    assert files.map_arrays() is not None


def test_another_converter_converts_again(path: Path, lock: int, monkeypatch: pytest.MonkeyPatch):
    files = ModelFiles(CARD, path)
    files.convert(lock)
    first = converted_at(path)
    monkeypatch.setattr(module, "CONVERTER", "another")
    assert files.map_arrays() is None
    files.convert(lock)
    assert converted_at(path) != first
    assert files.map_arrays() is not None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"sha256": "0" * 64}, f"its SHA-256 is {SHA256} instead of 0000"),
        ({"num_bytes": 7}, f"it has {len(CONTENT)} bytes instead of 7"),
        ({"md5_prefix": "000000"}, f"its MD5 is {MD5} and should begin with 000000"),
    ],
)
def test_a_file_that_the_catalogue_contradicts_is_refused(
    path: Path, lock: int, change: dict[str, object], reason: str
):
    changed: ModelCard = replace(CARD, **change)
    for act in (ModelFiles(changed, path).verify, lambda: ModelFiles(changed, path).convert(lock)):
        with pytest.raises(CheckpointRejected, match=f"model.pkl is damaged: {reason}"):
            act()
    assert sorted(path.parent.iterdir()) == [path]


def test_a_digest_that_the_catalogue_learns_is_compared_with_what_is_there(path: Path, lock: int):
    ModelFiles(CARD, path).convert(lock)
    right, wrong = replace(CARD, sha256=SHA256), replace(CARD, sha256="0" * 64)
    assert ModelFiles(right, path).map_arrays() is not None
    assert ModelFiles(wrong, path).map_arrays() is None
    with pytest.raises(CheckpointRejected):
        ModelFiles(wrong, path).convert(lock)


def test_the_first_file_is_the_measure_of_those_that_follow(path: Path, lock: int):
    card = replace(CARD, md5_prefix=None)
    ModelFiles(card, path).convert(lock)
    path.write_bytes(pickle.dumps({"model": {"a.weight": ARRAY + 1}}, 4))
    os.utime(path, (0, 0))
    with pytest.raises(CheckpointRejected, match="first seen"):
        ModelFiles(card, path).convert(lock)
    path.with_name("model.pkl.json").unlink()
    assert (ModelFiles(card, path).convert(lock)["a.weight"] == ARRAY + 1).all()


def test_a_file_that_cannot_be_read_is_an_error_of_its_own(path: Path):
    path.unlink()
    path.mkdir()
    with pytest.raises(CheckpointUnavailable, match=r"model\.pkl cannot be read: Is a directory"):
        ModelFiles(CARD, path).verify()


def test_a_partial_file_is_installed_if_it_is_right(path: Path):
    files = ModelFiles(CARD, path)
    path.unlink()
    files.partial.write_bytes(CONTENT[:-1])
    with pytest.raises(CheckpointRejected):
        files.install()
    assert list(path.parent.iterdir()) == []
    files.partial.write_bytes(CONTENT)
    files.install()
    assert path.read_bytes() == CONTENT
    assert not files.partial.exists()


def test_a_checkpoint_that_changes_while_it_is_converted_is_not_used(
    path: Path, lock: int, monkeypatch: pytest.MonkeyPatch
):
    convert = module.convert

    def change_and_convert(*arguments: object) -> None:
        convert(*arguments)
        os.utime(path, (0, 0))

    monkeypatch.setattr(module, "convert", change_and_convert)
    with pytest.raises(CheckpointUnavailable, match="changed while it was converted"):
        ModelFiles(CARD, path).convert(lock)
