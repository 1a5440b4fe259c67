import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from model_store.locking import POLL_S, StillLocked, is_locked, locked


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


def test_a_wait_ends_when_nothing_changes_and_not_before(path: Path):
    states = iter([*range(8), *[8] * 1000])
    with locked(path, give_up):
        begun_s = time.monotonic()
        with pytest.raises(StillLocked), locked(path, lambda: next(states), 0.3):
            pytest.fail("two hold it")
        assert time.monotonic() - begun_s > 8 * POLL_S
    assert not is_locked(path)


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
