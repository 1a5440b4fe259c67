import io
import json
import zipfile
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from service.client.arrays import read_members
from service.client.errors import UnreadableAnswer
from service.output.archives import write_npy, write_npz, write_zip
from service.output.drawing import Scenery, draw
from service.output.dump import describe_image, flatten_entries
from service.output.media import COCO
from service.output.png import encode_png
from service.output.presets import PRESETS, find_tools
from service.pipeline.parameters import check_parameters
from service.pipeline.styling import style_with
from service.predict.files import Job
from service.predict.options import NAMINGS
from service.predict.recipes import (
    DATA_SETS,
    densepose_1,
    dresscode,
    dump,
    for_tool,
    plain,
    viton_hd,
)
from tests.unit.output.scenes import make_prediction

JOB = Job("x.jpg", "x.jpg")
RESULT = json.dumps({"model": "demo", "timing_ms": {"total": 12.5}}).encode()
IUV = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)


def pixels(file: bytes):
    """R, G, B, or grey."""
    read = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_UNCHANGED)
    return read[..., ::-1] if read.ndim == 3 else read


def test_every_naming_of_the_command_line_is_there():
    assert ("plain", *DATA_SETS) == NAMINGS


@pytest.mark.parametrize(
    ("recipe", "place", "places"),
    [
        (plain({}, "picture"), "a/b.c.jpg", ("a/b.c.png",)),
        (plain({}, "picture"), ".jpg", (".jpg.png",)),
        (plain({}, "picture"), "a.d/name", ("a.d/name.png",)),
        (plain({"render": "labels-npy"}, "picture"), "x.jpg", ("x.npy",)),
        (plain({"render": "uv-npz"}, "picture"), "x.jpg", ("x.npz",)),
        (plain({"render": "coco-json"}, "picture"), "x.jpg", ("x.json",)),
        (plain({}, "npz"), "x.jpg", ("x.npz",)),
        (plain({}, "files"), "a/x.jpg", ("a/x.maps",)),
        (viton_hd({}), "00000_00.jpg", ("image-densepose/00000_00.jpg",)),
        (viton_hd({}), "train/image/1.png", ("train/image-densepose/1.jpg",)),
        (viton_hd({}), "image/1.jpg", ("image-densepose/1.jpg",)),
        (viton_hd({}), "train/cloth/1.jpg", None),
        (viton_hd({}), "train/image-densepose/1.jpg", None),
        (
            dresscode({}),
            "upper_body/images/013563_0.jpg",
            ("upper_body/dense/013563_5_uv.npz", "upper_body/dense/013563_5.png"),
        ),
        (dresscode({}), "013563_0.jpg", ("dense/013563_5_uv.npz", "dense/013563_5.png")),
        (dresscode({}), "images/013563_1.jpg", None),
        (dresscode({}), "skeletons/013563_5.jpg", None),
        (dresscode({}), "person.jpg", ("dense/person_5_uv.npz", "dense/person_5.png")),
        (densepose_1({}), "a/demo_im.jpg", ("a/demo_im_INDS.png", "a/demo_im_IUV.png")),
    ],
)
def test_results_are_called_as_their_readers_expect(recipe, place, places):
    assert recipe.places(place) == places


@pytest.mark.parametrize(
    ("naming", "min_score"), [("viton-hd", "0.8"), ("dresscode", "0.8"), ("dp1", "0.65")]
)
def test_a_data_set_s_score_is_that_of_its_tools_unless_another_is_wished(naming, min_score):
    assert DATA_SETS[naming]({}).wishes["min_score"] == min_score
    assert DATA_SETS[naming]({"min_score": "0.1"}).wishes["min_score"] == "0.1"


def test_a_picture_is_kept_as_it_is():
    assert plain({}, "picture").contents(b"png", "x.jpg") == (b"png",)


def test_what_differs_from_answer_to_answer_is_not_kept():
    archive = write_zip({"result.json": RESULT, "0.iuv.png": b"iuv"})
    (files,) = plain({}, "files").contents(archive, "x.jpg")
    assert files == {"result.json": b'{"model": "demo"}', "0.iuv.png": b"iuv"}
    arrays = write_npz({"result": np.array(RESULT.decode()), "0.iuv": IUV})
    (kept,) = plain({}, "npz").contents(arrays, "x.jpg")
    assert kept == write_npz({"result": np.array('{"model": "demo"}'), "0.iuv": IUV})


@pytest.mark.parametrize(
    "name", ["../x.png", "/etc/x", "a/b.png", "..", "x", ".hidden", "a\\b.png", "a.png\n", ""]
)
def test_a_hostile_archive_writes_nowhere_else(name):
    archive = write_zip({"result.json": RESULT, name: b"evil"})
    with pytest.raises(UnreadableAnswer):
        plain({}, "files").contents(archive, "x.jpg")


def damaged() -> bytes:
    """An archive whose one file cannot be unpacked, though its list of files is sound."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as writing:
        writing.writestr("result.json", RESULT * 100)
    data = bytearray(archive.getvalue())
    begin = 30 + len("result.json")
    data[begin : begin + 8] = b"\xff" * 8
    return bytes(data)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"rubbish",
        damaged(),
        write_zip({}),
        write_zip({"result.json": b"[]"}),
        write_zip({"result.json": b"["}),
    ],
)
@pytest.mark.parametrize(
    "recipe", [plain({}, "files"), plain({}, "npz"), dresscode({}), densepose_1({}), dump({})]
)
def test_what_is_no_answer_is_an_error_of_ours(recipe, answer):
    with pytest.raises(UnreadableAnswer):
        recipe.contents(answer, JOB)


@pytest.mark.parametrize("answer", [b"", b"{", b"{}", b"[1]", b"[" * 100_000, b"\xff"])
def test_what_are_no_results_of_coco_is_an_error_of_ours(answer):
    preset = next(name for name, one in PRESETS.items() if one.media_type == COCO)
    with pytest.raises(UnreadableAnswer):
        plain({"render": preset}, "picture").contents(answer, JOB)


def test_viton_hd_has_jpegs_near_the_colours_of_the_labels():
    drawn = np.zeros((64, 64, 3), np.uint8)
    drawn[16:48, 16:48] = (53, 42, 135)
    (file,) = viton_hd({}).contents(encode_png(drawn, {}), JOB)
    assert file.startswith(b"\xff\xd8\xff")
    difference = np.abs(pixels(file).astype(int) - drawn)
    assert difference.max() < 40
    assert difference.mean() < 2
    with pytest.raises(UnreadableAnswer):
        viton_hd({}).contents(b"<html>", JOB)


def test_dress_code_has_labels_and_coordinates():
    uv = np.random.default_rng(0).random((2, 4, 5), np.float32)
    labels = encode_png(IUV[..., 0].copy(), {})
    answer = write_zip({"image.uv.npy": write_npy(uv), "image.labels.png": labels})
    uv_file, labels_file = dresscode({}).contents(answer, JOB)
    assert uv_file == write_npz({"uv": uv})
    assert labels_file == labels


def answer_about(prediction, wishes):
    """What a server says of these instances, asked as the recipe of DensePose 1 asks."""
    parameters = check_parameters(wishes.items())
    style = style_with(PRESETS["instances"], parameters)
    height, width = prediction.image_size_hw
    instances = [
        {"score": one.score, "box": one.box_xyxy, "region": one.region_xywh}
        for one in prediction.instances
    ]
    result = {"image": {"width": width, "height": height}, "instances": instances}
    drawn = draw(style, prediction, Scenery())
    return write_zip(
        {"result.json": json.dumps(result).encode(), "render.png": encode_png(drawn, {})}
        | {
            f"{index}.iuv.png": encode_png(one.maps["iuv"].samples, {})
            for index, one in enumerate(prediction.instances)
        }
    )


@pytest.mark.parametrize(
    "wishes",
    [{}, {"paint": "best-on-top"}, {"people": "largest"}, {"people": "2"}, {"size": "31x97"}],
    ids=str,
)
def test_the_two_files_of_densepose_1_never_contradict_each_other(wishes):
    prediction = make_prediction()
    recipe = densepose_1(wishes)
    people, vui = map(pixels, recipe.contents(answer_about(prediction, recipe.wishes), JOB))
    assert people.shape == vui.shape[:2]
    assert people.any()
    np.testing.assert_array_equal(people > 0, vui[..., 2] > 0)
    # And each pixel is that of the person whose number stands there.
    style = style_with(PRESETS["iuv-dp1"], check_parameters(recipe.wishes.items()))
    for number in np.unique(people[people > 0]):
        alone = replace(style, people=int(number) - 1)
        of_one = draw(alone, prediction, Scenery())
        np.testing.assert_array_equal(vui[people == number], of_one[people == number])


@pytest.mark.parametrize("missing", ["result.json", "0.iuv.png", "render.png"])
def test_an_answer_without_one_of_its_files_is_an_error_of_ours(missing):
    recipe = densepose_1({})
    members = read_members(answer_about(make_prediction(), recipe.wishes), max_bytes=2**30)
    del members[missing]
    with pytest.raises(UnreadableAnswer):
        recipe.contents(write_zip(members), JOB)


@pytest.mark.parametrize(
    ("place", "image_id"),
    [
        ("000000000785.jpg", 785),
        ("val/COCO_val2014_000000000785.jpg", 785),
        ("photo.jpg", 0),
        ("x_y.jpg", 0),
    ],
)
def test_coco_results_have_the_number_of_the_image(place, image_id):
    recipe = plain({"render": "coco-json"}, "picture")
    answer = json.dumps([{"image_id": 0, "score": 0.5}]).encode()
    (kept,) = recipe.contents(answer, Job(place, place))
    assert json.loads(kept) == [{"image_id": image_id, "score": 0.5}]


def test_a_plain_dump_is_a_list_of_tensors_without_code():
    entry = describe_image(make_prediction().instances)
    recipe = DATA_SETS["dump-plain"]({})
    (file,) = recipe.contents(write_npz(flatten_entries([entry])), Job("/photos/a/b.jpg", "b.jpg"))
    (read,) = torch.load(io.BytesIO(file), weights_only=True)
    # As detectron2 has it: the path under which the image was found.
    assert read["file_name"] == "/photos/a/b.jpg"
    np.testing.assert_array_equal(read["pred_boxes_XYXY"].numpy(), entry["pred_boxes_XYXY"])
    assert len(read["pred_densepose"]) == len(entry["pred_densepose"]) > 1
    for ours, theirs in zip(entry["pred_densepose"], read["pred_densepose"], strict=True):
        assert ours.keys() == theirs.keys()
        for field, values in ours.items():
            np.testing.assert_array_equal(theirs[field].numpy(), values)


@pytest.mark.parametrize("name", ["dump", "dump-pickle", "dump-plain"])
def test_a_dump_keeps_as_much_as_detectron2_s(name):
    wishes = DATA_SETS[name]({}).wishes
    assert (wishes["min_score"], wishes["max_instances"]) == ("0.05", "100")
    assert DATA_SETS[name]({"min_score": "0.5"}).wishes["min_score"] == "0.5"


@pytest.mark.parametrize(
    ("tool", "expected"),
    [
        ("CatVTON", {"render": "labels", "min_score": "0.8", "people": "best"}),
        ("gp-vton", {"render": "labels", "min_score": "0.8"}),
        ("vid2densepose", {"render": "magicanimate", "min_score": "0.05"}),
        ("DreamPose", {"render": "uv-npy", "min_score": "0.05", "people": "best"}),
    ],
)
def test_a_tool_asks_for_its_own_values(tool, expected):
    ((preset, found),) = find_tools(tool)
    assert for_tool(preset, found) == {"max_instances": "100", **expected}


@pytest.mark.parametrize(
    "names", [["0"], ["1.a"], ["a"], ["0.a", "1.a"], ["0.a", "0.a.b"], ["0" + ".a" * 9999]]
)
def test_arrays_that_are_no_dump_are_an_error_of_ours(names):
    answer = write_npz({name: np.zeros(1) for name in names})
    with pytest.raises(UnreadableAnswer):
        dump({}).contents(answer, JOB)
