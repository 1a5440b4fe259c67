import json
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from service.datatypes import Prediction
from service.output.drawing import Scenery, draw
from service.output.preset_table import PRESETS
from service.output.renders import write_render
from tests.unit.output.scenes import (
    SIZE_HW,
    make_atlas,
    make_photo,
    make_prediction,
    style,
)

PREDICTION = make_prediction()
SCENERY = Scenery(make_photo(), make_atlas())


def write(name, prediction=PREDICTION, **changes):
    return write_render(style(name, **changes), prediction, SCENERY, model="demo")


def of_type(media_type):
    return [name for name, preset in PRESETS.items() if preset.media_type == media_type]


@pytest.mark.parametrize("name", PRESETS)
def test_a_render_is_a_file_of_its_type_and_size_whoever_is_in_the_image(name):
    for prediction in (PREDICTION, Prediction(SIZE_HW, ())):
        file = write(name, prediction)
        assert file.name == "render"
        assert file.media_type == PRESETS[name].media_type
        assert (file.height, file.width) == SIZE_HW
        assert file.data


@pytest.mark.parametrize("name", of_type("image/png"))
def test_a_png_has_the_samples_and_says_what_it_is(name):
    with Image.open(BytesIO(write(name).data)) as png:
        samples, text = np.asarray(png), png.text
    np.testing.assert_array_equal(samples, draw(style(name), PREDICTION, SCENERY))
    assert text["output"] == f"render {name}"
    assert text["model"] == "demo"
    assert text["channels"] == ",".join(PRESETS[name].channels)
    assert text["region"] == "0,0,60,40"
    assert text["score"] == "0.9,0.8,0.7,0.6"


def test_a_transparent_png_has_alpha():
    file = write("viton", background="transparent", size_wh=(30, 50))
    with Image.open(BytesIO(file.data)) as png:
        assert png.mode == "RGBA"
        assert png.size == (30, 50)
        assert png.text["channels"] == "R,G,B,opacity"
    assert (file.width, file.height) == (30, 50)


def test_labels_as_npy_are_what_the_picture_shows():
    labels = np.load(BytesIO(write("labels-npy").data), allow_pickle=False)
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, draw(style("labels"), PREDICTION, SCENERY))
    small = np.load(BytesIO(write("labels-npy", size_wh=(192, 256)).data))
    assert small.shape == (256, 192)


def test_u_and_v_are_under_the_name_that_their_readers_know():
    with np.load(BytesIO(write("uv-npz").data), allow_pickle=False) as file:
        assert set(file) == {"uv"}
        in_npz = file["uv"]
    in_npy = np.load(BytesIO(write("uv-npy").data), allow_pickle=False)
    assert (in_npz.dtype, in_npy.dtype) == (np.float32, np.float64)
    assert in_npz.shape == (2, *SIZE_HW)
    assert in_npy.shape == in_npz.shape


def test_coco_s_results_are_a_list_in_json():
    results = json.loads(write("coco-json", image_id=42).data)
    assert [result["image_id"] for result in results] == [42] * 4
    assert len(json.loads(write("coco-json", people="best").data)) == 1
    assert json.loads(write("coco-json", Prediction(SIZE_HW, ())).data) == []


def test_the_dump_has_those_who_were_chosen():
    with np.load(BytesIO(write("dump-npz", people=1).data), allow_pickle=False) as arrays:
        assert arrays["0.scores"].tolist() == [np.float32(0.8)]
        labels = PREDICTION.instances[1].maps["labels"].samples
        np.testing.assert_array_equal(arrays["0.pred_densepose.0.labels"], labels)
