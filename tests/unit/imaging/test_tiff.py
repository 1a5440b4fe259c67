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
NEW_SUBFILE_TYPE, SAMPLES, PLANAR, COLOR_MAP = 254, 277, 284, 320
SUB_IFDS, EXTRA_SAMPLES, SAMPLE_FORMAT = 330, 338, 339


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


@pytest.mark.parametrize("bits", [8, 16, 32])
@pytest.mark.parametrize(("sample_format", "name"), [(2, "with a sign"), (3, "floating-point")])
def test_samples_without_a_range_are_refused(bits, sample_format, name):
    tags = grey(4, 4, bits) | {SAMPLE_FORMAT: (SHORT, [sample_format])}
    with pytest.raises(UndecodableImage, match=f"{name}.* no range"):
        decode_image(tiff(tags, bytes(64)), max_pixels=10_000)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bits", [8, 16])
def test_white_is_zero_is_inverted_in_every_depth_and_byte_order(bits, order, our_reading):
    samples = np.random.default_rng(0).integers(0, 1 << bits, (5, 7))
    tags = grey(7, 5, bits) | {PHOTOMETRIC: (SHORT, [0])}
    data = tiff(tags, samples.astype(f"{order}u{bits // 8}").tobytes(), order)
    np.testing.assert_array_equal(our_reading(data)[..., 0], 255 - (samples >> (bits - 8)))


def planar(samples_HWS: np.ndarray, bits: int, photometric: int, order: str, *, tiled: bool):
    """A file of 16 x 32 pixels whose samples stand in planes, of two strips or tiles each."""
    kind = f"{order}u{bits // 8}"
    segments = [
        (samples_HWS[:, half, plane] if tiled else samples_HWS[8 * index : 8 * index + 8, :, plane])
        .astype(kind)
        .tobytes()
        for plane in range(samples_HWS.shape[2])
        for index, half in enumerate((slice(16), slice(16, 32)))
    ]
    places = [8 + index * len(segments[0]) for index in range(len(segments))]
    lengths = [len(segment) for segment in segments]
    tags = {
        WIDTH: (LONG, [32]),
        LENGTH: (LONG, [16]),
        BITS: (SHORT, [bits] * samples_HWS.shape[2]),
        COMPRESSION: (SHORT, [1]),
        PHOTOMETRIC: (SHORT, [photometric]),
        SAMPLES: (SHORT, [samples_HWS.shape[2]]),
        PLANAR: (SHORT, [2]),
    }
    if tiled:
        tags |= {TILE_WIDTH: (SHORT, [16]), TILE_LENGTH: (SHORT, [16])}
        tags |= {TILES: (LONG, places), TILE_BYTES: (LONG, lengths)}
    else:
        tags |= {ROWS_PER_STRIP: (SHORT, [8])}
        tags |= {STRIPS: (LONG, places), STRIP_BYTES: (LONG, lengths)}
    return tags, b"".join(segments)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("tiled", [False, True])
@pytest.mark.parametrize(("photometric", "num_samples"), [(1, 2), (2, 3), (2, 4), (2, 6), (5, 4)])
def test_samples_in_planes_of_their_own_are_read(
    photometric, num_samples, tiled, bits, order, our_reading
):
    samples = np.random.default_rng(0).integers(0, 1 << bits, (16, 32, num_samples))
    tags, pixels = planar(samples, bits, photometric, order, tiled=tiled)
    upper = (samples >> (bits - 8)).astype(np.uint8)
    match photometric:
        case 1:
            expected = np.repeat(upper[..., :1], 3, axis=2)
        case 2:
            expected = upper[..., :3]
        case _:
            expected = np.asarray(Image.fromarray(upper, "CMYK").convert("RGB"))
    np.testing.assert_array_equal(our_reading(tiff(tags, pixels, order)), expected)


def test_colours_in_planes_that_alpha_is_multiplied_into_are_divided_by_it(our_reading):
    colours = np.full((16, 32, 3), (10, 20, 40))
    alpha = np.full((16, 32, 1), 51)  # a fifth
    tags, pixels = planar(np.concatenate([colours, alpha], axis=2), 8, 2, "<", tiled=False)
    data = tiff(tags | {EXTRA_SAMPLES: (SHORT, [1])}, pixels)
    np.testing.assert_array_equal(our_reading(data), 5 * colours)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("scale", [1, 257])
def test_a_palette_has_16_bits_or_8(bits, scale, our_reading):
    random = np.random.default_rng(0)
    colours = random.integers(0, 256, (1 << bits, 3))
    indices = np.arange(1 << bits).reshape(2, -1)
    packed = indices if bits == 8 else indices[:, ::2] << 4 | indices[:, 1::2]
    tags = grey(indices.shape[1], 2, bits) | {
        PHOTOMETRIC: (SHORT, [3]),
        COLOR_MAP: (SHORT, (scale * colours).T.ravel().tolist()),
    }
    data = tiff(tags, packed.astype(np.uint8).tobytes())
    np.testing.assert_array_equal(our_reading(data), colours[indices])


@pytest.mark.parametrize("num_colours", [0, 65, 257])
def test_a_palette_of_another_size_is_refused(num_colours):
    tags = grey(4, 4, 8) | {PHOTOMETRIC: (SHORT, [3])}
    if num_colours:
        tags |= {COLOR_MAP: (SHORT, [0] * 3 * num_colours)}
    with pytest.raises(UndecodableImage):
        decode_image(tiff(tags, bytes(64)), max_pixels=10_000)


THUMBNAIL = {NEW_SUBFILE_TYPE: (LONG, [1])}
MASK = {NEW_SUBFILE_TYPE: (LONG, [4])}
OTHERS = {SUB_IFDS: (LONG, [8])}
YCBCR = {PHOTOMETRIC: (SHORT, [6]), SAMPLES: (SHORT, [3]), BITS: (SHORT, [8, 8, 8])}


@pytest.mark.parametrize(
    ("tags", "name"),
    [
        ({COMPRESSION: (SHORT, [6])}, "old-style JPEG"),
        ({COMPRESSION: (SHORT, [34676])}, "LogLuv"),
        ({COMPRESSION: (SHORT, [50001])}, "WebP"),
        ({COMPRESSION: (SHORT, [4711])}, "unknown compression"),
        ({PHOTOMETRIC: (SHORT, [32803])}, "sensor's raw data"),
        ({PHOTOMETRIC: (SHORT, [4711])}, "unknown kind of colours"),
        ({50706: (BYTE, [1, 4, 0, 0])}, "DNG"),
        (THUMBNAIL | OTHERS, "thumbnail"),
        (MASK | OTHERS, "mask"),
        ({BITS: (SHORT, [24])}, "24 bits"),
        ({BITS: (SHORT, [16, 16]), SAMPLES: (SHORT, [2])}, "2 samples .* of 16 bits"),
        ({COMPRESSION: (SHORT, [7]), BITS: (SHORT, [12])}, "JPEG"),
        (YCBCR, "subsampled YCbCr"),
        (YCBCR | {530: (SHORT, [1, 1]), 532: (LONG, [16, 235, 128, 240, 128, 240])}, "YCbCr other"),
        (
            {PHOTOMETRIC: (SHORT, [5]), SAMPLES: (SHORT, [4]), 332: (SHORT, [2])},
            "inks other than cyan",
        ),
        ({PHOTOMETRIC: (SHORT, [2])}, "1 samples .* of 8 bits"),
        ({SAMPLES: (SHORT, [65_535])}, "65535 samples"),
    ],
)
def test_an_intact_file_of_a_kind_that_is_not_read_is_named(tags, name):
    data = tiff(grey(4, 4, 8) | tags, bytes(64))
    with pytest.raises(UndecodableImage, match=f"with .*{name}.* is not read"):
        decode_image(data, max_pixels=10_000)


@pytest.mark.parametrize(
    "tags", [{BITS: (SHORT, [16])}, {SAMPLES: (SHORT, [3]), PLANAR: (SHORT, [2])}]
)
def test_what_the_samples_stand_for_is_not_guessed(tags):
    tags = {tag: value for tag, value in grey(4, 4, 8).items() if tag != PHOTOMETRIC} | tags
    with pytest.raises(UndecodableImage, match="no PhotometricInterpretation"):
        decode_image(tiff(tags, bytes(64)), max_pixels=10_000)


@pytest.mark.parametrize("tags", [{}, THUMBNAIL, OTHERS])
def test_a_thumbnail_of_nothing_is_a_picture(tags, our_reading):
    assert our_reading(tiff(grey(4, 4, 8) | tags, bytes(range(16))))[3, 3].tolist() == [15] * 3


def test_strips_or_tiles_that_are_missing_are_refused():
    tags = grey(4, 8, 8) | {ROWS_PER_STRIP: (LONG, [4]), STRIP_BYTES: (LONG, [16])}
    with pytest.raises(UndecodableImage, match="lacks strips"):
        decode_image(tiff(tags, bytes(64)), max_pixels=10_000)
    for tag in (STRIPS, STRIP_BYTES, ROWS_PER_STRIP):
        tags.pop(tag)
    with pytest.raises(UndecodableImage, match="neither strips nor tiles"):
        decode_image(tiff(tags, bytes(64)), max_pixels=10_000)


def test_only_the_first_page_is_read(photo, save, our_reading):
    data = save(photo, "TIFF", save_all=True, append_images=[photo.rotate(90)] * 3)
    np.testing.assert_array_equal(our_reading(data), np.asarray(photo))


@pytest.mark.parametrize(("offsets", "lengths"), [(TILES, TILE_BYTES), (STRIPS, STRIP_BYTES)])
def test_tiles_are_read(offsets, lengths, our_reading):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 48), dtype=np.uint8)
    tiles = [
        pixels[y : y + 16, x : x + 16].tobytes() for y in range(0, 32, 16) for x in range(0, 48, 16)
    ]
    tags = {tag: value for tag, value in grey(48, 32, 8).items() if tag not in {273, 278, 279}} | {
        TILE_WIDTH: (SHORT, [16]),
        TILE_LENGTH: (SHORT, [16]),
        offsets: (LONG, [8 + 256 * index for index in range(6)]),
        lengths: (LONG, [256] * 6),
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
