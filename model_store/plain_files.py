"""Files of a folder in which others may write, opened so that nothing they plant there is obeyed.

A symbolic link or a second name may stand for any file of this user's, and a pipe keeps whoever
opens it waiting. So what is written is written to a new file, or to one that has one name and lies
where it seems to lie; what is read may be linked, as operators do, but is a file, and small.
"""

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

# Far more than a record, a card, or what a server calls a file.
MAX_TEXT_BYTES = 2**16
# Opening neither follows a link nor waits for who would write to a pipe.
_CAREFULLY = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def create_file(path: Path) -> BinaryIO:
    """A new file, open for writing, in the place of whatever had its name.

    Raises:
        OSError: it cannot be made, or its folder is a link.
    """
    with suppress(FileNotFoundError):
        mode = path.lstat().st_mode
        # The system's, and nothing that anybody left here.
        if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            raise OSError(errno.EEXIST, f"{path.name} is a device")
        path.unlink()
    return os.fdopen(_open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb")


def write_text(path: Path, text: str) -> None:
    """Have a new file with this text on the disk, in the place of whatever had its name.

    Raises:
        OSError: it cannot be written, or its folder is a link.
    """
    with create_file(path) as file:
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())


def append_to(path: Path) -> BinaryIO:
    """A file of ours, open for writing at its end.

    Raises:
        OSError: there is none, or it is not plain.
    """
    file = os.fdopen(_open(path, os.O_WRONLY | os.O_APPEND), "ab")
    if not _is_plain(os.fstat(file.fileno())):
        file.close()
        raise OSError(errno.EPERM, f"{path.name} is no file of one name")
    return file


def open_lock(path: Path) -> BinaryIO:
    """A file to hold a lock of, made where there is none.

    Raises:
        OSError: it cannot be made, or it or its folder is a link.
    """
    file = os.fdopen(_open(path, os.O_RDWR | os.O_CREAT), "rb", buffering=0)
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EPERM, f"{path.name} is no file")
    return file


def read_text(path: Path) -> str:
    """The text of a small file.

    Raises:
        OSError: it cannot be read, is no file, or is not small.
        ValueError: it is not text.
    """
    with open(path, "rb", opener=_open_at_once) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, f"{path.name} is no file")
        content = file.read(MAX_TEXT_BYTES + 1)
    if len(content) > MAX_TEXT_BYTES:
        raise OSError(errno.EFBIG, f"{path.name} has more than {MAX_TEXT_BYTES} bytes")
    return content.decode()


def count_plain_bytes(path: Path) -> int:
    """The size of a file that can be appended to, 0 where there is none."""
    try:
        status = path.lstat()
    except OSError:
        return 0
    return status.st_size if _is_plain(status) else 0


def refuse_link(path: Path) -> None:
    """Leave alone what lies in another place than it seems to.

    Raises:
        OSError: it is a symbolic link.
    """
    if path.is_symlink():
        reason = f"{path.name} is a symbolic link, and nothing is written through one: delete it"
        raise OSError(errno.ELOOP, reason)


def _open(path: Path, flags: int) -> int:
    # By way of the folder, so that it is no link either, nor becomes one in between.
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | _CAREFULLY)
    except OSError:
        refuse_link(path.parent)
        raise
    try:
        return os.open(path.name, flags | _CAREFULLY, 0o666, dir_fd=folder)
    except OSError:
        refuse_link(path)
        raise
    finally:
        os.close(folder)


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _is_plain(status: os.stat_result) -> bool:
    return stat.S_ISREG(status.st_mode) and status.st_nlink == 1
