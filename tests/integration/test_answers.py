"""What comes back for a good request, in each form."""

import base64
import gzip
import io
import json
import time

import numpy as np
import pytest
from PIL import Image

from tests.integration.conftest import HEIGHT, WIDTH, picture
from tests.integration.stand_in import FIRST_BOX, STAGE_SECONDS

STAGES = ("read", "decode", "queue", "preprocess", "network", "postprocess", "encode", "total")
CONFIDENT, ANIMALS = "R_50_FPN_WC2M_s1x", "cse_R_50_FPN_soft_animals_finetune_4k"


def samples_of(encoded):
    data = base64.b64decode(encoded["data"], validate=True)
    if encoded["media_type"] == "image/png":
        with Image.open(io.BytesIO(data)) as png:
            png.load()
            assert png.size == (encoded["width"], encoded["height"])
            return np.asarray(png)
    return np.load(io.BytesIO(data))


def test_an_answer_has_what_the_contract_names_and_nothing_else(service):
    answer = service.ask().json()
    assert set(answer) == {"model", "notice", "image", "instances", "maps", "timing_ms"}
    assert answer["model"] == "demo"
    assert answer["image"] == {"width": WIDTH, "height": HEIGHT}
    assert answer["maps"] == {}
    first, second = answer["instances"]
    assert set(first) == {"score", "class_id", "class_name", "box", "region", "maps"}
    assert (first["class_id"], first["class_name"]) == (0, "person")
    assert (first["score"], second["score"]) == (0.9, 0.8)
    assert first["box"] == list(FIRST_BOX)
    assert first["region"] == [1, 2, 4, 5]
    assert set(first["maps"]) == {"iuv"}
    assert set(first["maps"]["iuv"]) == {"media_type", "width", "height", "data"}
    assert tuple(answer["timing_ms"]) == STAGES


def test_a_map_has_the_samples_that_the_device_gave(service):
    first, second = service.ask(params={"outputs": "iuv,mask,labels"}).json()["instances"]
    iuv_hw3 = samples_of(first["maps"]["iuv"])
    assert iuv_hw3.shape == (5, 4, 3)
    assert iuv_hw3[1:, 1:].reshape(-1, 3).tolist() == [[1, 10, 20]] * 12
    assert not iuv_hw3[0].any()
    assert samples_of(second["maps"]["labels"])[-1, -1] == 2
    assert samples_of(second["maps"]["mask"])[-1, -1] == 255


def test_sixteen_bits_stay_sixteen_bits(service):
    given = {"model": CONFIDENT, "outputs": "iuv16,confidence"}
    maps = service.ask(params=given).json()["instances"][1]["maps"]
    png = base64.b64decode(maps["iuv16"]["data"])
    assert png[24:26] == bytes([16, 2])  # bit depth, RGB
    fields = {"sigma_2", "kappa_u", "kappa_v", "fine_segm_confidence", "coarse_segm_confidence"}
    assert set(maps["confidence"]) == fields | {"u_std", "v_std"}
    sigma = maps["confidence"]["sigma_2"]
    assert (sigma["scale"], sigma["offset"]) == (0.5, 0.25)
    assert samples_of(sigma).max() == 101


def test_none_means_boxes_alone(service):
    for instance in service.ask(params={"outputs": "none"}).json()["instances"]:
        assert instance["maps"] == {}


def test_no_instance_is_an_empty_list(service):
    service.device.boxes = ()
    response = service.ask()
    assert response.status_code == 200
    assert response.json()["instances"] == []


def test_a_cse_answer_names_mesh_and_class(service):
    given = {
        "model": ANIMALS,
        "boxes": json.dumps([FIRST_BOX]),
        "classes": "dog",
        "outputs": "vertices,embedding",
    }
    (instance,) = service.ask(params=given).json()["instances"]
    assert instance["class_name"] == "dog"
    assert instance["mesh"] == "dog_5002"
    assert instance["score"] == 1.0
    assert samples_of(instance["maps"]["vertices"]).max() == 1000
    assert samples_of(instance["maps"]["embedding"]).shape == (16, 112, 112)
    assert samples_of(instance["maps"]["coarse_logits"]).dtype == np.float16


def test_a_mesh_without_a_class_leaves_the_class_null(service):
    given = {"model": ANIMALS, "boxes": json.dumps([FIRST_BOX]), "mesh": "cat_5001"}
    (instance,) = service.ask(params=given).json()["instances"]
    assert (instance["class_id"], instance["class_name"]) == (None, None)
    assert instance["mesh"] == "cat_5001"


def test_a_question_about_no_box_needs_no_device(service):
    response = service.ask(params={"boxes": "[]"})
    assert response.json()["instances"] == []
    assert service.device.asked == []


def test_with_layout_image_the_maps_are_the_image_s(service):
    answer = service.ask(params={"layout": "image", "outputs": "iuv,labels"}).json()
    assert [instance["maps"] for instance in answer["instances"]] == [{}, {}]
    assert set(answer["maps"]) == {"iuv", "labels"}
    labels_HW = samples_of(answer["maps"]["labels"])
    assert labels_HW.shape == (HEIGHT, WIDTH)
    # The second one's region is x 4..6, y 4..8; its mask leaves the first row and column off.
    assert labels_HW[4, 4] == 1
    assert labels_HW[5, 5] == 2
    assert labels_HW[0, 0] == 0
    assert samples_of(answer["maps"]["iuv"])[5, 5].tolist() == [2, 10, 20]


def test_a_png_is_the_one_map_over_the_whole_image(service):
    response = service.ask(params={"outputs": "labels"}, accept="image/png")
    assert response.headers["content-type"] == "image/png"
    with Image.open(io.BytesIO(response.content)) as png:
        labels_HW = np.asarray(png)
    assert labels_HW.shape == (HEIGHT, WIDTH)
    assert (labels_HW[4, 4], labels_HW[5, 5]) == (1, 2)


@pytest.mark.parametrize(("model", "mode"), [("demo", "RGB"), (ANIMALS, "I;16")])
def test_a_png_of_no_named_output_is_the_default_one(service, model, mode):
    response = service.ask(params={"model": model}, accept="image/png")
    with Image.open(io.BytesIO(response.content)) as png:
        assert png.mode == mode


def test_a_png_without_instances_is_black(service):
    service.device.boxes = ()
    response = service.ask(accept="image/png")
    with Image.open(io.BytesIO(response.content)) as png:
        assert png.size == (WIDTH, HEIGHT)
        assert png.getextrema() == ((0, 0),) * 3


def test_a_png_says_what_it_is(service):
    response = service.ask(accept="image/png")
    with Image.open(io.BytesIO(response.content)) as png:
        assert png.text["model"] == "demo"
        assert png.text["output"] == "iuv"


def test_json_is_gzipped_where_that_is_accepted_and_worth_it(service):
    plain = service.ask(picture((300, 300)), accept_encoding="identity")
    assert "content-encoding" not in plain.headers
    with service.client.stream(
        "POST",
        "/v1/densepose?layout=image",
        content=picture((300, 300)),
        headers={"accept-encoding": "gzip"},
    ) as response:
        raw = b"".join(response.iter_raw())
    assert response.headers["content-encoding"] == "gzip"
    assert len(raw) == int(response.headers["content-length"])
    assert json.loads(gzip.decompress(raw))["model"] == "demo"
    service.device.boxes = ()
    small = service.ask(accept_encoding="gzip", params={"model": "R_50_FPN_s1x"})
    assert "content-encoding" not in small.headers
    for response in (plain, small):
        assert response.headers["vary"] == "Accept, Accept-Encoding"


def test_the_answer_names_the_request_the_model_and_the_stages(service):
    response = service.ask(params={"model": "165712039"}, x_request_id="client.chosen-1")
    assert response.headers["x-request-id"] == "client.chosen-1"
    assert response.headers["x-model-id"] == "R_50_FPN_s1x"
    timing = dict(stage.split(";dur=") for stage in response.headers["server-timing"].split(", "))
    assert tuple(timing) == STAGES
    for stage in ("queue", "network", "postprocess"):
        assert float(timing[stage]) == 1000 * STAGE_SECONDS[stage]
    assert float(timing["preprocess"]) >= 1000 * STAGE_SECONDS["preprocess"]


def test_an_unusable_request_id_is_replaced(service):
    first = service.ask(x_request_id="no spaces, please").headers["x-request-id"]
    assert first != service.ask().headers["x-request-id"]
    assert first.isalnum()


def test_only_models_with_something_to_say_say_it(service):
    assert "no substitute" in service.ask(params={"model": "demo"}).json()["notice"]
    assert "notice" not in service.ask(params={"model": "R_50_FPN_s1x"}).json()


def test_the_device_is_asked_what_the_client_asked(service):
    given = {"min_score": 0.05, "max_instances": 100, "short_side": 400, "outputs": "mask"}
    service.ask(picture((100, 50)), params=given)
    ((card, sample, _),) = service.device.asked
    assert card.id == "demo"
    assert sample.image_size_hw == (50, 100)
    # 400 x 800 would be beyond 1333/800 of the short side.
    assert sample.pixels_hw3.shape == (333, 666, 3)
    assert (sample.query.min_score, sample.query.max_instances) == (0.05, 100)
    assert sample.query.outputs == {"mask"}


def test_what_is_said_in_the_query_and_in_the_body_is_heard_beside_their_defaults(service):
    image = base64.b64encode(picture()).decode()
    body = {"image": image, "min_score": 0.5, "max_instances": 3, "layout": "instance"}
    query = {"min_score": 0.9, "max_instances": 20, "layout": "instance"}
    answer = service.ask(json.dumps(body), params=query, content_type="application/json")
    assert answer.status_code == 200
    ((_, sample, _),) = service.device.asked
    assert (sample.query.min_score, sample.query.max_instances) == (0.9, 3)


def test_without_short_side_the_model_s_own_sides_are_taken(service):
    service.ask(picture((100, 50)))
    service.ask(picture((100, 50)), params={"model": "R_50_FPN_s1x"})
    (demo, zoo) = (sample.pixels_hw3.shape[:2] for _, sample, _ in service.device.asked)
    assert demo == (267, 533)
    assert zoo == (667, 1333)


def test_the_deadline_counts_from_the_arrival_and_may_be_lowered_but_not_raised(make_service):
    service = make_service(timeout_ms=2_000)
    for timeout_ms in (None, 500, 3_600_000):
        service.ask(params={} if timeout_ms is None else {"timeout_ms": timeout_ms})
    now_s = time.monotonic()
    default, lowered, raised = (deadline_s - now_s for _, _, deadline_s in service.device.asked)
    assert 0 < default < 2
    assert lowered < 0.5
    assert default <= raised < 2
