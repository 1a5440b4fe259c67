from collections.abc import Mapping

import numpy as np
import pytest

from service.datatypes import Instance, Map, Output, Prediction, RegionXYWH
from service.output.canvas import Grid, column_strips_of, mask_of, paint_maps, strips_of
from tests.unit.output.scenes import BOXES, make_instance

RANDOM = np.random.default_rng(0)
SIZE_HW = (12, 16)


def instance(region: RegionXYWH, maps: Mapping[str, Map]) -> Instance:
    x, y, width, height = region
    return Instance(0.9, 0, (x, y, x + width, y + height), region, maps=maps)


def random_instance(region: RegionXYWH, *, scale: float = 0.5) -> Instance:
    """One with every output that can be painted, about half of its region body."""
    size_hw = region[3], region[2]
    mask = RANDOM.integers(0, 2, size_hw, dtype=np.uint8) * 255
    body = mask > 0
    labels = RANDOM.integers(1, 25, size_hw, dtype=np.uint8) * body
    words = RANDOM.integers(1, 65536, (*size_hw, 3), dtype=np.uint16) * body[..., None]
    maps = {
        "iuv": Map((words >> 8).astype(np.uint8)),
        "iuv16": Map(words.astype(np.uint16)),
        "labels": Map(labels),
        "coarse": Map(labels % 15),
        "mask": Map(mask),
        "confidence.sigma_2": Map(words[..., 0].astype(np.uint16), scale, -1.0),
        "confidence.u_std": Map(words[..., 1].astype(np.uint16), scale, 0.0),
        "vertices": Map(words[..., 2].astype(np.uint16)),
        "vertex_colours": Map((words >> 8).astype(np.uint8)),
        "uv": Map(words[..., 1:].transpose(2, 0, 1).astype(np.float32)),
    }
    return instance(region, maps)


ALL = frozenset(Output) - {Output.EMBEDDING, Output.TEXTURE}


def paint_pixel_by_pixel(prediction: Prediction, name: str) -> np.ndarray:
    like = last_channels(name, prediction.instances[0])
    canvas = np.zeros((*prediction.image_size_hw, *like.shape[2:]), like.dtype)
    for painted in prediction.instances:
        left, top, width, height = painted.region_xywh
        for y in range(height):
            for x in range(width):
                inside = 0 <= top + y < canvas.shape[0] and 0 <= left + x < canvas.shape[1]
                if inside and painted.maps["mask"].samples[y, x]:
                    canvas[top + y, left + x] = last_channels(name, painted)[y, x]
    return canvas.transpose(2, 0, 1) if name == "uv" else canvas


def last_channels(name: str, painted: Instance) -> np.ndarray:
    samples = painted.maps[name].samples
    return samples.transpose(1, 2, 0) if name == "uv" else samples


@pytest.mark.parametrize(
    "regions",
    [
        [(2, 3, 7, 5)],
        [(2, 3, 7, 5), (4, 1, 6, 9), (0, 0, 16, 12)],
        [(0, 0, 16, 12), (15, 11, 1, 1), (0, 0, 1, 1)],
        [(-3, -2, 8, 7), (10, 8, 20, 20), (-5, -5, 40, 40)],
        [(3, 3, 4, 4), (16, 0, 3, 3), (0, 12, 3, 3), (-3, 2, 3, 3), (100, 100, 2, 2)],
    ],
    ids=["alone", "overlapping", "at the corners", "sticking out", "outside"],
)
def test_every_output_is_painted_where_the_masks_are_and_the_later_wins(regions):
    prediction = Prediction(SIZE_HW, tuple(random_instance(region) for region in regions))
    painted = paint_maps(prediction, ALL)
    assert painted.keys() == prediction.instances[0].maps.keys()
    for name, canvas in painted.items():
        expected = paint_pixel_by_pixel(prediction, name)
        assert canvas.samples.dtype == expected.dtype
        np.testing.assert_array_equal(canvas.samples, expected, err_msg=name)


def test_a_later_instance_leaves_what_its_own_mask_leaves():
    on, off = np.full((2, 2), 255, np.uint8), np.array([[255, 0], [0, 0]], np.uint8)
    below = instance((0, 0, 2, 2), {"mask": Map(on), "labels": Map(np.full((2, 2), 7, np.uint8))})
    above = instance((0, 0, 2, 2), {"mask": Map(off), "labels": Map(np.full((2, 2), 9, np.uint8))})
    painted = paint_maps(Prediction((2, 2), (below, above)), {Output.LABELS})
    assert painted["labels"].samples.tolist() == [[9, 7], [7, 7]]


def test_only_what_is_asked_for_is_painted():
    prediction = Prediction(SIZE_HW, (random_instance((2, 3, 7, 5)),))
    assert paint_maps(prediction, {Output.IUV}).keys() == {"iuv"}
    assert paint_maps(prediction, [Output.MASK]).keys() == {"mask"}
    assert paint_maps(prediction, ()) == {}
    confidences = paint_maps(prediction, {Output.CONFIDENCE})
    assert confidences.keys() == {"confidence.sigma_2", "confidence.u_std"}


def test_nobody_gives_empty_canvases_of_the_image_s_size():
    painted = paint_maps(Prediction(SIZE_HW, ()), ALL)
    one_channel = {"labels", "coarse", "mask", "vertices"}
    assert painted.keys() == {"iuv", "iuv16", "uv", "vertex_colours"} | one_channel
    assert painted["uv"].samples.shape == (2, *SIZE_HW)
    for name in painted.keys() - {"uv"}:
        canvas = painted[name]
        assert canvas.samples.shape[:2] == SIZE_HW
        assert not canvas.samples.any()
    assert painted["iuv"].samples.shape == (*SIZE_HW, 3)
    assert painted["iuv"].samples.dtype == painted["labels"].samples.dtype == np.uint8
    assert painted["iuv16"].samples.dtype == painted["vertices"].samples.dtype == np.uint16


def test_confidences_keep_the_range_that_the_instances_share():
    instances = (random_instance((0, 0, 4, 4)), random_instance((4, 4, 4, 4)))
    painted = paint_maps(Prediction(SIZE_HW, instances), {Output.CONFIDENCE})
    sigma_2 = painted["confidence.sigma_2"]
    assert (sigma_2.scale, sigma_2.offset) == (0.5, -1.0)


def test_confidences_of_different_ranges_cannot_be_one_map():
    instances = (random_instance((0, 0, 4, 4)), random_instance((4, 4, 4, 4), scale=0.25))
    with pytest.raises(ValueError, match=r"ranges of confidence\.sigma_2 differ"):
        paint_maps(Prediction(SIZE_HW, instances), {Output.CONFIDENCE})


def test_the_instances_maps_stay_as_they_are():
    painted_on = random_instance((0, 0, 4, 4))
    before = {name: map_.samples.copy() for name, map_ in painted_on.maps.items()}
    for map_ in painted_on.maps.values():
        map_.samples.flags.writeable = False
    paint_maps(Prediction(SIZE_HW, (painted_on, random_instance((1, 1, 4, 4)))), ALL)
    for name, samples in before.items():
        np.testing.assert_array_equal(painted_on.maps[name].samples, samples)


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


@pytest.mark.parametrize("max_pixels", [1, 7, 100, 10**6])
@pytest.mark.parametrize("cut", [strips_of, column_strips_of])
def test_strips_make_up_the_instance_and_are_views(cut, max_pixels, monkeypatch):
    monkeypatch.setattr("service.output.canvas.MAX_PIXELS", max_pixels)
    whole = make_instance(BOXES[0], 1)
    x, y, width, height = whole.region_xywh
    put_together = {name: np.zeros_like(map_.samples) for name, map_ in whole.maps.items()}
    num_pixels = 0
    for strip in cut(whole):
        left, top, w, h = strip.region_xywh
        assert w * h <= max_pixels
        num_pixels += w * h
        for name, map_ in strip.maps.items():
            assert np.shares_memory(map_.samples, whole.maps[name].samples)
            here = (slice(top - y, top - y + h), slice(left - x, left - x + w))
            put_together[name][(slice(None), *here) if name in {"uv", "raw_uv"} else here] = (
                map_.samples
            )
    assert num_pixels == width * height
    for name, samples in put_together.items():
        np.testing.assert_array_equal(samples, whole.maps[name].samples)


@pytest.mark.parametrize("name", ["mask", "labels", "iuv", "vertices"])
def test_the_mask_is_what_any_map_tells(name):
    whole = make_instance(BOXES[0], 1)
    alone = Instance(0.5, 0, whole.box_xyxy, whole.region_xywh, maps={name: whole.maps[name]})
    np.testing.assert_array_equal(mask_of(alone), whole.maps["mask"].samples)


def test_floats_alone_tell_no_mask():
    whole = make_instance(BOXES[0], 1)
    alone = Instance(0.5, 0, whole.box_xyxy, whole.region_xywh, maps={"uv": Map(np.zeros(1))})
    with pytest.raises(ValueError, match="No map"):
        mask_of(alone)
