import base64
import gzip
from collections import deque

import numpy as np
import pytest

from service.output.chunks import base64_of, gzip_of, join

CONTENT = np.random.default_rng(0).integers(0, 256, 1_000_003, np.uint8).tobytes()


def cut(*places):
    ends = (*places, len(CONTENT))
    return deque(CONTENT[start:end] for start, end in zip((0, *places), ends, strict=True))


@pytest.mark.parametrize(
    "chunks",
    [cut(), cut(1, 2, 3), cut(0, 1, 1, 5, 1000), cut(999_999), cut(*range(0, 9000, 7))],
    ids=["one", "bytes", "an empty one", "a large one", "many"],
)
def test_chunks_are_encoded_as_if_they_were_one(chunks):
    assert join(base64_of(deque(chunks))) == base64.b64encode(CONTENT)
    assert gzip.decompress(join(gzip_of(deque(chunks)))) == CONTENT


def test_what_is_written_of_is_dropped_on_the_way_and_views_are_no_copies():
    held = [0]
    most = 0

    def count(num_bytes):
        nonlocal most
        held[0] += num_bytes
        most = max(most, held[0])

    chunks = cut(*range(0, len(CONTENT), 10_000))
    held[0] = len(CONTENT)
    letters = join(base64_of(chunks, count))
    assert abs(held[0] - len(letters)) < 2000
    assert most < len(letters) + 20_000
    assert not chunks
    held[0] = 0
    join(base64_of(deque([memoryview(CONTENT)]), count))
    assert abs(held[0] - len(letters)) < 10


def test_whoever_counts_can_end_it():
    def count(_):
        raise ZeroDivisionError

    for encode in (gzip_of, lambda chunks, count: join(base64_of(chunks, count))):
        with pytest.raises(ZeroDivisionError):
            encode(cut(), count)
