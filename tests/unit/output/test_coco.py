import base64
import json
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from service.datatypes import Map, region_of
from service.output.chunks import join
from service.output.coco import write_results, write_runs
from service.output.figures import Figure, choose_figures
from tests.unit.output.scenes import SIZE_HW, make_prediction

PREDICTION = make_prediction()


def decode_runs(text):
    """cocoapi, common/maskApi.c: rleFrString."""
    counts, position = [], 0
    while position < len(text):
        value, shift, is_more = 0, 0, True
        while is_more:
            bits = ord(text[position]) - 48
            value |= (bits & 31) << shift
            is_more = bool(bits & 32)
            position, shift = position + 1, shift + 5
            if not is_more and bits & 16:
                value |= -1 << shift
        if len(counts) > 2:
            value += counts[-2]
        counts.append(value)
    return counts


def fill_runs(counts, size_hw):
    flat = np.repeat(np.arange(len(counts)) % 2, counts)
    return flat.reshape(size_hw[::-1]).T


def runs(mask, region, size_hw):
    instance = replace(PREDICTION.instances[0], region_xywh=region, maps={"mask": Map(mask)})
    return join(write_runs(instance, size_hw)).decode()


def results():
    figures = choose_figures(PREDICTION.instances, "all", is_best_on_top=False)
    return json.loads(join(write_results(figures, SIZE_HW, 785)))


def test_a_result_has_what_the_challenge_names():
    for result, instance in zip(results(), PREDICTION.instances, strict=True):
        assert result["image_id"] == 785
        assert result["category_id"] == 1
        assert result["score"] == instance.score
        x, y, width, height = result["bbox"]
        assert (int(x), int(y), max(int(width), 1), max(int(height), 1)) == instance.region_xywh
        assert region_of(instance.box_xyxy) == instance.region_xywh
        assert result["uv_shape"] == [3, *instance.maps["labels"].samples.shape]


def test_the_text_decodes_to_the_iuv_crop():
    for result, instance in zip(results(), PREDICTION.instances, strict=True):
        with Image.open(BytesIO(base64.b64decode(result["uv_data"], validate=True))) as png:
            assert png.mode == "RGB"
            np.testing.assert_array_equal(np.asarray(png), instance.maps["iuv"].samples)


def test_the_runs_decode_to_the_mask():
    for result, instance in zip(results(), PREDICTION.instances, strict=True):
        assert result["segmentation"]["size"] == [*SIZE_HW]
        mask = fill_runs(decode_runs(result["segmentation"]["counts"]), SIZE_HW)
        expected = np.zeros(SIZE_HW, bool)
        x, y, width, height = instance.region_xywh
        expected[y : y + height, x : x + width] = instance.maps["mask"].samples > 0
        np.testing.assert_array_equal(mask, expected)


def test_a_model_without_charts_has_masks_alone():
    instance = PREDICTION.instances[0]
    vague = replace(instance, class_id=None, maps={"mask": instance.maps["mask"]})
    (result,) = json.loads(join(write_results([Figure(1, vague)], SIZE_HW, 0)))
    assert set(result) == {"image_id", "category_id", "bbox", "score", "segmentation"}
    assert result["category_id"] is None


# What pycocotools 2.0.11 gives.
@pytest.mark.parametrize(
    ("size_hw", "regions", "text"),
    [
        ((480, 640), [(50, 100, 150, 200)], "Tag0X6h8" + "0" * 297 + "lT^6"),
        ((7, 9), [(2, 1, 3, 5), (8, 0, 1, 7)], "?52MO013d02"),
        ((23, 11), [(0, 0, 11, 23)], "0m7"),
        ((4, 4), [], "`0"),
    ],
)
def test_the_runs_are_written_as_pycocotools_writes_them(size_hw, regions, text):
    mask = np.zeros(size_hw, np.uint8)
    for x, y, width, height in regions:
        mask[y : y + height, x : x + width] = 255
    if size_hw == (7, 9):
        mask[3, 3] = 0
    whole = (0, 0, size_hw[1], size_hw[0])
    assert runs(mask, whole, size_hw) == text


@pytest.mark.parametrize("max_pixels", [1, 7, 50, 10**6])
@pytest.mark.parametrize("seed", range(20))
def test_any_mask_anywhere_comes_back(seed, max_pixels, monkeypatch):
    random = np.random.default_rng(seed)
    height, width = size_hw = tuple(random.integers(1, 30, 2).tolist())
    x, y = int(random.integers(0, width)), int(random.integers(0, height))
    w, h = int(random.integers(1, width - x + 1)), int(random.integers(1, height - y + 1))
    mask = (random.random((h, w)) < random.choice([0, 0.1, 0.9, 1])).astype(np.uint8) * 255
    monkeypatch.setattr("service.output.canvas.MAX_PIXELS", max_pixels)
    counts = decode_runs(runs(mask, (x, y, w, h), size_hw))
    assert min(counts[1:], default=1) > 0
    expected = np.zeros(size_hw, bool)
    expected[y : y + h, x : x + w] = mask > 0
    np.testing.assert_array_equal(fill_runs(counts, size_hw), expected)
