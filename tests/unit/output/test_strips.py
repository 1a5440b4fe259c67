import numpy as np
import pytest

from service.datatypes import Instance, Map
from service.output.strips import column_strips_of, mask_of, strips_of
from tests.unit.output.scenes import BOXES, make_instance


@pytest.mark.parametrize("max_pixels", [1, 7, 100, 10**6])
@pytest.mark.parametrize("cut", [strips_of, column_strips_of])
def test_strips_make_up_the_instance_and_are_views(cut, max_pixels, monkeypatch):
    monkeypatch.setattr("service.output.strips.MAX_PIXELS", max_pixels)
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
