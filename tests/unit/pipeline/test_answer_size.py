import pytest

from model_store.catalogue import Architecture, ModelCard
from service.datatypes import Query
from service.output.media import JSON, NPY, NPZ, PNG, ZIP
from service.pipeline.parameters import check_parameters
from service.pipeline.plan import plan_answer
from service.pipeline.room import AnswerSize, known_regions

CARDS = {
    card.id: card
    for card in (
        ModelCard(
            id="chart",
            group="test",
            architecture=Architecture(uv_confidence="iid_iso", segm_confidence=True),
        ),
        ModelCard(
            id="person",
            group="test",
            architecture=Architecture(predictor="cse", class_to_mesh={0: "smpl_27554"}),
        ),
    )
}
SIZE_HW = H, W = 30, 40
SMALL, OTHER, WHOLE = (0, 0, 10, 20), (5, 5, 7, 3), (0, 0, W, H)
AREA = 10 * 20 + 7 * 3
EMBEDDING = 18 * 112 * 112 * 2


def size(*, media_type=JSON, model="chart", **given):
    plan = plan_answer(
        check_parameters(given.items()), CARDS, default_model=model, media_type=media_type
    )
    return AnswerSize(plan, SIZE_HW)


@pytest.mark.parametrize(
    ("given", "num_bytes"),
    [
        ({"outputs": "iuv"}, 3 * AREA),
        ({"outputs": "iuv16,labels,coarse,mask"}, 9 * AREA),
        ({"outputs": "uv"}, 8 * AREA),
        ({"outputs": "texture"}, 9 * AREA + 2 * 1200 * 800 * 4),
        # Those of the model and two that are derived.
        ({"outputs": "confidence"}, 2 * 5 * AREA),
        ({"outputs": "vertices", "model": "person"}, 2 * AREA),
        ({"outputs": "embedding", "model": "person"}, 2 * EMBEDDING),
        ({"outputs": "none"}, 0),
        # With the maps of the instances, and the mask where none tells it.
        ({"outputs": "iuv", "layout": "image"}, 3 * AREA + 3 * H * W),
        ({"outputs": "uv", "layout": "image"}, 9 * AREA + 8 * H * W),
        ({"media_type": PNG}, 3 * AREA + 3 * H * W),
        ({"media_type": PNG, "render": "viton"}, AREA + 3 * H * W),
        ({"render": "viton", "outputs": "iuv"}, 4 * AREA + 3 * H * W),
        ({"media_type": PNG, "render": "segm", "background": "transparent"}, AREA + 4 * H * W),
        ({"media_type": PNG, "render": "viton", "size": "50x40"}, AREA + 3 * 50 * 40),
        ({"media_type": NPY, "render": "uv-npy"}, 9 * AREA + 16 * H * W),
        ({"media_type": NPZ, "render": "uv-npz"}, 9 * AREA + 8 * H * W),
        ({"media_type": NPZ, "render": "dump-npz"}, (1 + 8 + 4 * 3 + 8) * AREA),
        ({"render": "coco-json"}, 3 * AREA),
        ({"outputs": "none", "points": [[1, 1]]}, 9 * AREA),
    ],
)
def test_samples_are_counted_in_bytes_as_maps_and_as_painted(given, num_bytes):
    assert size(**given).samples([SMALL, OTHER]) == num_bytes


@pytest.mark.parametrize(
    ("outputs", "one", "two"),
    [("iuv16", 6, 18), ("iuv16,labels", 7, 21), ("uv", 9, 26), ("coarse", 3, 5)],
)
def test_one_region_that_is_the_image_needs_no_second_map(outputs, one, two):
    asked = size(outputs=outputs, layout="image")
    assert asked.samples([WHOLE]) == one * H * W
    assert asked.samples([WHOLE, WHOLE]) == two * H * W


def test_without_an_instance_there_are_no_ranges_and_no_maps_of_them():
    whole = size(outputs="confidence,iuv", layout="image")
    assert whole.samples([]) == 3 * H * W


@pytest.mark.parametrize(
    ("given", "num_bytes"),
    [
        ({"outputs": "iuv,iuv16"}, 0),
        ({"outputs": "uv"}, 8 * AREA),
        ({"outputs": "uv,labels", "layout": "image"}, 8 * H * W),
        ({"outputs": "uv", "media_type": ZIP}, 0),
        ({"outputs": "embedding", "model": "person"}, 2 * EMBEDDING),
        ({"render": "uv-npy"}, 16 * H * W),
    ],
)
def test_floats_in_json_are_known_to_be_written_in_base64(given, num_bytes):
    assert size(**given).written([SMALL, OTHER]) == -(-num_bytes // 3) * 4


def test_given_boxes_are_regions_that_are_known_before():
    asked = Query(frozenset(), boxes_xyxy=((1.5, 2.5, 4.0, 9.9),), class_ids=(0,))
    assert known_regions(asked) == [(1, 2, 2, 7)]
    assert known_regions(Query(frozenset())) == []
