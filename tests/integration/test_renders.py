"""The pictures and files for downstream tools, over HTTP."""

import base64
import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from service.output.presets import PRESETS
from tests.integration.conftest import HEIGHT, WIDTH, picture
from tests.integration.test_errors import problem_of

JSON, ZIP, NPZ = "application/json", "application/zip", "application/x-npz"
CSE = "cse_R_50_FPN_s1x"
OVERLAPPING = ((1.25, 2.5, 7.75, 8.0), (3.0, 3.0, 7.5, 9.5))
AT_THE_BORDER = ((0.0, 0.0, 3.0, 10.0), (7.0, 9.0, 8.0, 10.0), (7.5, 0.0, 8.0, 0.25))
ATLAS = picture((16, 24))


def params_of(name, **params):
    model = {} if "chart" in PRESETS[name].needs else {"model": CSE}
    return {"render": name} | model | params


def ask_for(service, name, *, atlas=None, accept="*/*", **params):
    params = params_of(name, **params)
    if atlas is None and name == "texture":
        atlas = ATLAS
    if atlas is None:
        return service.ask(params=params, accept=accept)
    files = {"image": ("photo.png", picture()), "atlas": ("atlas.png", atlas)}
    return service.client.post(
        "/v1/densepose", files=files, params=params, headers={"accept": accept}
    )


def open_png(response):
    assert response.headers["content-type"] == "image/png", response.text
    with Image.open(io.BytesIO(response.content)) as png:
        return np.asarray(png)


@pytest.mark.parametrize("boxes", [(), OVERLAPPING, AT_THE_BORDER])
@pytest.mark.parametrize("name", PRESETS)
def test_every_render_is_a_file_of_its_type_and_size_whoever_is_there(service, name, boxes):
    service.device.boxes = boxes
    response = ask_for(service, name)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == PRESETS[name].media_type
    content = io.BytesIO(response.content)
    if PRESETS[name].media_type == "image/png":
        assert open_png(response).shape[:2] == (HEIGHT, WIDTH)
    elif name == "coco-json":
        assert len(response.json()) == len(boxes)
    elif name == "dump-npz":
        with np.load(content, allow_pickle=False) as arrays:
            assert len(arrays["0.scores"]) == len(boxes)
    elif name == "uv-npz":
        with np.load(content, allow_pickle=False) as arrays:
            assert arrays["uv"].shape == (2, HEIGHT, WIDTH)
    else:
        assert np.load(content, allow_pickle=False).shape[-2:] == (HEIGHT, WIDTH)


@pytest.mark.parametrize("name", [name for name, one in PRESETS.items() if one.has_samples])
def test_every_render_comes_in_the_size_asked_for(service, name):
    response = ask_for(service, name, size="20x12", accept=JSON)
    render = response.json()["render"]
    assert (render["width"], render["height"]) == (20, 12)


@pytest.mark.parametrize("name", ["iuv", "labels", "viton", "segm"])
def test_what_is_drawn_is_what_the_maps_say(service, name):
    drawn = open_png(ask_for(service, name))
    iuv = open_png(service.ask(params={"outputs": "iuv"}, accept="image/png"))
    is_body = iuv[..., 0] > 0
    assert is_body.any()
    if name == "iuv":
        np.testing.assert_array_equal(drawn, iuv)
    elif name == "labels":
        np.testing.assert_array_equal(drawn, iuv[..., 0])
    elif name == "viton":
        assert (drawn[~is_body] == 0).all()
        assert (drawn[is_body] > 0).all()
    else:
        sent = np.asarray(Image.open(io.BytesIO(picture())).convert("L"))
        assert (np.abs(drawn[~is_body] - sent[~is_body][:, None].astype(int)) <= 1).all()


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        (None, "image/png"),
        ("*/*", "image/png"),
        ("image/png", "image/png"),
        ("image/webp, */*;q=0.5", "image/png"),
        ("application/json", JSON),
        ("application/json, image/png;q=0.9", JSON),
        ("application/zip", ZIP),
        ("application/x-npz", NPZ),
    ],
)
def test_a_render_answers_with_a_picture_unless_another_form_is_asked_for(
    service, accept, media_type
):
    headers = {} if accept is None else {"accept": accept}
    request = service.client.build_request(
        "POST", "/v1/densepose?render=viton", content=picture(), headers=headers
    )
    if accept is None:
        del request.headers["accept"]
    response = service.client.send(request)
    assert response.headers["content-type"] == media_type


def test_the_render_is_the_same_in_every_form(service):
    alone = ask_for(service, "segm").content
    in_json = ask_for(service, "segm", accept=JSON).json()
    assert base64.b64decode(in_json["render"]["data"]) == alone
    assert in_json["render"]["media_type"] == "image/png"
    assert in_json["maps"] == {}
    with zipfile.ZipFile(io.BytesIO(ask_for(service, "segm", accept=ZIP).content)) as archive:
        assert archive.read("render.png") == alone
    with np.load(io.BytesIO(ask_for(service, "segm", accept=NPZ).content)) as arrays:
        np.testing.assert_array_equal(arrays["render"], np.asarray(Image.open(io.BytesIO(alone))))


def test_maps_come_beside_a_render_where_they_are_named(service):
    plain = ask_for(service, "viton", accept=JSON).json()
    assert [instance["maps"] for instance in plain["instances"]] == [{}, {}]
    named = ask_for(service, "viton", accept=JSON, outputs="mask").json()
    assert [set(instance["maps"]) for instance in named["instances"]] == [{"mask"}, {"mask"}]


@pytest.mark.parametrize(
    ("name", "outputs"),
    [
        ("viton", {"labels"}),
        ("magicanimate", {"labels"}),
        ("segm", {"labels"}),
        ("labels-npy", {"labels"}),
        ("iuv", {"iuv"}),
        ("instances", {"mask"}),
        ("boxes", set()),
        ("texture", {"labels", "uv"}),
        ("vertices", {"vertex_colours", "mask"}),
        ("dump-npz", {"labels", "raw_uv"}),
    ],
)
def test_the_device_computes_what_the_render_is_made_of_and_no_more(service, name, outputs):
    ask_for(service, name)
    assert service.device.asked[-1][1].query.outputs == outputs
    # A picture has no room for the maps that are named beside it.
    ask_for(service, name, outputs="mask")
    assert service.device.asked[-1][1].query.outputs == outputs
    ask_for(service, name, accept=JSON, outputs="coarse")
    assert service.device.asked[-1][1].query.outputs == outputs | {"coarse"}


def test_a_model_with_confidences_dumps_them(service):
    response = ask_for(service, "dump-npz", model="R_50_FPN_WC2M_s1x")
    with np.load(io.BytesIO(response.content), allow_pickle=False) as arrays:
        assert "0.pred_densepose.1.kappa_v" in arrays
        assert "0.pred_densepose.1.u_std" not in arrays
        # In full, and not in 65535 steps.
        assert arrays["0.pred_densepose.1.sigma_2"].dtype == np.float32
        assert (arrays["0.pred_densepose.1.sigma_2"] == -29).any()


def test_a_render_of_several_people_shows_all_of_them_unless_fewer_are_asked_for(service):
    """Whatever the tool that reads it takes."""
    everybody = open_png(ask_for(service, "leffa-dresscode"))
    alone = open_png(ask_for(service, "leffa-dresscode", people="best"))
    assert set(np.unique(alone)) < set(np.unique(everybody))


def test_a_model_with_embeddings_dumps_them(service):
    response = ask_for(service, "dump-npz", model=CSE)
    with np.load(io.BytesIO(response.content), allow_pickle=False) as arrays:
        assert arrays["0.pred_densepose.embedding"].shape == (2, 16, 112, 112)
        assert arrays["0.pred_meshes"].tolist() == ["smpl_27554"] * 2


def test_people_and_paint_choose_who_is_seen(service):
    service.device.boxes = OVERLAPPING
    numbers = {
        (people, paint): open_png(ask_for(service, "instances", people=people, paint=paint))
        for people in ("all", "best", "1", "7")
        for paint in ("later-on-top", "best-on-top")
    }
    later, best = numbers["all", "later-on-top"], numbers["all", "best-on-top"]
    assert later[6, 6] == 2
    assert best[6, 6] == 1
    assert set(np.unique(numbers["best", "later-on-top"])) == {0, 1}
    assert set(np.unique(numbers["1", "later-on-top"])) == {0, 2}
    assert not numbers["7", "later-on-top"].any()


def test_palette_background_and_alpha_refine_a_render(service):
    plain = open_png(ask_for(service, "viton"))
    drawn = open_png(ask_for(service, "viton", palette="jet", background="#102030", alpha="0.5"))
    off = (plain == 0).all(axis=-1)
    assert (drawn[off] == (0x10, 0x20, 0x30)).all()
    assert (drawn[~off] != plain[~off]).any()
    assert open_png(ask_for(service, "viton", background="transparent")).shape[2] == 4


def test_boxes_grow_by_the_share_asked_for(service):
    service.ask(params={"box_expand": "0.25"})
    assert service.device.asked[-1][1].query.box_expand == 0.25
    service.ask()
    assert service.device.asked[-1][1].query.box_expand == 0


def test_coco_s_results_carry_the_image_s_id(service):
    results = ask_for(service, "coco-json", image_id=785).json()
    assert [result["image_id"] for result in results] == [785, 785]
    in_json = ask_for(service, "coco-json", image_id=785, accept=JSON).json()
    assert json.loads(base64.b64decode(in_json["render"]["data"])) == results


def test_an_atlas_may_come_in_json(service):
    fields = {
        "image": base64.b64encode(picture()).decode(),
        "atlas": base64.b64encode(ATLAS).decode(),
        "render": "texture",
    }
    response = service.client.post("/v1/densepose", json=fields, headers={"accept": "*/*"})
    np.testing.assert_array_equal(open_png(response), open_png(ask_for(service, "texture")))


BAD = [
    ("unsupported_output", {"params": {"render": "vertices"}}),
    ("unsupported_output", {"params": {"render": "viton", "model": CSE}}),
    ("unsupported_output", {"params": {"parts": "24", "model": CSE}}),
    ("unsupported_output", {"params": {"outputs": "texture", "layout": "image"}}),
    ("invalid_parameter", {"params": {"render": "viton", "size": "0x0"}}),
    ("invalid_parameter", {"params": {"render": "viton", "size": "4097x1"}}),
    ("invalid_parameter", {"params": {"render": "texture"}}),
    ("invalid_parameter", {"params": {"render": "iuv", "palette": "jet"}}),
    ("invalid_parameter", {"params": {"render": "boxes", "alpha": "0.5"}}),
    ("invalid_parameter", {"params": {"render": "boxes", "background": "palette"}}),
    ("invalid_parameter", {"params": {"render": "dump-npz", "size": "10x10"}}),
    ("invalid_parameter", {"params": {"size": "10x10"}}),
    ("invalid_parameter", {"params": {"people": "best"}}),
    ("invalid_parameter", {"params": {"points": json.dumps([[1, 1]] * 1001)}}),
    ("invalid_parameter", {"params": {"points": "[[8, 0]]"}}),
    ("invalid_parameter", {"params": {"points": "[[0, -0.5]]"}}),
    ("invalid_parameter", {"params": {"points": "[[0, NaN]]"}}),
    ("invalid_parameter", {"params": {"render": "viton", "boxes": "[[50,50,60,60]]"}}),
    ("invalid_parameter", {"params": {"render": "viton", "boxes": "[[0,0,NaN,5]]"}}),
    ("not_acceptable", {"params": {"render": "labels-npy"}, "accept": "image/png"}),
    ("not_acceptable", {"params": {"render": "coco-json"}, "accept": NPZ}),
    ("not_acceptable", {"params": {"outputs": "texture"}, "accept": "image/png"}),
    ("not_acceptable", {"params": {"outputs": "uv"}, "accept": "image/png"}),
]


@pytest.mark.parametrize(("code", "request_"), BAD)
def test_what_makes_no_sense_is_refused_before_the_device_is_asked(service, code, request_):
    problem = problem_of(service.ask(**request_))
    assert problem["code"] == code
    assert service.device.asked == []


@pytest.mark.parametrize(
    ("atlas", "code", "detail"),
    [
        (picture((16, 16)), "invalid_parameter", "4 N x 6 N"),
        (picture((24, 16)), "invalid_parameter", "4 N x 6 N"),
        (picture((3, 5)), "invalid_parameter", "4 N x 6 N"),
        (b"no picture", "undecodable_image", "atlas"),
        # A choice of a file that nobody has made.
        (b"", "invalid_parameter", "atlas"),
    ],
)
def test_an_atlas_of_the_wrong_shape_is_refused(service, atlas, code, detail):
    problem = problem_of(ask_for(service, "texture", atlas=atlas))
    assert problem["code"] == code
    assert detail in problem["detail"]
    assert service.device.asked == []


def test_an_atlas_goes_with_the_texture_alone(service):
    assert problem_of(ask_for(service, "viton", atlas=ATLAS))["code"] == "invalid_parameter"


def test_a_render_beyond_the_answer_s_limit_is_refused(make_service):
    service = make_service(max_answer_bytes=20 * 20 * 3)
    assert ask_for(service, "boxes", size="20x20").status_code == 200
    assert problem_of(ask_for(service, "boxes", size="21x20"))["code"] == "answer_too_large"


def test_the_renders_are_listed_with_their_tools_and_sources(service):
    renders = service.client.get("/v1/renders").json()["renders"]
    assert [render["name"] for render in renders] == list(PRESETS)
    by_name = {render["name"]: render for render in renders}
    viton = by_name["viton"]
    assert (viton["palette"], viton["alpha"], viton["background"]) == ("parula", 1.0, "black")
    assert (viton["min_score"], viton["people"], viton["kinds"]) == (0.8, "all", ["chart"])
    assert "IDM-VTON" in viton["tool"]
    assert by_name["vertices"]["kinds"] == ["cse"]
    assert by_name["iuv-dp1"]["channels"] == ["V", "U", "I"]
    for render in renders:
        assert render["source"]


def test_the_parts_are_listed_with_their_sides_and_colours(service):
    parts = service.client.get("/v1/parts").json()["parts"]
    assert [part["number"] for part in parts] == list(range(1, 25))
    foot = parts[4]
    assert (foot["name"], foot["side"], foot["mirror"]) == ("left foot", "left", 6)
    assert (foot["coarse"], foot["coarse_name"], foot["limb"]) == (4, "left foot", "legs")
    assert foot["colours"]["parula"] == "#0e7ad8"
    assert parts[0]["side"] is None
    assert {"viridis", "cvton", "parula"} <= set(foot["colours"])
