import struct

import numpy as np
import pytest

from service.errors import ImageTooLarge, UndecodableImage
from service.imaging.decode import decode_image

SCREEN_END = 13
COMMENT = b"!\xfe\1c\0"


def screen_of(data: bytes) -> int:
    """Where the blocks begin: behind the header and the palette of all frames."""
    flags = data[10]
    return SCREEN_END + (6 << (flags & 7) if flags & 0x80 else 0)


def before_blocks(data: bytes, inserted: bytes) -> bytes:
    at = screen_of(data)
    return data[:at] + inserted + data[at:]


def frame_at(data: bytes) -> int:
    return data.index(b",", screen_of(data))


@pytest.fixture
def gif(photo, save) -> bytes:
    return save(photo.quantize(64), "GIF")


def test_comments_and_other_extensions_are_skipped(gif, our_reading):
    application = b"!\xff\x0bNETSCAPE2.0\3\1\0\0\0"
    padded = before_blocks(gif, COMMENT * 1000 + application + b"!\xfe\xff" + bytes(255) + b"\0")
    np.testing.assert_array_equal(our_reading(padded), our_reading(gif))


def test_extensions_without_end_are_refused(gif):
    bomb = before_blocks(gif, COMMENT * 1_000_000)
    with pytest.raises(UndecodableImage, match="more than 100000 blocks"):
        decode_image(bomb, max_pixels=10_000)


@pytest.mark.parametrize("disposal", [0, 1, 2, 3])
def test_a_frame_in_a_corner_stands_on_the_screen_as_in_pillow(
    disposal, gif, our_reading, pillow_reading
):
    control = b"!\xf9\4" + bytes((disposal << 2 | 1, 0, 0, 5, 0))
    data = bytearray(before_blocks(gif, control))
    struct.pack_into("<HH", data, 6, 70, 60)
    struct.pack_into("<HH", data, frame_at(data) + 1, 4, 7)
    assert our_reading(bytes(data)).shape == (60, 70, 3)
    np.testing.assert_array_equal(our_reading(bytes(data)), pillow_reading(bytes(data)))


def test_a_screen_smaller_than_its_frame_grows(gif, our_reading):
    data = bytearray(gif)
    struct.pack_into("<HH", data, 6, 1, 1)
    np.testing.assert_array_equal(our_reading(bytes(data)), our_reading(gif))


def test_the_limit_holds_for_a_frame_larger_than_its_screen(gif):
    data = bytearray(gif)
    struct.pack_into("<4H", data, frame_at(gif) + 1, 65_535, 65_535, 65_535, 65_535)
    with pytest.raises(ImageTooLarge, match="131070 x 131070"):
        decode_image(data, max_pixels=40_000_000)


def test_a_file_without_a_frame_is_refused():
    empty = b"GIF89a" + struct.pack("<HHBBB", 10, 10, 0, 0, 0)
    for blocks in (b"", b";", COMMENT, COMMENT + b";", b"!\xfe\xff"):
        with pytest.raises(UndecodableImage):
            decode_image(empty + blocks, max_pixels=10_000)


def test_a_later_frame_does_not_matter(photo, save, our_reading):
    frames = [photo.rotate(90), photo.rotate(180)]
    data = save(photo, "GIF", save_all=True, append_images=frames)
    first = our_reading(data)
    second = frame_at(data) + data[frame_at(data) + 1 :].index(b"!\xf9") + 1
    np.testing.assert_array_equal(our_reading(data[:second] + b"\xff" * 500), first)
