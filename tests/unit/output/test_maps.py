import base64
import json
from collections import deque
from io import BytesIO

import cv2
import numpy as np
import pytest
from PIL import Image

from service.datatypes import Map, Output, Prediction
from service.output.chunks import base64_of, join
from service.output.drawing import Scenery, draw
from service.output.maps import EncodedMap, encode_map, write_render
from service.output.presets import PRESETS
from tests.unit.output.scenes import (
    SIZE_HW,
    make_atlas,
    make_photo,
    make_prediction,
    style,
)

REGION = (10, 20, 5, 7)
RANDOM = np.random.default_rng(0)
COLOUR8 = RANDOM.integers(0, 256, (7, 5, 3), dtype=np.uint8)
COLOUR16 = RANDOM.integers(0, 65536, (7, 5, 3), dtype=np.uint16)
GREY8 = RANDOM.integers(0, 25, (7, 5), dtype=np.uint8)
GREY16 = RANDOM.integers(0, 65536, (7, 5), dtype=np.uint16)

MAPS = {
    "iuv": Map(COLOUR8),
    "iuv16": Map(COLOUR16),
    "labels": Map(GREY8),
    "coarse": Map(GREY8),
    "mask": Map((GREY8 > 5).astype(np.uint8) * 255),
    "confidence.sigma_2": Map(GREY16, scale=0.1 / 3, offset=-1.5),
    "vertices": Map(GREY16),
    "vertex_colours": Map(COLOUR8),
    "texture": Map(np.dstack((COLOUR8, GREY8))),
}


def encode(name: str, map_: Map) -> EncodedMap:
    return encode_map(name, map_, model="R_50_FPN_s1x", region_xywh=REGION, scores=(0.98765432,))


def text_of(encoded: EncodedMap) -> dict[str, str]:
    with Image.open(BytesIO(encoded.data)) as picture:
        return dict(picture.text)


@pytest.mark.parametrize("name", MAPS)
def test_every_map_comes_back_from_its_png(name):
    encoded = encode(name, MAPS[name])
    samples = cv2.imdecode(np.frombuffer(encoded.data, np.uint8), cv2.IMREAD_UNCHANGED)
    if samples.ndim == 3:
        samples = samples[..., [2, 1, 0, 3][: samples.shape[2]]]
    np.testing.assert_array_equal(samples, MAPS[name].samples)
    assert samples.dtype == MAPS[name].samples.dtype
    assert (encoded.name, encoded.media_type) == (name, "image/png")
    assert (encoded.width, encoded.height) == (5, 7)


def test_quantized_values_are_recovered_from_what_the_file_says():
    values = np.linspace(-1.5, 0.7, 35).reshape(7, 5)
    scale, offset = (0.7 + 1.5) / 65535, -1.5
    samples = np.round((values - offset) / scale).astype(np.uint16)
    encoded = encode("confidence.kappa_u", Map(samples, scale, offset))
    text = text_of(encoded)
    assert (encoded.scale, encoded.offset) == (scale, offset)
    assert (float(text["scale"]), float(text["offset"])) == (scale, offset)
    with Image.open(BytesIO(encoded.data)) as picture:
        read = float(text["offset"]) + float(text["scale"]) * np.asarray(picture)
    np.testing.assert_allclose(read, values, atol=scale / 2 * 1.001)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("embedding", np.float16), ("coarse_logits", np.float16), ("uv", np.float32)],
)
def test_floats_come_back_from_their_npy_file(name, dtype):
    samples = RANDOM.normal(size=(16, 112, 112)).astype(dtype)
    encoded = encode(name, Map(samples))
    assert encoded.media_type == "application/x-npy"
    assert (encoded.width, encoded.height) == (112, 112)
    read = np.load(BytesIO(encoded.data), allow_pickle=False)
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, samples)


def test_a_png_says_what_it_is():
    assert text_of(encode("iuv", MAPS["iuv"])) == {
        "Software": "densepose-serving",
        "model": "R_50_FPN_s1x",
        "output": "iuv",
        "channels": "I,U,V",
        "region": "10,20,5,7",
        "score": "0.987654",
    }


def test_a_map_of_all_instances_has_the_scores_of_all():
    for scores, text in (((0.9, 0.5), "0.9,0.5"), ((), "")):
        encoded = encode_map(
            "mask", MAPS["mask"], model="demo", region_xywh=(0, 0, 5, 7), scores=scores
        )
        assert text_of(encoded)["score"] == text


def test_the_channels_of_every_output_that_can_be_a_png_are_told():
    for output in set(Output) - {Output.EMBEDDING, Output.UV}:
        name = "confidence.u_std" if output is Output.CONFIDENCE else output.value
        assert text_of(encode(name, MAPS["labels"]))["channels"]
    assert text_of(encode("confidence.u_std", MAPS["labels"]))["channels"] == "u_std"


def test_base64_is_the_standard_alphabet_s():
    data = bytes(range(256)) + b"\xfb\xff\xfe"
    letters = join(base64_of(deque([data])))
    assert letters == base64.b64encode(data)
    assert set(b"+/") <= set(letters)


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
