import os

import pytest

from service.api.key_file import MAX_BYTES, PERIOD_S, KeyFile

A, B = "a" * 64, "b" * 64


class Clock:
    now_s = 0.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "keys"
    path.write_text(f"alice={A}\n")
    return path


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def file(path, clock):
    return KeyFile(path, clock)


def names(file, clock=None):
    if clock is not None:
        clock.now_s += PERIOD_S
    keys = file.keys()
    return [key.name for key in keys]


def put(path, text):
    """Writes beside and renames, as a careful operator does."""
    beside = path.with_name("beside")
    beside.write_text(text)
    beside.replace(path)


def test_a_new_version_is_read(file, path, clock):
    assert names(file) == ["alice"]
    put(path, f"bob={B}\n")
    assert names(file, clock) == ["bob"]


def test_a_version_of_the_same_size_and_time_is_noticed_by_its_inode(file, path, clock):
    before = path.stat()
    put(path, f"carol={B}"[: before.st_size].replace("carol", "carla") + "\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert names(file, clock) == ["carla"]


def test_the_file_is_looked_at_once_a_second_at_most(file, path, clock):
    put(path, f"bob={B}\n")
    clock.now_s += PERIOD_S / 2
    assert names(file) == ["alice"]


@pytest.mark.parametrize("text", ["", "# nobody\n", "bob=secret", "\0" * (MAX_BYTES + 1)])
def test_a_version_that_is_none_changes_nothing_and_is_complained_of_once(
    file, path, clock, caplog, text
):
    put(path, text)
    for _ in range(3):
        assert names(file, clock) == ["alice"]
    (line,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "secret" not in str(line.fields)
    put(path, f"bob={B}\n")
    assert names(file, clock) == ["bob"]


def test_a_version_that_is_no_text_changes_nothing(file, path, clock):
    path.write_bytes(b"\xff\xfe")
    assert names(file, clock) == ["alice"]


def test_a_file_that_has_gone_changes_nothing_and_is_complained_of_once(file, path, clock, caplog):
    path.unlink()
    for _ in range(3):
        assert names(file, clock) == ["alice"]
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 1
    put(path, f"bob={B}\n")
    assert names(file, clock) == ["bob"]


def test_a_file_that_is_not_there_at_first_is_an_error(tmp_path):
    with pytest.raises(OSError, match="keys"):
        KeyFile(tmp_path / "keys")


@pytest.mark.parametrize("text", ["", "bob=secret"])
def test_a_file_without_keys_at_first_is_an_error(path, text):
    path.write_text(text)
    with pytest.raises(ValueError, match="key"):
        KeyFile(path)
