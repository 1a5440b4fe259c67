import json

import numpy as np

from model_store.catalogue import Architecture, ModelCard
from service.datatypes import Instance, Map, Prediction
from service.output.chunks import join
from service.pipeline.answer import Draft, canvases_of, jobs_of, write_answer
from service.pipeline.parameters import check_parameters
from service.pipeline.plan import plan_answer

CARD = ModelCard(id="confident", group="test", architecture=Architecture(uv_confidence="iid_iso"))
TIMING = dict.fromkeys(
    ("read", "decode", "queue", "preprocess", "network", "postprocess", "encode", "total"), 1.5
)


def answer(prediction, **given):
    plan = plan_answer(
        check_parameters(given.items()),
        {CARD.id: CARD},
        default_model=CARD.id,
        media_type="application/json",
    )
    draft = Draft(plan, prediction)
    pieces = [make() for make in jobs_of(draft, canvases_of(draft))]
    return json.loads(join(write_answer(draft, pieces, TIMING)))


def instance(**maps):
    maps = {name.replace("__", "."): Map(*map_) for name, map_ in maps.items()}
    return Instance(0.5, 0, (0.0, 0.0, 2.0, 3.0), (0, 0, 2, 3), None, maps)


def test_the_fields_of_confidence_stand_under_one_name():
    grey = np.zeros((3, 2), np.uint16)
    found = instance(confidence__sigma_2=(grey, 0.5, 1.0), confidence__u_std=(grey, 0.25, 0.0))
    (shown,) = answer(Prediction((3, 2), (found,)), outputs="confidence")["instances"]
    assert set(shown["maps"]) == {"confidence"}
    assert shown["maps"]["confidence"]["sigma_2"]["scale"] == 0.5
    assert shown["maps"]["confidence"]["u_std"]["offset"] == 0.0


def test_only_quantized_maps_have_a_scale():
    mask = np.zeros((3, 2), np.uint8)
    (shown,) = answer(Prediction((3, 2), (instance(mask=(mask,)),)), outputs="mask")["instances"]
    assert set(shown["maps"]["mask"]) == {"media_type", "width", "height", "data"}
    assert (shown["maps"]["mask"]["width"], shown["maps"]["mask"]["height"]) == (2, 3)


def test_the_mask_that_helped_to_paint_the_image_is_not_shown():
    mask = np.full((3, 2), 255, np.uint8)
    found = instance(mask=(mask,), labels=(mask // 255,))
    shown = answer(Prediction((3, 2), (found,)), outputs="labels", layout="image")
    assert set(shown["maps"]) == {"labels"}
    assert shown["instances"][0]["maps"] == {}


def test_the_timing_is_the_one_that_is_given():
    assert answer(Prediction((3, 2), ()))["timing_ms"] == TIMING
