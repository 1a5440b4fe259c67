import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from model_store.plain_files import (
    MAX_TEXT_BYTES,
    append_to,
    count_plain_bytes,
    create_file,
    open_lock,
    read_text,
    refuse_link,
    write_text,
)


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    path = tmp_path / "victim"
    path.write_text("precious")
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "folder" / "file"
    path.parent.mkdir()
    return path


PLANT: dict[str, Callable[[Path, Path], object]] = {
    "link": Path.symlink_to,
    "dangling link": lambda path, victim: path.symlink_to(f"{victim}.new"),
    "second name": Path.hardlink_to,
}


def test_a_device_is_left_alone(path: Path):
    try:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 7))
    except PermissionError:
        pytest.skip("only root makes devices")
    with pytest.raises(OSError, match="file is a device"):
        create_file(path)
    assert path.is_char_device()


@pytest.mark.parametrize("plant", PLANT.values(), ids=PLANT)
def test_a_new_file_takes_the_place_of_what_was_planted(path: Path, victim: Path, plant):
    plant(path, victim)
    write_text(path, "ours")
    assert path.read_text() == "ours"
    assert not path.is_symlink()
    assert victim.read_text() == "precious"
    assert not victim.with_name("victim.new").exists()


@pytest.mark.parametrize("plant", PLANT.values(), ids=PLANT)
def test_nothing_is_appended_to_what_was_planted(path: Path, victim: Path, plant):
    plant(path, victim)
    assert count_plain_bytes(path) == 0
    with pytest.raises(OSError, match=r"file is (a symbolic link|no file of one name)"):
        append_to(path)
    assert victim.read_text() == "precious"


def test_a_file_of_ours_is_continued(path: Path):
    path.write_text("one ")
    assert count_plain_bytes(path) == 4
    with append_to(path) as file:
        assert file.tell() == 4
        file.write(b"two")
    assert path.read_text() == "one two"


@pytest.mark.parametrize("open_it", [create_file, append_to, open_lock])
def test_no_file_is_opened_in_a_folder_that_is_a_link(path: Path, tmp_path: Path, open_it):
    path.touch()
    (tmp_path / "link").symlink_to(path.parent)
    with pytest.raises(OSError, match="link is a symbolic link, and nothing is written"):
        open_it(tmp_path / "link" / "another")
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("open_it", [append_to, open_lock, read_text])
def test_a_pipe_is_refused_and_not_waited_for(path: Path, open_it):
    os.mkfifo(path)
    with pytest.raises(OSError):  # noqa: PT011 - the system has its own words for some
        open_it(path)
    assert path.is_fifo()


def test_a_lock_is_no_link(path: Path, victim: Path):
    path.symlink_to(victim)
    with pytest.raises(OSError, match="file is a symbolic link"):
        open_lock(path)


def test_what_is_read_may_be_linked_but_is_small_and_a_file(path: Path, victim: Path):
    path.symlink_to(victim)
    assert read_text(path) == "precious"
    victim.write_bytes(b"a" * (MAX_TEXT_BYTES + 1))
    with pytest.raises(OSError, match=f"file has more than {MAX_TEXT_BYTES} bytes"):
        read_text(path)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(OSError, match="file is no file"):
        read_text(path)


def test_a_link_is_refused_by_its_name(path: Path, victim: Path):
    refuse_link(path)
    refuse_link(path.parent)
    path.symlink_to(victim)
    with pytest.raises(OSError, match="file is a symbolic link") as error:
        refuse_link(path)
    assert str(path.parent) not in str(error.value)
