import numpy as np
import pytest

from service.output.placement import Grid

IMAGE_SIZE_HW = (12, 16)
REGIONS = [
    (2, 3, 7, 5),
    (0, 0, 16, 12),
    (15, 11, 1, 1),
    (-3, -2, 8, 7),
    (10, 8, 20, 20),
    (16, 0, 3, 3),
    (-3, 2, 3, 3),
]


@pytest.mark.parametrize("size_hw", [(12, 16), (24, 32), (5, 7), (1, 1), (13, 300), (12, 8)])
@pytest.mark.parametrize("region", REGIONS)
def test_a_pixel_shows_the_image_s_pixel_under_its_centre(region, size_hw):
    left, top, width, height = region
    samples = np.arange(1, height * width + 1).reshape(height, width)
    picture = np.zeros(size_hw, np.int64)
    place = Grid(IMAGE_SIZE_HW, size_hw).place(region)
    picture[place.rows, place.columns] = place.take(samples)
    for row, column in np.ndindex(size_hw):
        y = int((row + 0.5) * IMAGE_SIZE_HW[0] / size_hw[0]) - top
        x = int((column + 0.5) * IMAGE_SIZE_HW[1] / size_hw[1]) - left
        is_inside = 0 <= x < width and 0 <= y < height
        assert picture[row, column] == (samples[y, x] if is_inside else 0)


def test_at_the_image_s_size_nothing_is_copied():
    samples = np.zeros((5, 7))
    place = Grid(IMAGE_SIZE_HW, IMAGE_SIZE_HW).place((2, 3, 7, 5))
    assert place.take(samples).base is samples


@pytest.mark.parametrize("size_hw", [(12, 16), (30, 9)])
def test_only_what_the_mask_lets_through_is_painted(size_hw):
    mask = np.random.default_rng(0).integers(0, 2, (12, 16)).astype(np.uint8) * 255
    samples = np.full((12, 16), 7, np.uint8)
    picture, shown = np.zeros(size_hw, np.uint8), np.zeros(size_hw, np.uint8)
    place = Grid(IMAGE_SIZE_HW, size_hw).place((0, 0, 16, 12))
    place.paint(picture, samples, mask)
    shown[place.rows, place.columns] = place.take(mask)
    assert np.array_equal(picture, (shown > 0) * np.uint8(7))
