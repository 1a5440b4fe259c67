"""The same answer as JSON, as a ZIP file and as NumPy's archive."""

import base64
import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from tests.integration.conftest import HEIGHT, WIDTH
from tests.integration.stand_in import FIRST_BOX, SECOND_BOX

JSON, ZIP, NPZ = "application/json", "application/zip", "application/x-npz"
CONFIDENT, ANIMALS = "R_50_FPN_WC2M_s1x", "cse_R_50_FPN_soft_animals_finetune_4k"
CHARTS = {
    "model": CONFIDENT,
    "outputs": "iuv,iuv16,uv,labels,coarse,mask,confidence,texture",
    "max_instances": 2,
}
WHOLE = {"model": CONFIDENT, "outputs": "iuv,uv,confidence", "layout": "image"}
VERTICES = {"model": ANIMALS, "outputs": "vertices,vertex_colours,embedding"}


def read_file(name, data):
    if name.endswith(".npy"):
        return np.load(io.BytesIO(data), allow_pickle=False)
    with Image.open(io.BytesIO(data)) as png:
        return np.asarray(png)


def arrays_of_json(response):
    """The maps of an answer in JSON, by the names that they have in the archives."""
    answer = response.json()
    owners = {str(index): one["maps"] for index, one in enumerate(answer["instances"])}
    named = {}
    for owner, maps in ({"image": answer["maps"]} | owners).items():
        for output, map_ in maps.items():
            fields = {f"{owner}.{output}": map_}
            if "data" not in map_:
                fields = {f"{owner}.{output}.{field}": map_[field] for field in map_}
            named |= fields
    if "render" in answer:
        named["render"] = answer["render"]
    suffix = {"image/png": ".png", "application/x-npy": ".npy"}
    return {
        name: read_file(suffix[map_["media_type"]], base64.b64decode(map_["data"]))
        for name, map_ in named.items()
    }


def arrays_of_zip(response):
    with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
        assert archive.testzip() is None
        return {
            name.rpartition(".")[0]: read_file(name, archive.read(name))
            for name in archive.namelist()
            if name != "result.json"
        }


def arrays_of_npz(response):
    with np.load(io.BytesIO(response.content), allow_pickle=False) as arrays:
        return dict(arrays)


def as_read_back(samples):
    """Sixteen bits a channel are eight to Pillow."""
    return (samples >> 8).astype(np.uint8) if samples.dtype == np.uint16 else samples


@pytest.mark.parametrize("params", [CHARTS, WHOLE, VERTICES, CHARTS | {"render": "segm"}])
def test_npz_zip_and_json_carry_equal_arrays(service, params):
    in_json = arrays_of_json(service.ask(params=params, accept=JSON))
    in_zip = arrays_of_zip(service.ask(params=params, accept=ZIP))
    in_npz = arrays_of_npz(service.ask(params=params, accept=NPZ))
    assert in_json
    assert in_json.keys() == in_zip.keys()
    assert in_json.keys() <= in_npz.keys()
    for name, samples in in_json.items():
        np.testing.assert_array_equal(in_zip[name], samples, err_msg=name)
        exact = in_npz[name]
        if name.endswith("iuv16"):
            exact = as_read_back(exact)
        np.testing.assert_array_equal(exact, samples, err_msg=name)


def test_an_npz_has_the_instances_beside_their_maps(service):
    arrays = arrays_of_npz(service.ask(params={"outputs": "labels"}, accept=NPZ))
    assert set(arrays) == {
        *("boxes", "scores", "class_ids", "regions", "result"),
        *("0.labels", "1.labels"),
    }
    assert arrays["boxes"].tolist() == [list(FIRST_BOX), list(SECOND_BOX)]
    assert arrays["scores"].tolist() == [0.9, 0.8]
    assert arrays["class_ids"].tolist() == [0, 0]
    assert arrays["regions"].tolist() == [[1, 2, 4, 5], [4, 4, 3, 5]]
    assert json.loads(str(arrays["result"]))["model"] == "demo"


def test_an_npz_tells_what_quantized_samples_mean(service):
    params = {"model": CONFIDENT, "outputs": "confidence"}
    arrays = arrays_of_npz(service.ask(params=params, accept=NPZ))
    assert arrays["1.confidence.u_std.scale"] == 0.5
    assert arrays["1.confidence.u_std.offset"] == 0.25


def test_a_class_that_is_not_known_is_minus_one_in_an_npz(service):
    params = {"model": ANIMALS, "boxes": json.dumps([FIRST_BOX]), "mesh": "cat_5001"}
    arrays = arrays_of_npz(service.ask(params=params, accept=NPZ))
    assert arrays["class_ids"].tolist() == [-1]


@pytest.mark.parametrize("accept", [ZIP, NPZ])
def test_nobody_is_an_archive_of_nobody(service, accept):
    service.device.boxes = ()
    response = service.ask(accept=accept)
    assert response.headers["content-type"] == accept
    if accept == NPZ:
        assert arrays_of_npz(response)["boxes"].shape == (0, 4)
    else:
        assert arrays_of_zip(response) == {}


def test_a_zip_s_result_names_its_files(service):
    params = {"model": CONFIDENT, "outputs": "mask,confidence", "render": "labels-npy"}
    response = service.ask(params=params, accept=ZIP)
    with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
        names = set(archive.namelist())
        result = json.loads(archive.read("result.json"))
    first = result["instances"][0]["maps"]
    assert first["mask"]["file"] == "0.mask.png"
    assert first["confidence"]["sigma_2"]["file"] == "0.confidence.sigma_2.png"
    assert "data" not in first["mask"]
    assert result["render"]["file"] == "render.npy"
    assert {"0.mask.png", "0.confidence.sigma_2.png", "1.mask.png", "render.npy"} <= names


def test_a_zip_of_the_whole_image_has_the_image_s_maps(service):
    response = service.ask(params={"layout": "image", "outputs": "iuv,embedding"}, accept=ZIP)
    assert response.status_code == 422
    response = service.ask(params={"layout": "image", "outputs": "iuv,labels"}, accept=ZIP)
    files = arrays_of_zip(response)
    assert files["image.iuv"].shape == (HEIGHT, WIDTH, 3)
    assert set(files) == {"image.iuv", "image.labels"}


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("application/zip", ZIP),
        ("application/x-npz;q=0.5, application/zip;q=0.8, application/json;q=0.1", ZIP),
        ("application/*", JSON),
        ("image/*", "image/png"),
        ("text/html, */*;q=0.1", JSON),
        ("application/json;q=0, */*", "image/png"),
        ("application/zip;q=0, application/x-npz;q=0.001", NPZ),
    ],
)
def test_the_form_that_the_client_likes_best_is_given(service, accept, media_type):
    assert service.ask(accept=accept).headers["content-type"] == media_type


@pytest.mark.parametrize("accept", ["text/html", "application/json;q=0", "application/x-npy"])
def test_where_no_form_is_accepted_the_error_names_those_that_there_are(service, accept):
    response = service.ask(accept=accept)
    assert response.status_code == 406
    for media_type in (JSON, "image/png", ZIP, NPZ):
        assert media_type in response.json()["detail"]


def test_archives_are_not_gzipped_again(service):
    response = service.ask(accept=NPZ, accept_encoding="gzip")
    assert "content-encoding" not in response.headers
    assert response.headers["vary"] == "Accept, Accept-Encoding"


POINTS = "[[2.5, 4.5], [5, 5], [0, 0]]"


def test_what_is_under_a_point_is_told(service):
    answer = service.ask(params={"points": POINTS, "outputs": "none"}, accept=JSON).json()
    first, both, nobody = answer["points"]
    assert first == {
        "point": [2.5, 4.5],
        "hits": [{"instance": 0, "chart": 1, "name": "torso back", "u": 0.25, "v": 0.5}],
    }
    # The second one's mask begins at 5, 5, where the first one's region ends.
    assert both["hits"] == [{"instance": 1, "chart": 2, "name": "torso front", "u": 0.25, "v": 0.5}]
    assert nobody == {"point": [0, 0], "hits": []}
    assert answer["instances"][0]["maps"] == {}


def test_a_point_on_an_animal_is_a_vertex(service):
    params = {"model": ANIMALS, "points": "[[2,4]]"}
    (point,) = service.ask(params=params, accept=JSON).json()["points"]
    assert point["hits"] == [{"instance": 0, "vertex": 999}]


def test_parts_are_measured_in_the_groupings_asked_for(service):
    params = {"model": CONFIDENT, "parts": "24,limbs", "outputs": "none"}
    first, second = service.ask(params=params, accept=JSON).json()["instances"]
    assert set(first["parts"]) == {"24", "limbs"}
    (back,) = first["parts"]["24"]
    fields = {"sigma_2", "kappa_u", "kappa_v", "fine_segm_confidence", "coarse_segm_confidence"}
    assert set(back.pop("confidence")) == fields | {"u_std", "v_std"}
    assert back == {
        "name": "torso back",
        "charts": [1],
        "pixels": 12,
        "box": [2, 3, 5, 7],
        "centroid": [3.5, 5.0],
        "share": 1.0,
    }
    (torso,) = second["parts"]["limbs"]
    assert (torso["name"], torso["charts"]) == ("torso", [1, 2])


def test_a_model_without_confidences_measures_none(service):
    (first, _) = service.ask(params={"parts": "sides"}, accept=JSON).json()["instances"]
    assert first["parts"] == {"sides": []}
    (first, _) = service.ask(params={"parts": "14"}, accept=JSON).json()["instances"]
    assert "confidence" not in first["parts"]["14"][0]


@pytest.mark.parametrize("accept", [ZIP, NPZ])
def test_archives_tell_of_points_and_parts_too(service, accept):
    response = service.ask(params={"points": POINTS, "parts": "24"}, accept=accept)
    if accept == ZIP:
        with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
            result = json.loads(archive.read("result.json"))
    else:
        result = json.loads(str(arrays_of_npz(response)["result"]))
    assert len(result["points"]) == 3
    assert result["instances"][0]["parts"]["24"]


@pytest.mark.parametrize("params", [{"points": POINTS}, {"parts": "24"}])
def test_a_picture_tells_nothing_of_points_and_parts(service, params):
    assert service.ask(params=params, accept="image/png").status_code == 406
    assert service.ask(params=params | {"render": "viton"}).status_code == 406


def test_only_what_the_points_and_parts_need_is_asked_of_the_device(service):
    for params, outputs in (
        ({"points": POINTS}, {"labels", "uv"}),
        ({"parts": "24"}, {"labels"}),
        ({"parts": "24", "model": CONFIDENT}, {"labels", "confidence"}),
        ({"points": "[[1,1]]", "model": ANIMALS}, {"vertices"}),
    ):
        service.ask(params=params | {"outputs": "none"}, accept=JSON)
        assert service.device.asked[-1][1].query.outputs == outputs


def test_a_texture_is_gathered_from_the_image_as_it_was_sent(service):
    service.ask(params={"outputs": "texture", "max_instances": 2}, accept=JSON)
    (sample,) = (sample for _, sample, _ in service.device.asked)
    assert sample.photo.size_hw == (HEIGHT, WIDTH) == sample.image_size_hw
    service.ask(params={"outputs": "iuv", "render": "segm"}, accept=JSON)
    assert service.device.asked[-1][1].photo is None
