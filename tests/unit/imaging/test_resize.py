import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PillowImage

from service.datatypes import Image
from service.errors import InvalidParameter
from service.imaging.resize import resize_image, resized_size_hw

SIDES = st.integers(1, 20_000)


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
    monkeypatch.setattr("service.imaging.resize.LARGE_PIXELS", large_pixels)
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
