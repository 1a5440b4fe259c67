import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from service.errors import UndecodableImage
from service.imaging.decode import decode_image

SIGNATURE = b"\x89PNG\r\n\x1a\n"
HEADER_END = 33
END = struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))


def chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def behind_header(data: bytes, inserted: bytes) -> bytes:
    return data[:HEADER_END] + inserted + data[HEADER_END:]


def before_end(data: bytes, inserted: bytes) -> bytes:
    return data.removesuffix(END) + inserted + END


@pytest.mark.parametrize("insert", [behind_header, before_end])
@pytest.mark.parametrize(
    "inserted",
    [
        chunk(b"zTXt", b"key\0\0" + zlib.compress(bytes(100_000_000), 9)),
        chunk(b"iTXt", b"key\0\1\0\0\0" + zlib.compress(bytes(100_000_000), 9)),
        chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(1_000_000), 9)) * 1000,
        chunk(b"tEXt", b"key\0" + bytes(1_000_000)),
        chunk(b"acTL", bytes(8)),
        chunk(b"fcTL", b"\xff" * 26),
        chunk(b"tRNS", b""),
        b"\0\0\0\0tEXt\1\2\3\4",
    ],
    ids=["zTXt", "iTXt", "iCCP", "tEXt", "acTL", "fcTL", "tRNS", "checksum"],
)
def test_chunks_that_no_pixel_needs_are_not_read(insert, inserted, photo, save, our_reading):
    data = save(photo, "PNG")
    np.testing.assert_array_equal(our_reading(insert(data, inserted)), our_reading(data))


@pytest.mark.parametrize("insert", [behind_header, before_end])
def test_chunks_without_end_are_refused(insert, photo, save):
    bomb = insert(save(photo, "PNG"), chunk(b"teSt", b"") * 200_000)
    with pytest.raises(UndecodableImage, match="more than 30000 chunks"):
        decode_image(bomb, max_pixels=10_000)


@pytest.mark.parametrize("insert", [behind_header, before_end])
def test_the_orientation_is_found_before_and_behind_the_pixels(insert, photo, save, our_reading):
    data = save(photo, "PNG")
    exif = Image.Exif()
    exif[0x0112] = 3
    turned = insert(data, chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")))
    np.testing.assert_array_equal(our_reading(turned), our_reading(data)[::-1, ::-1])


def test_an_interlaced_picture_is_read(our_reading):
    pixels = np.random.default_rng(0).integers(0, 256, (11, 13, 3), dtype=np.uint8)
    # W3C, Portable Network Graphics, section 8: first row and column of each pass, and its steps.
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2)]
    passes.append((1, 0, 2, 1))
    rows = b"".join(
        b"\0" + row.tobytes()
        for top, left, down, right in passes
        for row in pixels[top::down, left::right]
    )
    header = struct.pack(">IIBBBBB", 13, 11, 8, 2, 0, 0, 1)
    data = SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + END
    np.testing.assert_array_equal(our_reading(data), pixels)


def test_of_an_animation_whose_default_image_stands_apart_that_is_read(photo, save, our_reading):
    options = {"save_all": True, "default_image": True}
    data = save(photo, "PNG", append_images=[photo.rotate(90), photo.rotate(180)], **options)
    np.testing.assert_array_equal(our_reading(data), np.asarray(photo))


def test_a_png_of_apple_s_tools_is_named(photo, save):
    data = save(photo, "PNG")
    with pytest.raises(UndecodableImage, match="Apple's tools"):
        decode_image(SIGNATURE + chunk(b"CgBI", bytes(4)) + data[8:], max_pixels=10_000)


def test_what_comes_behind_the_end_of_a_picture_is_not_looked_at():
    file = BytesIO()
    Image.new("RGB", (3, 2), (10, 20, 30)).save(file, "PNG")
    # As many chunks without anything in them as no picture may have.
    image = decode_image(file.getvalue() + bytes(500_000), max_pixels=6)
    assert image.pixels_HW3[0, 0].tolist() == [30, 20, 10]
