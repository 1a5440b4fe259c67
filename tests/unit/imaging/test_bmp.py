import struct

import numpy as np
import pytest

from service.errors import UndecodableImage
from service.imaging.decode import decode_image

GREYS = b"".join(bytes((grey, grey, grey, 0)) for grey in range(256))


def bmp(
    width: int, height: int, bits: int, rows: bytes, *, compression: int = 0, extra: bytes = b""
) -> bytes:
    """`extra` is what stands before the pixels: colour masks or a palette."""
    start = 54 + len(extra)
    file = struct.pack("<2sIHHI", b"BM", start + len(rows), 0, 0, start)
    info = struct.pack(
        "<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(rows), 0, 0, 0, 0
    )
    return file + info + extra + rows


@pytest.mark.parametrize(
    ("masks", "red", "green"),
    [((0xF800, 0x07E0, 0x001F), 0xF800, 0x07E0), ((0x7C00, 0x03E0, 0x001F), 0x7C00, 0x03E0)],
)
def test_16_bits_per_pixel_are_read(masks, red, green, our_reading):
    rows = struct.pack("<4H", red, green, 0x001F, 0)
    data = bmp(2, 2, 16, rows, compression=3, extra=struct.pack("<3I", *masks))
    expected = [[[0, 0, 255], [0, 0, 0]], [[255, 0, 0], [0, 255, 0]]]
    assert our_reading(data).tolist() == expected


def test_rows_from_top_to_bottom_are_read(our_reading):
    rows = struct.pack("<3Bx3Bx", 255, 0, 0, 0, 0, 255)
    assert our_reading(bmp(1, 2, 24, rows)).tolist() == [[[255, 0, 0]], [[0, 0, 255]]]
    assert our_reading(bmp(1, -2, 24, rows)).tolist() == [[[0, 0, 255]], [[255, 0, 0]]]


def test_run_lengths_are_read(our_reading):
    rows = bytes((3, 7, 0, 0, 0, 3, 1, 2, 3, 0, 0, 1))
    grey = our_reading(bmp(3, 2, 8, rows, compression=1, extra=GREYS))[..., 0]
    np.testing.assert_array_equal(grey, [[1, 2, 3], [7, 7, 7]])


@pytest.mark.parametrize(
    ("size", "num_bytes"), [((1, 2_000_001), 10), ((2000, 1500), 10), ((10, 10), 4_000_000)]
)
def test_run_lengths_that_would_take_long_are_refused(size, num_bytes):
    data = bmp(*size, 8, bytes(num_bytes), compression=1, extra=GREYS)
    with pytest.raises(UndecodableImage, match="run-length"):
        decode_image(data, max_pixels=40_000_000)
