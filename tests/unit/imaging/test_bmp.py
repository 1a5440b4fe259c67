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


@pytest.mark.parametrize("bits", [16, 32])
@pytest.mark.parametrize("compression", [3, 6])
def test_any_masks_are_read(bits, compression, our_reading):
    masks = {16: (0x0F00, 0x00F0, 0x000F), 32: (0x3FF00000, 0x000FFC00, 0x000003FF)}[bits]
    samples = np.random.default_rng(0).integers(0, 16 if bits == 16 else 1024, (3, 5, 3))
    shifts = np.array([8, 4, 0] if bits == 16 else [20, 10, 0])
    values = (samples << shifts).sum(axis=2)[::-1].astype(f"<u{bits // 8}")
    rows = b"".join(row.tobytes() + bytes(-row.nbytes % 4) for row in values)
    data = bmp(5, 3, bits, rows, compression=compression, extra=struct.pack("<4I", *masks, 0))
    expected = samples * 17 if bits == 16 else samples >> 2
    np.testing.assert_array_equal(our_reading(data), expected)


@pytest.mark.parametrize("bits", [24, 32])
@pytest.mark.parametrize("masks", [(0xFF0000, 0xFF00, 0xFF), (0, 0, 0)])
def test_masks_that_say_nothing_new_are_read(bits, masks, our_reading):
    rows = bytes((1, 2, 3, 0))
    data = bmp(1, 1, bits, rows, compression=3, extra=struct.pack("<3I", *masks))
    assert our_reading(data).tolist() == [[[3, 2, 1]]]


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("colours", [[0, 255], [255, 0], [0, 1]])
def test_a_palette_of_two_colours_is_read_in_every_depth(bits, colours, our_reading):
    indices = np.random.default_rng(0).integers(0, 2, (3, 11))
    packed = np.zeros((3, -(-11 * bits // 32) * 4), np.uint8)
    for x in range(11):
        packed[:, x * bits // 8] |= (indices[:, x] << (8 - bits - x * bits % 8)).astype(np.uint8)
    palette = b"".join(bytes((grey, grey, grey, 0)) for grey in colours)
    data = bytearray(bmp(11, 3, bits, packed[::-1].tobytes(), extra=palette))
    struct.pack_into("<I", data, 46, 2)
    np.testing.assert_array_equal(our_reading(data)[..., 1], np.array(colours)[indices])


def test_a_bitmap_of_os2_is_read(our_reading):
    header = struct.pack("<2sIHHIIHHHH", b"BM", 0, 0, 0, 32, 12, 2, 1, 1, 8)
    palette = bytes((1, 2, 3, 4, 5, 6))
    data = header + palette + bytes((1, 0, 0, 0))
    assert our_reading(data).tolist() == [[[6, 5, 4], [3, 2, 1]]]


def test_the_filling_of_the_last_row_may_be_missing(our_reading):
    rows = bytes((1, 2, 3, 0, 4, 5, 6, 0))
    np.testing.assert_array_equal(
        our_reading(bmp(1, 2, 24, rows[:-1])), our_reading(bmp(1, 2, 24, rows))
    )
    with pytest.raises(UndecodableImage, match="cut short"):
        decode_image(bmp(1, 2, 24, rows[:-2]), max_pixels=10)


@pytest.mark.parametrize(
    ("bits", "compression", "name"),
    [(0, 4, "JPEG inside"), (0, 5, "PNG inside"), (30, 0, "30 bits"), (24, 3, "24 bits")],
)
def test_an_intact_file_of_a_kind_that_is_not_read_is_named(bits, compression, name):
    masks = struct.pack("<3I", 0xFF, 0xFF00, 0xFF0000)
    data = bmp(4, 4, bits, bytes(64), compression=compression, extra=masks)
    with pytest.raises(UndecodableImage, match=f"{name} is not read"):
        decode_image(data, max_pixels=10_000)


def test_a_header_of_another_length_is_named():
    data = bytearray(bmp(4, 4, 24, bytes(64)))
    data[14] = 66
    with pytest.raises(UndecodableImage, match="header of 66 bytes"):
        decode_image(data, max_pixels=10_000)
