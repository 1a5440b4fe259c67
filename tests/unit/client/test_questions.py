import io
import json

import numpy as np
import pytest
from PIL import Image

from service.client.exchange import Request
from service.client.questions import (
    MAX_QUERY_CHARACTERS,
    Wishes,
    ask_about,
    change_of,
    encode_rgb,
)
from service.pipeline.parameters import Parameters, check_parameters

# Said otherwise: the time of a call, and a picture beside the parameters.
OTHERWISE = {"timeout_ms"}
PICTURES = {"atlas"}
BOXES = [[0.1 * i, 0.2 * i, 0.1 * i + 10.123456789, 0.2 * i + 20.987654321] for i in range(100)]


def test_all_parameters_of_the_server_can_be_wished_and_no_others():
    assert set(Wishes.__annotations__) - PICTURES == set(Parameters.model_fields) - OTHERWISE


@pytest.mark.parametrize(
    ("wishes", "expected"),
    [
        ({"outputs": ["iuv", "mask"]}, {"outputs": ("iuv", "mask")}),
        ({"outputs": "iuv,mask"}, {"outputs": ("iuv", "mask")}),
        ({"boxes": np.array([[1, 2, 3, 4.5]])}, {"boxes": ((1.0, 2.0, 3.0, 4.5),)}),
        ({"boxes": []}, {"boxes": ()}),
        ({"boxes": [[0, 0, 9, 9]], "classes": [0]}, {"classes": ("0",)}),
        ({"points": [(1, 2)]}, {"points": ((1.0, 2.0),)}),
        ({"size": (768, 1024), "render": "viton"}, {"size": (768, 1024)}),
        ({"size": "768x1024", "render": "viton"}, {"size": (768, 1024)}),
        ({"people": 3, "render": "viton"}, {"people": 3}),
        ({"min_score": 0.25, "max_instances": 7}, {"min_score": 0.25, "max_instances": 7}),
        ({"parts": "14,sides"}, {"parts": ("14", "sides")}),
    ],
)
def test_the_server_understands_every_way_of_saying_it(wishes, expected):
    said = ask_about(b"image", wishes).params
    understood = check_parameters(said.items()).model_dump(mode="json", include=set(expected))
    assert understood == json.loads(json.dumps(expected))


def test_what_is_too_long_for_an_address_goes_into_a_form_but_for_the_model():
    request = ask_about(b"image", {"boxes": BOXES, "model": "demo"})
    assert len(str(request.fields)) > MAX_QUERY_CHARACTERS
    assert request.params == {"model": "demo"}
    assert set(request.fields) == {"boxes"}
    assert request.files == {"image": b"image"}
    assert request.content is None


def test_the_server_is_told_how_long_the_caller_waits():
    request = ask_about(b"image", {"min_score": 0.5}).within(2.5)
    assert request.params == {"min_score": "0.5", "timeout_ms": "2500"}
    assert Request("GET", "/v1/models").within(2.5).params == {}


def test_loading_and_unloading_are_not_repeated_blindly():
    assert not change_of("demo", "load").is_safe
    assert change_of("cse/a b", "unload").path == "/v1/models/cse/a%20b/unload"
    assert ask_about(b"", {}).is_safe


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (64, 7)])
def test_pixels_are_sent_as_a_picture_that_has_them_all(size):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    with Image.open(io.BytesIO(encode_rgb(pixels))) as picture:
        assert picture.mode == "RGB"
        assert np.array_equal(np.asarray(picture), pixels)


def test_pixels_that_do_not_lie_side_by_side_are_sent_as_well():
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)[::2, ::-1]
    with Image.open(io.BytesIO(encode_rgb(pixels))) as picture:
        assert np.array_equal(np.asarray(picture), pixels)


@pytest.mark.parametrize(
    "pixels",
    [np.zeros((4, 4)), np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4, 3))],
)
def test_what_is_no_pixels_is_refused(pixels):
    with pytest.raises(ValueError, match="uint8"):
        encode_rgb(pixels)


def test_a_picture_is_bytes_or_the_path_of_a_file(tmp_path):
    file = tmp_path / "a.jpg"
    file.write_bytes(b"data")
    for picture in (b"data", bytearray(b"data"), memoryview(b"data"), file, str(file)):
        assert ask_about(picture, {}).content == b"data"
