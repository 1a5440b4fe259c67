"""A lock that processes share, and the threads of one process too."""

import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from model_store.plain_files import open_lock

POLL_S = 0.1
# Longer than a server may ask a download to wait, and than a large file takes to be converted.
WAIT_S = 300.0


@contextmanager
def locked(
    path: Path, while_waiting: Callable[[], object], *, timeout_s: float = WAIT_S
) -> Iterator[int]:
    """Hold the lock of this file; its descriptor, by which a child process can hold it too.

    As long as somebody else holds it, `while_waiting` is called again and again. What it raises
    ends the wait; what it returns tells how far the other is, whose time begins anew whenever that
    changes. The kernel frees the lock when the last process that holds it ends, however it ends.
    The file stays: were it deleted, two processes could hold locks of two files of its name.

    Raises:
        TimeoutError: somebody held it for so long without getting on; the reason names the lock.
        OSError: the file cannot be made, or is a link.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_lock(path) as file:
        sign: object = None
        end_s = time.monotonic() + timeout_s
        while not _try_lock(file.fileno(), fcntl.LOCK_EX):
            if sign != (sign := while_waiting()):
                end_s = time.monotonic() + timeout_s
            if time.monotonic() >= end_s:
                name = f"{path.parent.name}/{path.name}"
                raise TimeoutError(
                    errno.ETIMEDOUT,
                    f"another process has held the lock {name} for {timeout_s:g} s without "
                    "getting on: end it, and try again",
                )
            time.sleep(POLL_S)
        yield file.fileno()


def is_locked(path: Path) -> bool:
    """Whether somebody holds the lock of this file."""
    try:
        # A pipe in its place would keep us waiting.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
        return is_file and not _try_lock(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int, operation: int) -> bool:
    try:
        fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
