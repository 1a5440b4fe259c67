"""What the C library does with memory that is freed."""

import ctypes
import os

# malloc.h of glibc.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
KEPT_BYTES = 2**30


def keep_freed_memory() -> None:
    """Keeps freed memory for the next image instead of giving it back to the system at once.

    Otherwise each page of every picture, activation and map is a page fault when it is first
    written to: 1.6 of 6.7 ms that one core spends on a request about a 640 x 480 JPEG. Where an
    operator has tuned the allocator, or it is not glibc's, nothing changes.

    All threads share what is kept. With memory of its own each would keep what its largest picture
    took, and whatever came to lie between; call this before there are threads.
    """
    if (libc := _tunable()) is not None:
        libc.mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
        libc.mallopt(M_ARENA_MAX, 1)


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
