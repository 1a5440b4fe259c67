import contextlib
import struct
import zlib
from collections.abc import Callable, Iterator
from resource import RUSAGE_SELF, getrusage

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from service.errors import ImageTooLarge, UndecodableImage
from service.imaging.decode import decode_image, open_image, turn_upright

RANDOM = np.random.default_rng(0)
ALPHA = RANDOM.integers(0, 256, (37, 53), dtype=np.uint8)
GREY16 = RANDOM.integers(0, 65536, (37, 53), dtype=np.uint16)
COLOUR16 = RANDOM.integers(0, 65536, (37, 53, 3), dtype=np.uint16)

# How to make each variant's picture from the photo, and what to save it with.
Made = tuple[Image.Image, str, dict[str, object]]
VARIANTS: dict[str, Callable[[Image.Image], Made]] = {
    "jpeg": lambda photo: (photo, "JPEG", {"quality": 90}),
    "jpeg 4:4:4": lambda photo: (photo, "JPEG", {"subsampling": 0, "quality": 100}),
    "jpeg 4:2:2": lambda photo: (photo, "JPEG", {"subsampling": 1, "quality": 30}),
    "jpeg progressive": lambda photo: (photo, "JPEG", {"progressive": True}),
    "jpeg restarts": lambda photo: (photo, "JPEG", {"restart_marker_rows": 1}),
    "jpeg rgb": lambda photo: (photo, "JPEG", {"keep_rgb": True}),
    "jpeg grey": lambda photo: (photo.convert("L"), "JPEG", {}),
    "jpeg cmyk": lambda photo: (photo.convert("CMYK"), "JPEG", {}),
    "jpeg cmyk progressive": lambda photo: (photo.convert("CMYK"), "JPEG", {"progressive": True}),
    "png": lambda photo: (photo, "PNG", {}),
    "png rgba": lambda photo: (with_alpha(photo), "PNG", {}),
    "png grey": lambda photo: (photo.convert("L"), "PNG", {}),
    "png grey alpha": lambda photo: (with_alpha(photo).convert("LA"), "PNG", {}),
    "png 1 bit": lambda photo: (photo.convert("1"), "PNG", {}),
    "png palette": lambda photo: (photo.quantize(64), "PNG", {}),
    "png palette 1 bit": lambda photo: (photo.quantize(2), "PNG", {"bits": 1}),
    "png palette 2 bits": lambda photo: (photo.quantize(4), "PNG", {"bits": 2}),
    "png palette 4 bits": lambda photo: (photo.quantize(16), "PNG", {"bits": 4}),
    "png palette trns": lambda photo: (
        *(photo.quantize(64), "PNG"),
        {"transparency": bytes(range(64))},
    ),
    "png trns": lambda photo: (photo, "PNG", {"transparency": (0, 0, 0)}),
    "png grey trns": lambda photo: (photo.convert("L"), "PNG", {"transparency": 5}),
    "png grey 16": lambda _: (Image.fromarray(GREY16), "PNG", {}),
    "png animated": lambda photo: (photo, "PNG", animation(photo)),
    "webp": lambda photo: (photo, "WEBP", {"quality": 80}),
    "webp lossless": lambda photo: (photo, "WEBP", {"lossless": True}),
    "webp rgba": lambda photo: (with_alpha(photo), "WEBP", {"quality": 80}),
    "webp rgba lossless": lambda photo: (
        *(with_alpha(photo), "WEBP"),
        {"lossless": True, "exact": True},
    ),
    "webp animated": lambda photo: (photo, "WEBP", animation(photo)),
    "gif": lambda photo: (photo.quantize(64), "GIF", {}),
    "gif not interlaced": lambda photo: (photo.quantize(64), "GIF", {"interlace": 0}),
    "gif grey": lambda photo: (photo.convert("L"), "GIF", {}),
    "gif transparent": lambda photo: (photo.quantize(64), "GIF", {"transparency": 3}),
    "gif animated": lambda photo: (photo, "GIF", {**animation(photo), "disposal": 2}),
    "bmp": lambda photo: (photo, "BMP", {}),
    "bmp rgba": lambda photo: (with_alpha(photo), "BMP", {}),
    "bmp grey": lambda photo: (photo.convert("L"), "BMP", {}),
    "bmp palette": lambda photo: (photo.quantize(64), "BMP", {}),
    "bmp 1 bit": lambda photo: (photo.convert("1"), "BMP", {}),
    "tiff": lambda photo: (photo, "TIFF", {}),
    "tiff rgba": lambda photo: (with_alpha(photo), "TIFF", {}),
    "tiff grey": lambda photo: (photo.convert("L"), "TIFF", {"compression": "packbits"}),
    "tiff grey alpha": lambda photo: (with_alpha(photo).convert("LA"), "TIFF", {}),
    "tiff grey 16": lambda _: (Image.fromarray(GREY16), "TIFF", {}),
    "tiff grey 16 lzw": lambda _: (Image.fromarray(GREY16), "TIFF", {"compression": "tiff_lzw"}),
    "tiff 1 bit": lambda photo: (photo.convert("1"), "TIFF", {}),
    "tiff fax": lambda photo: (photo.convert("1"), "TIFF", {"compression": "group4"}),
    "tiff palette": lambda photo: (photo.quantize(64), "TIFF", {}),
    "tiff cmyk": lambda photo: (photo.convert("CMYK"), "TIFF", {}),
    "tiff cmyk jpeg": lambda photo: (photo.convert("CMYK"), "TIFF", {"compression": "jpeg"}),
    "tiff ycbcr": lambda photo: (photo.convert("YCbCr"), "TIFF", {}),
    "tiff jpeg": lambda photo: (photo, "TIFF", {"compression": "jpeg"}),
    "tiff lzw": lambda photo: (photo, "TIFF", {"compression": "tiff_lzw"}),
    "tiff deflate": lambda photo: (photo, "TIFF", {"compression": "tiff_adobe_deflate"}),
    "tiff pages": lambda photo: (photo, "TIFF", animation(photo)),
}
STILLS = [name for name in VARIANTS if not name.endswith(("animated", "pages"))]


def with_alpha(photo: Image.Image) -> Image.Image:
    picture = photo.convert("RGBA")
    picture.putalpha(Image.fromarray(ALPHA))
    return picture


def animation(photo: Image.Image) -> dict[str, object]:
    return {"save_all": True, "append_images": [photo.rotate(90), photo.rotate(180)]}


@pytest.fixture
def file_of(photo, save) -> Callable[[str], bytes]:
    def make(name: str) -> bytes:
        picture, kind, options = VARIANTS[name](photo)
        return save(picture, kind, **options)

    return make


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_is_decoded_as_pillow_reads_it(name, file_of, our_reading, pillow_reading):
    data = file_of(name)
    np.testing.assert_array_equal(our_reading(data), pillow_reading(data))


@pytest.mark.parametrize("name", VARIANTS)
def test_a_picture_that_is_converted_a_few_rows_at_a_time_is_the_same(
    name, file_of, our_reading, pillow_reading, monkeypatch
):
    monkeypatch.setattr("service.imaging.picture._PIXELS_AT_A_TIME", 53 * 5)
    data = file_of(name)
    np.testing.assert_array_equal(our_reading(data), pillow_reading(data))


@pytest.mark.parametrize("name", VARIANTS)
def test_opened_images_know_their_pixels_and_decode_none(name, file_of):
    encoded = open_image(file_of(name), max_pixels=37 * 53)
    assert encoded.num_pixels == 37 * 53
    assert encoded.decode().shape[:2] == (37, 53)


def test_decoding_good_files_prints_nothing(file_of, our_reading, capfd):
    for name in VARIANTS:
        data = file_of(name)
        capfd.readouterr()  # libtiff prints while Pillow saves
        our_reading(data)
        assert capfd.readouterr() == ("", ""), name


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("num_channels", [1, 3, 4])
def test_of_samples_of_16_bits_the_upper_8_are_kept(suffix, num_channels, our_reading):
    if num_channels == 1:
        samples, expected = GREY16, np.repeat(GREY16[..., None], 3, axis=2)
    else:
        samples, expected = COLOUR16, COLOUR16[..., ::-1]
    if num_channels == 4:
        samples = np.concatenate([COLOUR16, GREY16[..., None]], axis=2)
    _, data = cv2.imencode(suffix, samples)
    np.testing.assert_array_equal(our_reading(data.tobytes()), expected >> 8)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        *(("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK")),
        *(("PNG", "RGB"), ("PNG", "L"), ("PNG", "P")),
        *(("WEBP", "RGB"), ("WEBP", "RGBA")),
        *(("TIFF", "RGB"), ("TIFF", "L"), ("TIFF", "CMYK")),
    ],
)
def test_the_exif_orientation_is_applied(
    kind, mode, orientation, photo, save, our_reading, pillow_reading
):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = save(photo.convert(mode), kind, exif=exif)
    np.testing.assert_array_equal(our_reading(data), pillow_reading(data))


@pytest.mark.parametrize("size", [(1, 1), (16_383, 10), (10, 16_383), (20_000, 10), (1, 65_500)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_an_extreme_shape_is_an_image_like_any_other(kind, size, save, our_reading, pillow_reading):
    if kind == "WEBP":
        size = min(size[0], 16_383), min(size[1], 16_383)
    picture = Image.linear_gradient("L").resize(size).convert("RGB")
    data = save(picture, kind)
    np.testing.assert_array_equal(our_reading(data), pillow_reading(data))


@pytest.mark.parametrize("buffer", [bytes, bytearray, memoryview])
def test_any_buffer_is_read_and_left_as_it_is(buffer, file_of):
    for name in ("jpeg", "jpeg cmyk", "png", "webp", "gif", "bmp", "tiff"):
        data = file_of(name)
        given = buffer(data)
        assert decode_image(given, max_pixels=10_000).size_hw == (37, 53)
        assert bytes(given) == data


@pytest.mark.parametrize("name", VARIANTS)
def test_the_limit_on_pixels_is_exact(name, file_of):
    data = file_of(name)
    assert decode_image(data, max_pixels=37 * 53).size_hw == (37, 53)
    with pytest.raises(ImageTooLarge, match=r"53 x 37 pixels, and at most 1960 are taken"):
        decode_image(data, max_pixels=37 * 53 - 1)


def test_the_limit_is_on_pixels_and_not_on_how_they_are_turned(photo, save):
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ("JPEG", "PNG", "WEBP", "TIFF"):
        data = save(photo, kind, exif=exif)
        assert decode_image(data, max_pixels=37 * 53).size_hw == (53, 37)


def test_nothing_is_no_image():
    for nothing in (b"", bytearray(), memoryview(b"")):
        with pytest.raises(UndecodableImage, match="empty"):
            decode_image(nothing, max_pixels=10_000)


@pytest.mark.parametrize(
    "data",
    [
        b"\0",
        b"\xff\xd8",
        b"hello, this is a text and no image at all",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%PDF-1.7 ",
        b"P6 1 1 255 \0\0\0",
        b"\0\0\1\0\1\0\x10\x10\0\0\1\0\x18\0" + bytes(64),
        b"\0\0\0\x1cftypheic\0\0\0\0" + bytes(64),
        b"\0\0\0\x1cftypavif\0\0\0\0" + bytes(64),
        b"II+\0\x08\0\0\0" + bytes(64),
        b"RIFF\x24\0\0\0WAVEfmt " + bytes(64),
        b"8BPS\0\1" + bytes(64),
    ],
)
def test_bytes_of_no_format_that_is_read_are_undecodable(data):
    with pytest.raises(UndecodableImage, match=r"no image of a format .*JPEG, PNG, WebP, GIF, BMP"):
        decode_image(data, max_pixels=10_000)


@pytest.mark.parametrize("name", STILLS)
def test_a_file_that_is_cut_short_is_undecodable(name, file_of):
    data = file_of(name)
    for share in (0.05, 0.3, 0.6, 0.9):
        with pytest.raises(UndecodableImage):
            decode_image(data[: int(len(data) * share)], max_pixels=10_000)


@pytest.mark.parametrize(
    "beginning",
    [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\x64\0\0\0WEBP", b"GIF89a", b"BM", b"II*\0"],
)
@settings(max_examples=50, deadline=None)
@given(rest=st.binary(max_size=200))
def test_garbage_behind_a_signature_is_decoded_or_refused_and_nothing_else(beginning, rest):
    with contextlib.suppress(UndecodableImage, ImageTooLarge):
        decode_image(beginning + rest, max_pixels=10_000)


def test_a_bomb_is_refused_by_its_header():
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(3 << 20), 9)
    bomb = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b""))
    )
    assert len(bomb) < 5_000
    with pytest.raises(ImageTooLarge, match=r"60000 x 60000 pixels, and at most 40000000"):
        decode_image(bomb, max_pixels=40_000_000)


def mutants(data: bytes, random: np.random.Generator, count: int) -> Iterator[bytes]:
    """The file with a few bytes changed, left out or put in, half the time near its beginning."""
    for _ in range(count):
        mutant = bytearray(data)
        reach = 200 if random.random() < 0.5 else len(data)
        for _ in range(random.integers(1, 6)):
            at = int(random.integers(0, min(len(mutant), reach)))
            few = random.integers(0, 256, random.integers(1, 9), dtype=np.uint8).tobytes()
            match random.integers(0, 4):
                case 0:
                    mutant[at] = few[0]
                case 1:
                    mutant[at] = int(random.choice([0, 1, 127, 128, 254, 255]))
                case 2:
                    del mutant[at : at + len(few)]
                case 3:
                    mutant[at:at] = few
        yield png_with_right_checksums(mutant)


def png_with_right_checksums(data: bytearray) -> bytes:
    """What is otherwise refused for a wrong checksum gets as far as the rest of the decoder."""
    position = 8
    while data.startswith(b"\x89PNG") and position + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        end = position + 8 + length
        if end + 4 <= len(data):
            struct.pack_into(">I", data, end, zlib.crc32(data[position + 4 : end]))
        position = end + 4
    return bytes(data)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_damaged_file_is_decoded_or_refused_and_nothing_else(name, file_of):
    random = np.random.default_rng(list(VARIANTS).index(name))
    memory_kib = getrusage(RUSAGE_SELF).ru_maxrss
    for mutant in mutants(file_of(name), random, 150):
        with contextlib.suppress(UndecodableImage, ImageTooLarge):
            height, width = decode_image(mutant, max_pixels=1_000_000).size_hw
            assert 0 < height * width <= 1_000_000
    assert getrusage(RUSAGE_SELF).ru_maxrss - memory_kib < 64 * 1024


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
