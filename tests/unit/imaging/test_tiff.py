import struct

import numpy as np
import pytest
from PIL import Image

from service.errors import UndecodableImage
from service.imaging.decode import decode_image

BYTE, SHORT, LONG, FLOAT = 1, 3, 4, 11
WIDTH, LENGTH, BITS, COMPRESSION, PHOTOMETRIC = 256, 257, 258, 259, 262
STRIPS, ROWS_PER_STRIP, STRIP_BYTES = 273, 278, 279
TILE_WIDTH, TILE_LENGTH, TILES, TILE_BYTES = 322, 323, 324, 325


def tiff(tags: dict[int, tuple[int, list[int]]], pixels: bytes, order: str = "<") -> bytes:
    """Values that are too long for their entry stand behind the pixels, which begin at 8."""
    formats = {BYTE: "B", SHORT: "H", LONG: "I", FLOAT: "f"}
    body = pixels + bytes(len(pixels) % 2)
    rows = []
    for tag, (kind, values) in sorted(tags.items()):
        value = struct.pack(f"{order}{len(values)}{formats[kind]}", *values)
        if len(value) > 4:
            body, value = body + value, struct.pack(f"{order}I", 8 + len(body))
        rows.append(struct.pack(f"{order}HHI4s", tag, kind, len(values), value))
    header = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + len(body))
    return header + body + struct.pack(f"{order}H", len(rows)) + b"".join(rows) + bytes(4)


def grey(width: int, height: int, bits: int) -> dict[int, tuple[int, list[int]]]:
    return {
        WIDTH: (LONG, [width]),
        LENGTH: (LONG, [height]),
        BITS: (SHORT, [bits]),
        COMPRESSION: (SHORT, [1]),
        PHOTOMETRIC: (SHORT, [1]),
        STRIPS: (LONG, [8]),
        ROWS_PER_STRIP: (LONG, [height]),
        STRIP_BYTES: (LONG, [width * height * bits // 8]),
    }


@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bit_samples_are_scaled_in_either_byte_order(order, our_reading):
    samples = np.random.default_rng(0).integers(0, 65536, (5, 7), dtype=np.uint16)
    data = tiff(grey(7, 5, 16), samples.astype(f"{order}u2").tobytes(), order)
    np.testing.assert_array_equal(our_reading(data)[..., 1], samples >> 8)


def test_12_bit_samples_are_scaled(our_reading):
    samples = [0xABC, 0x123, 0xFFF, 0x001]
    packed = b"".join(
        ((first << 12) | second).to_bytes(3, "big")
        for first, second in zip(samples[::2], samples[1::2], strict=True)
    )
    assert our_reading(tiff(grey(2, 2, 12), packed))[..., 0].tolist() == [[0xAB, 0x12], [0xFF, 0]]


def test_samples_without_a_range_are_refused():
    floating, signed = 3, 2
    for bits, sample_format in ((32, floating), (32, signed), (16, signed)):
        tags = grey(4, 4, bits) | {339: (SHORT, [sample_format])}
        with pytest.raises(UndecodableImage, match="no range"):
            decode_image(tiff(tags, bytes(64)), max_pixels=10_000)


def test_only_the_first_page_is_read(photo, save, our_reading):
    data = save(photo, "TIFF", save_all=True, append_images=[photo.rotate(90)] * 3)
    np.testing.assert_array_equal(our_reading(data), np.asarray(photo))


def test_tiles_are_read(our_reading):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 48), dtype=np.uint8)
    tiles = [
        pixels[y : y + 16, x : x + 16].tobytes() for y in range(0, 32, 16) for x in range(0, 48, 16)
    ]
    tags = {tag: value for tag, value in grey(48, 32, 8).items() if tag not in {273, 278, 279}} | {
        TILE_WIDTH: (SHORT, [16]),
        TILE_LENGTH: (SHORT, [16]),
        TILES: (LONG, [8 + 256 * index for index in range(6)]),
        TILE_BYTES: (LONG, [256] * 6),
    }
    np.testing.assert_array_equal(our_reading(tiff(tags, b"".join(tiles)))[..., 0], pixels)


@pytest.mark.parametrize(
    "metadata",
    [
        {700: (BYTE, [0] * 1000)},
        {34377: (BYTE, [0xFF] * 1000)},
        {34665: (LONG, [2**32 - 1])},
        {330: (LONG, [8, 8, 8])},
        {282: (FLOAT, [float("nan")])},
        {274: (SHORT, [9, 9, 9])},
        {65000 + number: (LONG, [number] * 50) for number in range(500)},
    ],
    ids=["xmp", "photoshop", "exif", "subfiles", "resolution", "orientation", "private"],
)
def test_other_tags_do_not_matter(metadata, our_reading):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7), dtype=np.uint8)
    data = tiff(grey(7, 5, 8) | metadata, pixels.tobytes())
    np.testing.assert_array_equal(our_reading(data)[..., 0], pixels)


def test_a_tag_whose_data_lie_outside_the_file_is_refused():
    data = bytearray(tiff(grey(4, 4, 8) | {STRIPS: (LONG, [8, 9, 10])}, bytes(16)))
    at = data.index(struct.pack("<HHI", STRIPS, LONG, 3)) + 8
    for offset in (len(data) - 11, len(data), 2**32 - 1):
        struct.pack_into("<I", data, at, offset)
        with pytest.raises(UndecodableImage, match="cut short"):
            decode_image(data, max_pixels=10_000)


def test_tags_that_share_more_data_than_there_are_are_refused():
    data = bytearray(tiff(grey(4, 4, 8) | {STRIPS: (LONG, [8] * 100)}, bytes(16)))
    for tag in (320, 347, 532):
        data += struct.pack("<HHII", tag, BYTE, 400, 8)
    count = struct.unpack_from("<I", data, 4)[0]
    struct.pack_into("<H", data, count, 11)
    data[-40:] = data[-36:] + bytes(4)
    with pytest.raises(UndecodableImage, match="cut short"):
        decode_image(data, max_pixels=10_000)


def test_strips_without_end_are_refused():
    tags = grey(1, 100_000, 8) | {STRIPS: (LONG, [8] * 100_000), ROWS_PER_STRIP: (LONG, [1])}
    with pytest.raises(UndecodableImage, match="more than 65536 strips"):
        decode_image(tiff(tags, bytes(8)), max_pixels=1_000_000)


def test_a_tile_much_larger_than_the_picture_is_refused():
    tags = {tag: value for tag, value in grey(10, 10, 8).items() if tag not in {273, 278, 279}} | {
        TILE_WIDTH: (LONG, [30_000]),
        TILE_LENGTH: (LONG, [30_000]),
        TILES: (LONG, [8]),
        TILE_BYTES: (LONG, [100]),
        COMPRESSION: (SHORT, [8]),
    }
    with pytest.raises(UndecodableImage, match="tiles of the TIFF image have 30000 x 30000 pixels"):
        decode_image(tiff(tags, bytes(100)), max_pixels=10_000)


@pytest.mark.parametrize("tag", [WIDTH, LENGTH, COMPRESSION, PHOTOMETRIC, ROWS_PER_STRIP])
def test_a_list_where_a_number_belongs_is_refused(tag):
    tags = grey(4, 4, 8) | {tag: (LONG, [4, 4, 4])}
    with pytest.raises(UndecodableImage):
        decode_image(tiff(tags, bytes(16)), max_pixels=10_000)


def test_a_picture_without_a_size_is_refused():
    for missing in (WIDTH, LENGTH):
        tags = {tag: value for tag, value in grey(4, 4, 8).items() if tag != missing}
        with pytest.raises(UndecodableImage):
            decode_image(tiff(tags, bytes(16)), max_pixels=10_000)


def test_pillow_finds_no_orientation_to_turn_by_itself(photo, save, our_reading):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = save(photo, "TIFF", exif=exif)
    np.testing.assert_array_equal(our_reading(data), np.rot90(np.asarray(photo), -1))
