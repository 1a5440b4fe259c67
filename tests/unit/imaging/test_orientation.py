import struct

import numpy as np
import pytest

from service.imaging.orientation import read_orientation, turn_upright


def exif(orientation: int, *, order: str = "<", kind: int = 3, count: int = 1) -> bytes:
    magic = b"II*\0" if order == "<" else b"MM\0*"
    value = struct.pack(order + {1: "B", 3: "H", 4: "I"}.get(kind, "I"), orientation)
    entry = struct.pack(f"{order}HHI4s", 0x0112, kind, count, value)
    return magic + struct.pack(f"{order}IH", 8, 1) + entry + bytes(4)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [1, 3, 4])
@pytest.mark.parametrize("prefix", [b"", b"Exif\0\0"])
def test_the_orientation_is_read_in_either_byte_order_and_any_integer_type(order, kind, prefix):
    for orientation in range(1, 9):
        block = prefix + exif(orientation, order=order, kind=kind)
        assert read_orientation(block) == orientation


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"Exif\0\0",
        b"II*\0",
        b"II*\0\xff\xff\xff\xff",
        b"JJ*\0" + exif(6)[4:],
        exif(6)[:9],
        exif(6)[:15],
        exif(0),
        exif(9),
        exif(65535),
        exif(6, kind=2),
        exif(6, kind=99),
        exif(6, count=0),
        exif(6, count=2**32 - 1),
    ],
)
def test_a_damaged_or_senseless_orientation_is_upright(block):
    assert read_orientation(block) == 1


def test_of_two_orientations_the_first_counts():
    entries = exif(6)[10:22] + exif(3)[10:22]
    block = b"II*\0" + struct.pack("<IH", 8, 2) + entries
    assert read_orientation(block) == 6


def test_an_upright_picture_is_not_copied():
    pixels = np.zeros((2, 3, 3), np.uint8)
    assert turn_upright(pixels, 1) is pixels


@pytest.mark.parametrize(
    ("orientation", "first_row"),
    # Where the picture's pixels 0 1 2 / 3 4 5 come to stand in the upright one's first row.
    [
        (2, [2, 1, 0]),
        (3, [5, 4, 3]),
        (4, [3, 4, 5]),
        (5, [0, 3]),
        (6, [3, 0]),
        (7, [5, 2]),
        (8, [2, 5]),
    ],
)
def test_each_orientation_has_its_turn(orientation, first_row):
    pixels = np.repeat(np.arange(6, dtype=np.uint8).reshape(2, 3, 1), 3, axis=2)
    upright = turn_upright(pixels, orientation)
    assert upright[0, :, 0].tolist() == first_row
    assert upright.flags.c_contiguous
