import struct

import numpy as np
import pytest
from PIL import Image

from service.errors import UndecodableImage
from service.imaging.decode import decode_image


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def behind_start(data: bytes, *inserted: bytes) -> bytes:
    return data[:2] + b"".join(inserted) + data[2:]


def exif_segment(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return segment(0xE1, exif.tobytes())


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_damaged_exif_costs_the_orientation_and_not_the_picture(mode, photo, save, our_reading):
    data = save(photo.convert(mode), "JPEG")
    for block in (b"", b"II*\0\x08\0\0\0\xff\xff" + bytes(7), bytes(60_000), b"\xff" * 60_000):
        damaged = behind_start(data, segment(0xE1, b"Exif\0\0" + block))
        np.testing.assert_array_equal(our_reading(damaged), our_reading(data))


def test_of_two_exif_segments_the_first_counts(photo, save, our_reading):
    data = save(photo, "JPEG")
    twice = behind_start(data, exif_segment(3), exif_segment(6))
    np.testing.assert_array_equal(our_reading(twice), our_reading(data)[::-1, ::-1])


def test_filling_and_garbage_between_segments_is_skipped(photo, save, our_reading):
    data = save(photo, "JPEG")
    padded = behind_start(data, b"\xff\xff\xff", segment(0xFE, b"comment"), b"\xff\xff", b"\1\2\3")
    np.testing.assert_array_equal(our_reading(padded), our_reading(data))


def test_what_follows_the_picture_is_not_looked_at(photo, save, our_reading):
    for options in ({}, {"progressive": True}):
        data = save(photo, "JPEG", **options)
        np.testing.assert_array_equal(our_reading(data + b"\xff\xda" * 1000), our_reading(data))


@pytest.mark.parametrize("options", [{"progressive": True}, {}])
def test_scans_without_end_are_refused_before_they_are_decoded(options, save):
    data = save(Image.new("RGB", (800, 800)), "JPEG", **options)
    first_scan = data.index(b"\xff\xda")
    last_scan = data[data.rindex(b"\xff\xda") : -2]
    if not options:  # the frame's three components, but one only in each scan
        last_scan = segment(0xDA, b"\1\1\0\0\x3f\0") + b"\0"
        data = data[:first_scan] + last_scan + data[-2:]
    bomb = data[:-2] + last_scan * 2_000 + data[-2:]
    with pytest.raises(UndecodableImage, match="more than 640000000 samples"):
        decode_image(bomb, max_pixels=1_000_000)


def test_segments_without_end_are_refused(photo, save):
    bomb = behind_start(save(photo, "JPEG"), segment(0xFE, b"") * 1_000_000)
    with pytest.raises(UndecodableImage, match="more than 10000 segments"):
        decode_image(bomb, max_pixels=10_000)


def test_filling_without_end_takes_no_time_to_speak_of(photo, save, our_reading):
    data = save(photo, "JPEG")
    filled = behind_start(data, b"\xff" * 5_000_000)
    np.testing.assert_array_equal(our_reading(filled), our_reading(data))


def test_a_file_with_two_frame_headers_is_refused(photo, save):
    data = save(photo, "JPEG")
    start = data.index(b"\xff\xc0")
    frame = bytearray(data[start : start + 19])
    frame[5:9] = struct.pack(">HH", 60_000, 60_000)
    with pytest.raises(UndecodableImage, match="no single picture"):
        decode_image(data[:start] + frame + data[start:], max_pixels=10_000)


def test_a_frame_without_height_is_refused(photo, save):
    data = bytearray(save(photo, "JPEG"))
    start = data.index(b"\xff\xc0")
    data[start + 5 : start + 7] = bytes(2)
    with pytest.raises(UndecodableImage, match="no pixels"):
        decode_image(data, max_pixels=10_000)


@pytest.mark.parametrize(
    ("marker", "name"),
    [(0xC3, "lossless JPEG"), (0xC5, "hierarchical JPEG"), (0xF7, "JPEG-LS")],
)
def test_an_intact_file_of_a_kind_that_is_not_read_is_named(marker, name, photo, save):
    data = bytearray(save(photo, "JPEG"))
    data[data.index(b"\xff\xc0") + 1] = marker
    with pytest.raises(UndecodableImage, match=f"is {name}, which is not read"):
        decode_image(data, max_pixels=10_000)


def test_samples_of_12_bits_are_named(photo, save):
    data = bytearray(save(photo, "JPEG"))
    data[data.index(b"\xff\xc0") + 4] = 12
    with pytest.raises(UndecodableImage, match="samples of 12 bits, which is not read"):
        decode_image(data, max_pixels=10_000)
