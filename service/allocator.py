"""What the C library does with memory that is freed."""

import ctypes
import os

# malloc.h of glibc.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT_BYTES = 2**30
# Twice malloc.c's FASTBIN_CONSOLIDATION_THRESHOLD.
TRIMMING_BYTES = 2**17


def keep_freed_memory() -> None:
    """Keeps freed memory for the next image instead of giving it back to the system at once.

    Otherwise each page of every picture, activation and map is a page fault when it is first
    written to: 1.6 of 6.7 ms that one core spends on a request about a 640 x 480 JPEG. Where an
    operator has tuned the allocator, or it is not glibc's, nothing changes.
    """
    if (libc := _tunable()) is not None:
        libc.mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


def give_back_freed_memory() -> None:
    """Gives back to the system what is free; what is freed later is kept as before.

    Of this thread all, of others all but the last of what they had; so call it where it was freed.
    """
    if (libc := _tunable()) is not None:
        # malloc_trim leaves alone the end of a thread's memory. That is given back where a piece
        # is freed that is large enough, unless it is to be kept. malloc.c: _int_free, heap_trim.
        libc.mallopt(M_TRIM_THRESHOLD, 0)
        libc.malloc.restype = ctypes.c_void_p
        libc.free(ctypes.c_void_p(libc.malloc(TRIMMING_BYTES)))
        libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def _tunable() -> ctypes.CDLL | None:
    """The C library, if it is glibc's, and no operator has tuned it."""
    libc = ctypes.CDLL(None)
    is_tuned = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ)
    return None if is_tuned or not hasattr(libc, "mallopt") else libc
