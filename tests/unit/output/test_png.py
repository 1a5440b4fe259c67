import re
import struct
import time
import zlib
from io import BytesIO

import cv2
import numpy as np
import pytest
from PIL import Image

from service.output.chunks import pieces_of
from service.output.png import MATCHES, RUN_LENGTHS, TRIED_BYTES, Deflater, encode_png, write_png

RANDOM = np.random.default_rng(0)


def chunks(file: bytes) -> list[tuple[bytes, bytes]]:
    """Kind and content of each chunk, checksums verified."""
    assert file[:8] == b"\x89PNG\r\n\x1a\n"
    found = []
    position = 8
    while position < len(file):
        length, kind = struct.unpack_from(">I4s", file, position)
        content = file[position + 8 : position + 8 + length]
        (checksum,) = struct.unpack_from(">I", file, position + 8 + length)
        assert checksum == zlib.crc32(kind + content)
        found.append((kind, content))
        position += 12 + length
    return found


def read_with_opencv(file: bytes) -> np.ndarray:
    samples = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_UNCHANGED)
    return samples[..., ::-1] if samples.ndim == 3 else samples


def noise(size_hw: tuple[int, int], channels: tuple[int, ...], dtype: type) -> np.ndarray:
    return RANDOM.integers(0, np.iinfo(dtype).max, (*size_hw, *channels), dtype, endpoint=True)


def steps(size_hw: tuple[int, int], channels: tuple[int, ...], dtype: type) -> np.ndarray:
    small = noise((size_hw[0] // 8 + 1, size_hw[1] // 8 + 1), channels, dtype)
    return small.repeat(8, axis=0).repeat(8, axis=1)[: size_hw[0], : size_hw[1]]


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 300), (300, 1), (2, 3), (199, 100), (1080, 1920)])
@pytest.mark.parametrize("channels", [(), (3,)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("content", [noise, steps])
def test_samples_come_back_exactly(content, dtype, channels, size_hw):
    samples = content(size_hw, channels, dtype)
    file = encode_png(samples, {})
    np.testing.assert_array_equal(read_with_opencv(file), samples)
    with Image.open(BytesIO(file)) as picture:
        picture.verify()
    with Image.open(BytesIO(file)) as picture:
        read = np.asarray(picture)
        if dtype == np.uint16 and channels:  # Pillow has no 48-bit mode and keeps the upper bytes
            np.testing.assert_array_equal(read, samples >> 8)
        else:
            np.testing.assert_array_equal(read, samples)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_transparency_comes_back_exactly(dtype):
    samples = noise((31, 17), (4,), dtype)
    read = cv2.imdecode(np.frombuffer(encode_png(samples, {}), np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(cv2.cvtColor(read, cv2.COLOR_BGRA2RGBA), samples)


def test_a_view_or_an_array_that_cannot_be_written_to_is_encoded_as_well():
    whole = noise((20, 30), (3,), np.uint8)
    part = whole[3:11, 5:17]
    np.testing.assert_array_equal(read_with_opencv(encode_png(part, {})), part)
    np.testing.assert_array_equal(read_with_opencv(encode_png(part[..., 1], {})), part[..., 1])
    whole.flags.writeable = False
    np.testing.assert_array_equal(read_with_opencv(encode_png(whole, {})), whole)


def test_text_stands_behind_the_header_in_its_order():
    file = encode_png(noise((3, 4), (), np.uint8), {"model": "R_50", "output": "mask"})
    kinds = [kind for kind, _ in chunks(file)]
    assert kinds[:3] == [b"IHDR", b"tEXt", b"tEXt"]
    assert kinds[-1] == b"IEND"
    assert chunks(file)[1:3] == [(b"tEXt", b"model\0R_50"), (b"tEXt", b"output\0mask")]


@pytest.mark.parametrize("value", ["", "R_50_FPN_s1x", "café", "日本語", "a\nb", "x" * 10_000])
def test_text_is_read_back_by_pillow(value):
    file = encode_png(noise((3, 4), (3,), np.uint8), {"key": value, "other": "o"})
    with Image.open(BytesIO(file)) as picture:
        assert picture.text == {"key": value, "other": "o"}


def test_text_is_latin_1_where_it_can_be_and_international_where_not():
    file = encode_png(noise((3, 4), (), np.uint8), {"one": "café", "two": "日本"})
    found = dict(chunks(file))
    assert found[b"tEXt"] == "one\0café".encode("latin-1")
    assert re.fullmatch(rb"two\0\0\0\0\0(.*)", found[b"iTXt"])[1].decode() == "日本"


def test_maps_of_mostly_nothing_are_small():
    samples = np.zeros((1080, 1920, 3), np.uint8)
    samples[300:500, 800:900] = steps((200, 100), (3,), np.uint8)
    assert len(encode_png(samples, {})) < 40_000


@pytest.mark.parametrize("shape", [(1, 200_000, 3), (200_000, 1, 3), (3, 70_000), (700, 800, 4)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_strips_of_rows_and_of_a_long_row_make_up_the_picture(shape, dtype):
    samples = noise(shape[:2], shape[2:], dtype)
    file = encode_png(samples, {})
    scanlines = zlib.decompress(b"".join(data for kind, data in chunks(file) if kind == b"IDAT"))
    rows = np.frombuffer(scanlines, np.uint8).reshape(shape[0], -1)
    assert (rows[:, 0] == 2).all()
    unfiltered = np.cumsum(rows[:, 1:], axis=0, dtype=np.uint8)
    expected = samples.astype(samples.dtype.newbyteorder(">"))
    assert unfiltered.tobytes() == expected.tobytes()


def test_what_is_written_is_counted_and_can_be_ended_between_strips():
    samples = noise((2000, 1000), (3,), np.uint8)
    counted = []
    file = write_png(samples, {}, counted.append)
    assert len(counted) > 20
    assert 0 <= sum(map(len, file)) - sum(counted) < 100_000
    calls = []

    def end(num_bytes):
        calls.append(num_bytes)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_png(samples, {}, end)
    assert len(calls) == 1


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
