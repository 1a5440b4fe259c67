"""What is written, as a row of pieces of memory: never joined, and dropped one by one."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

import pybase64
from zlib_ng import zlib_ng

Chunk: TypeAlias = bytes | memoryview
Chunks: TypeAlias = deque[Chunk]
# Told how many bytes were written, or dropped (negative). What it raises ends the writing: writers
# call it every few hundred kilobytes.
Count: TypeAlias = Callable[[int], None]

# How much is worked on at once.
PIECE_BYTES = 2**18
# Three bytes are four letters of base64.
BASE64_BYTES = PIECE_BYTES // 3 * 3
GZIP_WINDOW_BITS = 31


def count_nothing(_num_bytes: int) -> None:
    """Lets everything be written."""


def total_bytes(chunks: Iterable[Chunk]) -> int:
    """The length of all of them."""
    return sum(len(chunk) for chunk in chunks)


def join(chunks: Iterable[Chunk]) -> bytes:
    """All of them as one."""
    return b"".join(chunks)


def pieces_of(chunk: Chunk) -> Iterator[memoryview]:
    """A chunk in pieces that are not large; they are views."""
    view = memoryview(chunk)
    for start in range(0, len(view), PIECE_BYTES):
        yield view[start : start + PIECE_BYTES]


def drain(chunks: Chunks, count: Count = count_nothing) -> Iterator[Chunk]:
    """The chunks in their order, each forgotten when the next is taken, if it was written."""
    while chunks:
        chunk = chunks.popleft()
        yield chunk
        if isinstance(chunk, bytes):
            count(-len(chunk))


def base64_of(chunks: Chunks, count: Count = count_nothing) -> Iterator[bytes]:
    """The standard alphabet's letters of all chunks together, which are dropped on the way."""
    rest = b""
    for chunk in drain(chunks, count):
        view = memoryview(chunk)
        if rest:
            missing = -len(rest) % 3
            rest += bytes(view[:missing])
            view = view[missing:]
            if len(rest) % 3 == 0:
                yield pybase64.b64encode(rest)
                rest = b""
        end = len(view) - len(view) % 3
        for start in range(0, end, BASE64_BYTES):
            letters = pybase64.b64encode(view[start : min(start + BASE64_BYTES, end)])
            count(len(letters))
            yield letters
        rest += bytes(view[end:])
    if rest:
        yield pybase64.b64encode(rest)


def gzip_of(chunks: Chunks, count: Count = count_nothing) -> Chunks:
    """The chunks in gzip, fast; they are dropped on the way.

    Base64 of compressed files has no repetitions but runs; not looking for others takes a quarter
    of the time for the same bytes.
    """
    compressor = zlib_ng.compressobj(1, zlib_ng.DEFLATED, GZIP_WINDOW_BITS, strategy=zlib_ng.Z_RLE)
    packed: Chunks = deque()

    def keep(chunk: bytes) -> None:
        if chunk:
            count(len(chunk))
            packed.append(chunk)

    for chunk in drain(chunks, count):
        for piece in pieces_of(chunk):
            keep(compressor.compress(piece))
    keep(compressor.flush())
    return packed
