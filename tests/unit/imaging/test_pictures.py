from io import BytesIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PillowImage

from service.datatypes import Image
from service.errors import ImageTooLarge, InvalidParameter, UndecodableImage
from service.imaging.pictures import Wanted, open_pictures, resize_image, resized_size_hw

SIDES = st.integers(1, 20_000)
RGBA = np.random.default_rng(0).integers(0, 256, (6, 4, 4), dtype=np.uint8)


def detectron2_output_shape(oldh, oldw, short_edge_length, max_size):
    """detectron2/data/transforms/augmentation_impl.py: ResizeShortestEdge.get_output_shape"""
    h, w = oldh, oldw
    size = short_edge_length * 1.0
    scale = size / min(h, w)
    if h < w:
        newh, neww = size, scale * w
    else:
        newh, neww = scale * h, size
    if max(newh, neww) > max_size:
        scale = max_size * 1.0 / max(newh, neww)
        newh = newh * scale
        neww = neww * scale
    neww = int(neww + 0.5)
    newh = int(newh + 0.5)
    return (newh, neww)


@given(SIDES, SIDES, st.integers(128, 1333), st.floats(1, 3))
def test_the_size_is_detectron2_s_to_the_last_pixel(height, width, short_side, ratio):
    long_side = round(short_side * ratio)
    expected = detectron2_output_shape(height, width, short_side, long_side)
    if 0 in expected:
        with pytest.raises(InvalidParameter):
            resized_size_hw((height, width), short_side=short_side, long_side=long_side)
    else:
        size = resized_size_hw((height, width), short_side=short_side, long_side=long_side)
        assert size == expected


@pytest.mark.parametrize(
    ("size_hw", "resized_hw"),
    [
        ((480, 640), (800, 1067)),
        ((640, 480), (1067, 800)),
        ((600, 600), (800, 800)),
        ((1, 1), (800, 800)),
        ((10, 20_000), (1, 1333)),
    ],
)
def test_the_short_side_is_met_unless_the_long_one_would_be_too_long(size_hw, resized_hw):
    assert resized_size_hw(size_hw, short_side=800, long_side=1333) == resized_hw


def test_a_side_that_would_vanish_is_an_invalid_parameter_and_says_so():
    with pytest.raises(InvalidParameter, match=r"short_side.*20000 x 3.*1333 x 0"):
        resized_size_hw((3, 20_000), short_side=800, long_side=1333)


@pytest.mark.parametrize("large_pixels", [0, 10**9])
@pytest.mark.parametrize("size_hw", [(37, 53), (480, 640), (1200, 900), (10, 2000), (1, 1)])
def test_pixels_are_bit_equal_with_pillow_s_bilinear_resize(size_hw, large_pixels, monkeypatch):
    monkeypatch.setattr("service.imaging.pictures.LARGE_PIXELS", large_pixels)
    pixels = np.random.default_rng(0).integers(0, 256, (*size_hw, 3), dtype=np.uint8)
    resized = resize_image(Image(pixels), short_side=320, long_side=533)
    height, width = detectron2_output_shape(*size_hw, 320, 533)
    bilinear = PillowImage.Resampling.BILINEAR
    expected = np.asarray(PillowImage.fromarray(pixels).resize((width, height), bilinear))
    np.testing.assert_array_equal(resized, expected)
    assert resized.dtype == np.uint8
    assert resized.flags.c_contiguous
    assert resized.flags.writeable


def test_an_image_that_has_the_size_already_is_not_copied():
    image = Image(np.zeros((320, 400, 3), np.uint8))
    assert resize_image(image, short_side=320, long_side=533) is image.pixels_HW3


def encode(pixels, file_format="PNG", **options):
    file = BytesIO()
    PillowImage.fromarray(pixels).save(file, file_format, **options)
    return file.getvalue()


def decoded(data):
    """The atlas, sent beside an image."""
    image = encode(RGBA[..., :3])
    wanted = Wanted(max_pixels=100, short_side=10, long_side=20, is_photo_kept=False)
    return open_pictures(image, data, max_pixels=100).read(wanted).atlas


def test_an_atlas_s_alpha_stays_and_channels_are_red_green_blue():
    np.testing.assert_array_equal(decoded(encode(RGBA)), RGBA)
    np.testing.assert_array_equal(decoded(encode(RGBA[..., :3])), RGBA[..., :3])


def test_a_grey_atlas_with_alpha_keeps_it_too():
    atlas = decoded(encode(RGBA[..., :2]))
    np.testing.assert_array_equal(atlas, RGBA[..., [0, 0, 0, 1]])


def test_atlases_of_other_formats_have_no_alpha():
    assert decoded(encode(RGBA[..., :3], "JPEG")).shape == (6, 4, 3)


def test_an_atlas_that_is_turned_is_turned_with_its_alpha():
    exif = PillowImage.Exif()
    exif[0x0112] = 3
    atlas = decoded(encode(RGBA, exif=exif))
    np.testing.assert_array_equal(atlas, RGBA[::-1, ::-1])


def test_an_atlas_of_hostile_bytes_is_refused_as_everywhere():
    with pytest.raises(ImageTooLarge, match=r"^atlas: "):
        decoded(encode(np.zeros((5100, 5000), np.uint8)))
    for data in (b"", b"atlas", encode(RGBA)[:60]):
        with pytest.raises(UndecodableImage, match=r"^atlas: "):
            decoded(data)
