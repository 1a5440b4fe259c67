"""What the C library does with memory that is freed."""

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# malloc.h of glibc.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
KEPT_BYTES = 2**30
# Pillow takes memory in pieces of 16 MiB, OpenCV and NumPy the whole of a picture at once.
MAPPED_BYTES = 2**23

_lock = threading.Lock()
_is_kept = False
_num_mapping = 0


def keep_freed_memory() -> None:
    """Keeps freed memory for the next image instead of giving it back to the system at once.

    Otherwise each page of every picture, activation and map is a page fault when it is first
    written to: 1.6 of 6.7 ms that one core spends on a request about a 640 x 480 JPEG. Where an
    operator has tuned the allocator, or it is not glibc's, nothing changes.

    All threads share what is kept. With memory of its own each would keep what its largest picture
    took, and whatever came to lie between; call this before there are threads.
    """
    global _is_kept  # noqa: PLW0603  # as the C library's settings are
    if (libc := _tunable()) is not None:
        libc.mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
        libc.mallopt(M_ARENA_MAX, 1)
        _is_kept = True


@contextmanager
def large_blocks_given_back() -> Iterator[None]:
    """Blocks that are large and allocated meanwhile, by any thread, go back when they are freed.

    For what is rare, and would leave among what is kept holes that nothing else fills, and that are
    too small the next time, because something else lies in them.
    """
    global _num_mapping  # noqa: PLW0603
    if not _is_kept:
        yield
        return
    libc = ctypes.CDLL(None)
    with _lock:
        _num_mapping += 1
        libc.mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES)
    try:
        yield
    finally:
        with _lock:
            _num_mapping -= 1
            if not _num_mapping:
                libc.mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)


def give_back_freed_memory() -> None:
    """Gives back to the system what is free; what is freed later is kept as before."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def _tunable() -> ctypes.CDLL | None:
    """The C library, if it is glibc's, and no operator has tuned it."""
    libc = ctypes.CDLL(None)
    is_tuned = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ)
    return None if is_tuned or not hasattr(libc, "mallopt") else libc
