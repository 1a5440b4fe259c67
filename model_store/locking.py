"""A lock that processes share, and the threads of one process too."""

import fcntl
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

POLL_S = 0.1


class StillLocked(Exception):
    """Somebody else holds the lock, and nothing comes of it."""


@contextmanager
def locked(
    path: Path, while_waiting: Callable[[], object], patience_s: float = math.inf
) -> Iterator[int]:
    """Hold the lock of this file; its descriptor, by which a child process can hold it too.

    As long as somebody else holds it, `while_waiting` is called again and again; what it raises
    ends the wait, and so does that it returns the same for `patience_s`. The kernel frees the lock
    when the last process that holds it ends, however it ends. The file stays: were it deleted, two
    processes could hold locks of two files of its name.

    Raises:
        OSError: the file cannot be made.
        StillLocked: nothing changed for so long.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        seen, deadline_s = None, time.monotonic() + patience_s
        while not _try_lock(file, fcntl.LOCK_EX):
            now_s, state = time.monotonic(), while_waiting()
            if state != seen:
                seen, deadline_s = state, now_s + patience_s
            elif now_s > deadline_s:
                raise StillLocked
            time.sleep(POLL_S)
        yield file.fileno()


def is_locked(path: Path) -> bool:
    """Whether somebody holds the lock of this file."""
    try:
        file = path.open("rb")
    except OSError:
        return False
    with file:
        return not _try_lock(file, fcntl.LOCK_SH)


def _try_lock(file: IO[bytes], operation: int) -> bool:
    try:
        fcntl.flock(file, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
