import os
import subprocess
import sys
import threading
from itertools import count
from pathlib import Path

import pytest

from model_store import locking
from model_store.locking import is_locked, locked


class Impatient(Exception):
    pass


def give_up() -> None:
    raise Impatient


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "locks" / "model"


def test_a_lock_is_held_by_one_at_a_time(path: Path):
    assert not is_locked(path)
    with locked(path, give_up):
        assert is_locked(path)
        with pytest.raises(Impatient), locked(path, give_up):
            pytest.fail("two hold it")
    assert not is_locked(path)
    with locked(path, give_up):
        pass


def test_who_waits_gets_the_lock_when_it_is_free(path: Path):
    has_waited, is_done = threading.Event(), threading.Event()

    def wait() -> None:
        with locked(path, has_waited.set):
            is_done.set()

    with locked(path, give_up):
        thread = threading.Thread(target=wait)
        thread.start()
        assert has_waited.wait(10)
        assert not is_done.is_set()
    assert is_done.wait(10)
    thread.join()


def test_an_error_frees_the_lock(path: Path):
    with pytest.raises(Impatient), locked(path, give_up):
        raise Impatient
    assert not is_locked(path)


def test_a_child_process_that_has_the_descriptor_holds_the_lock_too(path: Path):
    with locked(path, give_up) as descriptor:
        command = [sys.executable, "-c", "input()"]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[descriptor])
    assert is_locked(path)
    child.communicate(b"\n")
    assert not is_locked(path)


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="exists"), locked(tmp_path / "file" / "lock", give_up):
        pytest.fail("there is no lock")


def test_a_wait_ends_and_names_the_lock(path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(locking, "POLL_S", 0.001)
    with (
        locked(path, give_up),
        pytest.raises(TimeoutError, match=r"held the lock locks/model for 0\.02 s without"),
        locked(path, lambda: None, timeout_s=0.02),
    ):
        pytest.fail("two hold it")
    assert not is_locked(path)


def test_who_gets_on_is_waited_for(path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(locking, "POLL_S", 0.001)
    now_s = count()
    monkeypatch.setattr(locking.time, "monotonic", lambda: next(now_s))
    sizes = iter([*range(50), *[50] * 50])
    seen: list[int] = []

    def look() -> int:
        seen.append(next(sizes))
        return seen[-1]

    with locked(path, give_up), pytest.raises(TimeoutError), locked(path, look, timeout_s=10):
        pytest.fail("two hold it")
    # As long as there is progress, and then no longer than the bound.
    assert 50 < len(seen) < 65


def test_a_link_or_a_pipe_in_a_lock_s_place_is_no_lock(path: Path, tmp_path: Path):
    path.parent.mkdir()
    path.symlink_to(tmp_path / "victim")
    assert not is_locked(path)
    with pytest.raises(OSError, match="model is a symbolic link"), locked(path, give_up):
        pytest.fail("there is no lock")
    assert not (tmp_path / "victim").exists()
    path.unlink()
    os.mkfifo(path)
    assert not is_locked(path)
    with pytest.raises(OSError, match="model is no file"), locked(path, give_up):
        pytest.fail("there is no lock")
