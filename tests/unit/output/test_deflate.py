import time
import zlib

import numpy as np
import pytest

from service.output.chunks import pieces_of
from service.output.deflate import MATCHES, RUN_LENGTHS, TRIED_BYTES, Deflater

RANDOM = np.random.default_rng(0)
NOISE = RANDOM.integers(0, 256, 3_000_000, np.uint8).tobytes()
TEXT = bytes(range(100)) * 30_000
# Matches that lie far apart.
WORDS = b"".join(NOISE[start : start + 40] for start in RANDOM.integers(0, 3000, 100_000))


def deflate(content, how=MATCHES, piece_bytes=50_000):
    deflater = Deflater(how)
    packed = [
        deflater.compress(content[start : start + piece_bytes])
        for start in range(0, len(content), piece_bytes)
    ]
    return b"".join((*packed, deflater.flush()))


@pytest.mark.parametrize(
    "content",
    [b"", b"a", NOISE, TEXT, NOISE + TEXT + WORDS + NOISE, TEXT + NOISE + TEXT],
    ids=["nothing", "a byte", "noise", "text", "changing", "noise within"],
)
@pytest.mark.parametrize("how", [MATCHES, RUN_LENGTHS], ids=["matches", "run lengths"])
def test_any_content_comes_back(content, how):
    assert zlib.decompress(deflate(content, how), wbits=-15) == content


def test_matches_are_looked_for_again_after_noise():
    alone, after = len(deflate(WORDS)), len(deflate(NOISE + WORDS))
    assert after < len(deflate(NOISE)) + alone + len(WORDS) / 2
    assert alone < len(deflate(WORDS, RUN_LENGTHS)) / 3


def test_noise_costs_not_much_more_than_run_lengths_do():
    def cost_s(how):
        begun_s = time.thread_time()
        deflate(NOISE, how)
        return time.thread_time() - begun_s

    ratios = [cost_s(MATCHES) / cost_s(RUN_LENGTHS) for _ in range(5)]
    # Looking for matches everywhere takes 3.5 times as long.
    assert min(ratios) < 2


def test_little_is_one_stream_of_matches():
    content = NOISE[: TRIED_BYTES - 1]
    plain = zlib.decompress(deflate(content, piece_bytes=1000), wbits=-15)
    assert plain == content
    assert [len(piece) for piece in pieces_of(content)] == [len(content)]
