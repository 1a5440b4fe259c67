from dataclasses import replace

import pytest

from model_store.catalogue import Architecture, ModelCard, load_catalogue
from model_store.errors import UnknownModel
from service.datatypes import Output, RawMap
from service.errors import InvalidParameter, NotAcceptable, UnsupportedOutput
from service.pipeline.capabilities import bytes_per_pixel, outputs_of
from service.pipeline.parameters import check_parameters
from service.pipeline.plan import plan_answer, query_for

CHART = ModelCard(id="chart", group="test", architecture=Architecture(), aliases=("Chart-Alias",))
CONFIDENT = ModelCard(
    id="confident",
    group="test",
    architecture=Architecture(uv_confidence="indep_aniso", segm_confidence=True),
)
ANIMALS = ModelCard(
    id="animals",
    group="test",
    architecture=Architecture(
        predictor="cse",
        num_classes=2,
        meshes={"cat_5001": 5001, "dog_5002": 5002},
        class_to_mesh={0: "cat_5001", 1: "dog_5002"},
    ),
    class_names=("cat", "dog"),
)
PERSON = replace(
    ANIMALS,
    id="person",
    architecture=replace(ANIMALS.architecture, num_classes=1),
    class_names=("person",),
)
JSON, PNG, NPZ = "application/json", "image/png", "application/x-npz"
CARDS = {card.id: card for card in (CHART, CONFIDENT, ANIMALS, PERSON)}


def plan(*, media_type=JSON, has_atlas=False, **given):
    return plan_answer(
        check_parameters(given.items()),
        CARDS,
        default_model="chart",
        media_type=media_type,
        has_atlas=has_atlas,
    )


def query(size_hw=(100, 200), *, media_type=JSON, **given):
    planned = plan(media_type=media_type, **given)
    return query_for(planned, size_hw)


def test_the_default_model_is_taken_where_none_is_named():
    assert plan().card is CHART
    assert plan(model="CHART-alias").card is CHART


def test_a_model_that_is_not_served_is_unknown():
    with pytest.raises(UnknownModel):
        plan(model="R_50_FPN_s1x")


@pytest.mark.parametrize(
    ("model", "default"), [("chart", Output.IUV), ("animals", Output.VERTICES)]
)
def test_the_default_output_follows_from_the_kind_of_model(model, default):
    assert plan(model=model).outputs == (default,)


def test_none_means_no_maps_and_stands_alone():
    assert query(outputs="none").outputs == frozenset()
    with pytest.raises(InvalidParameter, match="none"):
        plan(outputs="none,iuv")


def test_an_output_that_is_named_twice_is_one():
    assert plan(outputs="mask,iuv,mask").outputs == (Output.MASK, Output.IUV)


@pytest.mark.parametrize(
    ("model", "output", "able"),
    [
        ("chart", "vertices", "animals"),
        ("chart", "embedding", "person"),
        ("chart", "confidence", "confident"),
        ("animals", "iuv", "chart"),
        ("animals", "confidence", "confident"),
    ],
)
def test_an_output_of_other_models_is_refused_with_those_that_have_it(model, output, able):
    with pytest.raises(UnsupportedOutput, match=f"{model} has no '{output}'.*{able}"):
        plan(model=model, outputs=output)


def test_where_no_model_that_is_served_has_an_output_the_error_says_so():
    with pytest.raises(UnsupportedOutput, match="no model that is served here"):
        plan_answer(
            check_parameters([("outputs", "vertices")]),
            {"chart": CHART},
            default_model="chart",
            media_type=JSON,
        )


@pytest.mark.parametrize("outputs", ["iuv,mask", "none", "confidence"])
def test_outputs_that_are_not_one_picture_are_not_acceptable_as_one(outputs):
    with pytest.raises(NotAcceptable):
        plan(media_type=PNG, model="confident", outputs=outputs)


def test_an_embedding_is_not_painted_over_the_image():
    with pytest.raises(UnsupportedOutput, match="layout"):
        plan(model="animals", outputs="embedding", layout="image")
    with pytest.raises(NotAcceptable):
        plan(model="animals", outputs="embedding", media_type=PNG)


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ({"outputs": "labels"}, {Output.LABELS}),
        ({"outputs": "iuv16,uv,coarse"}, {Output.IUV16, Output.UV, Output.COARSE}),
        ({"outputs": "uv"}, {Output.UV, Output.MASK}),
        ({"outputs": "coarse"}, {Output.COARSE, Output.MASK}),
        ({"outputs": "coarse", "model": "person"}, {Output.COARSE}),
        ({"outputs": "vertices", "model": "person"}, {Output.VERTICES}),
        ({"outputs": "vertex_colours", "model": "person"}, {Output.VERTEX_COLOURS, Output.MASK}),
    ],
)
def test_a_whole_image_is_painted_with_the_help_of_the_mask_where_no_map_tells_it(given, asked):
    assert query(layout="image", **given).outputs == asked


def test_what_is_painted_over_the_image_shares_its_ranges():
    painted = query(layout="image", model="confident", outputs="confidence")
    assert painted.outputs == {Output.CONFIDENCE, Output.MASK}
    assert painted.is_confidence_range_shared
    assert query(media_type=PNG).outputs == {Output.IUV}
    assert query(layout="image", outputs="none").outputs == frozenset()
    alone = query(outputs="labels")
    assert alone.outputs == {Output.LABELS}
    assert not alone.is_confidence_range_shared


def test_boxes_are_clipped_to_the_image_and_classed():
    asked = query(boxes=[[-5, 10, 20.5, 30], [150, 50, 500, 500]])
    assert asked.boxes_xyxy == ((0, 10, 20.5, 30), (150, 50, 200, 100))
    assert asked.class_ids == (0, 0)


@pytest.mark.parametrize(
    "box", [[-5, 0, 0, 10], [200, 0, 210, 10], [0, -5, 10, 0], [0, 100, 10, 120]]
)
def test_a_box_outside_the_image_is_refused_by_its_index(box):
    with pytest.raises(InvalidParameter, match=r"boxes\[1\].*200 x 100"):
        query(boxes=[[0, 0, 10, 10], box])


def test_no_boxes_at_all_are_a_question_too():
    assert query(boxes=[]).boxes_xyxy == ()
    assert query(model="animals", boxes=[], classes=[]).class_ids == ()


@pytest.mark.parametrize("classes", [["dog", "cat"], [1, 0], ["1", "0"], ["DOG", 0], "dog,0"])
def test_classes_are_ids_or_names(classes):
    boxes = [[0, 0, 10, 10], [5, 5, 10, 10]]
    assert query(model="animals", boxes=boxes, classes=classes).class_ids == (1, 0)


@pytest.mark.parametrize("name", ["horse", 2, -1, "-1", "", "²"])
def test_a_class_that_the_model_lacks_is_refused_with_those_it_has(name):
    with pytest.raises(InvalidParameter, match="0 cat, 1 dog"):
        plan(model="animals", boxes=[[0, 0, 1, 1]], classes=[name])


@pytest.mark.parametrize(
    "given",
    [
        {"classes": ["cat"]},
        {"classes": ["cat"], "boxes": [[0, 0, 1, 1], [0, 0, 1, 1]]},
        {"boxes": [[0, 0, 1, 1]]},
    ],
)
def test_every_box_of_a_model_with_several_classes_has_one(given):
    with pytest.raises(InvalidParameter, match="classes"):
        plan(model="animals", **given)


def test_a_mesh_stands_for_a_class():
    asked = query(model="animals", boxes=[[0, 0, 1, 1]], mesh="dog_5002")
    assert asked.class_ids == (None,)
    assert asked.mesh == "dog_5002"
    assert query(model="animals", mesh="dog_5002").boxes_xyxy is None
    assert query(model="animals", boxes=[[0, 0, 1, 1]], classes="cat", mesh="dog_5002").class_ids
    assert query(model="person", boxes=[[0, 0, 1, 1]]).class_ids == (0,)


def test_an_unknown_mesh_is_refused_with_those_that_there_are():
    with pytest.raises(InvalidParameter, match="cat_5001, dog_5002"):
        plan(model="animals", mesh="smpl_27554")
    with pytest.raises(InvalidParameter, match="chart model"):
        plan(model="chart", mesh="cat_5001")


def test_the_long_side_is_bounded_in_proportion_to_the_short_one_that_was_asked_for():
    assert plan().short_and_long_side == (800, 1333)
    assert plan(short_side=400).short_and_long_side == (400, 666)
    assert plan(short_side=800).short_and_long_side == (800, 1333)


@pytest.mark.parametrize("card", load_catalogue().values(), ids=lambda card: card.id)
def test_every_model_of_the_catalogue_can_be_asked_for_everything_it_has(card):
    names = [*outputs_of(card)]
    planned = plan_answer(
        check_parameters([("outputs", names)]),
        {card.id: card},
        default_model=card.id,
        media_type=JSON,
    )
    assert planned.outputs == outputs_of(card)
    assert bytes_per_pixel(card, names) > 0


def test_a_render_needs_its_own_maps_and_no_others():
    alone = query(media_type=PNG, render="viton", outputs="iuv,mask")
    assert alone.outputs == {Output.LABELS}
    beside = query(render="viton", outputs="iuv")
    assert beside.outputs == {Output.LABELS, Output.IUV}
    assert query(render="viton").outputs == {Output.LABELS}
    assert query(render="boxes").outputs == frozenset()
    whole = query(render="viton", outputs="iuv", layout="image")
    assert whole.outputs == {Output.LABELS, Output.IUV}


def test_a_dump_has_the_confidences_of_models_that_have_them():
    asked = query(media_type=NPZ, render="dump-npz", model="confident", layout="image")
    assert asked.outputs == {Output.LABELS, RawMap.UV, RawMap.CONFIDENCE}
    assert not asked.is_confidence_range_shared
    assert query(render="dump-npz").outputs == {Output.LABELS, RawMap.UV}
    assert query(render="dump-npz", model="animals").outputs == {Output.EMBEDDING}


@pytest.mark.parametrize(
    ("given", "able"),
    [
        ({"render": "vertices"}, "animals, person"),
        ({"render": "viton", "model": "animals"}, "chart, confident"),
        ({"parts": "24", "model": "animals"}, "chart, confident"),
    ],
)
def test_a_render_of_the_other_kind_is_refused_with_the_models_that_have_it(given, able):
    with pytest.raises(UnsupportedOutput, match=able):
        plan(**given)


@pytest.mark.parametrize(
    ("media_type", "given"),
    [
        (PNG, {"points": [[1, 1]]}),
        (PNG, {"parts": "24"}),
        (PNG, {"render": "viton", "parts": "24"}),
        (NPZ, {"render": "uv-npz", "points": [[1, 1]]}),
        (NPZ, {"render": "coco-json"}),
        (PNG, {"outputs": "uv"}),
        (PNG, {"outputs": "texture"}),
    ],
)
def test_what_has_no_form_of_the_type_is_not_acceptable(media_type, given):
    with pytest.raises(NotAcceptable):
        plan(media_type=media_type, **given)


def test_points_and_parts_need_what_tells_them():
    assert query(points=[[1, 1]], outputs="none").outputs == {Output.LABELS, Output.UV}
    animals = query(points=[[1, 1]], outputs="none", model="animals")
    assert animals.outputs == {Output.VERTICES}
    confident = query(parts="14", outputs="none", model="confident")
    assert confident.outputs == {Output.LABELS, Output.CONFIDENCE}


@pytest.mark.parametrize("point", [[200, 0], [0, 100], [-0.1, 0], [0, -1]])
def test_a_point_outside_the_image_is_refused_by_its_index(point):
    with pytest.raises(InvalidParameter, match=r"points\[1\].*200 x 100"):
        query(points=[[0, 0], point])


def test_boxes_grow_by_the_share_that_is_asked_for():
    assert query(box_expand=0.5).box_expand == 0.5
    assert query().box_expand == 0
