import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import pytest
from PIL import Image

from model_store.catalogue import Architecture, ModelCard
from service.errors import ImageTooLarge, InvalidParameter, UndecodableImage
from service.imaging.decoders import Decoders
from service.metrics import Metrics
from service.pipeline.parameters import check_parameters
from service.pipeline.plan import plan_answer
from service.pipeline.preparation import Pictures, prepare

CARD = ModelCard(id="chart", group="test", architecture=Architecture())


def picture(width, height, mode="RGB"):
    file = BytesIO()
    Image.new(mode, (width, height), "grey").save(file, "PNG")
    return file.getvalue()


def prepared(*, atlas=None, max_pixels=10**6, **given):
    parameters = check_parameters(given.items())
    plan = plan_answer(
        parameters,
        {CARD.id: CARD},
        default_model=CARD.id,
        media_type="application/json",
        has_atlas=atlas is not None,
    )

    async def run():
        with ThreadPoolExecutor(1) as threads:
            return await prepare(
                Pictures(picture(60, 40), atlas),
                plan,
                Decoders(threads, num_usual=1, num_large=1, metrics=Metrics({})),
                time.monotonic() + 60,
                max_pixels=max_pixels,
            )

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("given", "is_kept"),
    [
        ({}, False),
        ({"render": "viton"}, False),
        ({"render": "segm"}, True),
        ({"render": "segm", "background": "black"}, False),
        ({"render": "viton", "background": "photo"}, True),
        ({"render": "boxes", "background": "#000000"}, False),
        ({"render": "iuv"}, False),
        ({"outputs": "texture"}, False),
    ],
)
def test_the_photo_is_kept_only_where_a_render_is_drawn_on_it(given, is_kept):
    result = prepared(**given)
    assert (result.scenery.photo is not None) == is_kept
    assert (result.sample.photo is not None) == (given.get("outputs") == "texture")
    photo_bytes = 60 * 40 * 3 * (is_kept or "outputs" in given)
    assert result.num_bytes == result.sample.pixels_hw3.nbytes + photo_bytes


def test_a_photo_that_both_sides_need_is_counted_once():
    result = prepared(outputs="texture", render="segm")
    assert result.scenery.photo is result.sample.photo
    assert result.num_bytes == result.sample.pixels_hw3.nbytes + 60 * 40 * 3


def test_an_atlas_is_decoded_with_its_alpha_and_counted():
    result = prepared(render="texture", atlas=picture(16, 24, "RGBA"), background="black")
    assert result.scenery.atlas.shape == (24, 16, 4)
    assert result.num_bytes == result.sample.pixels_hw3.nbytes + 24 * 16 * 4


@pytest.mark.parametrize(
    ("atlas", "error"),
    [
        (picture(24, 16), InvalidParameter),
        (picture(17, 24), InvalidParameter),
        (b"", UndecodableImage),
        (picture(16, 24)[:50], UndecodableImage),
        (picture(5000, 5100, "1"), ImageTooLarge),
    ],
    ids=["on its side", "not square", "empty", "cut short", "too large"],
)
def test_an_atlas_that_is_none_is_refused_by_its_name(atlas, error):
    with pytest.raises(error, match="atlas"):
        prepared(render="texture", atlas=atlas)


def test_what_is_too_much_is_refused_before_the_device():
    with pytest.raises(ImageTooLarge):
        prepared(max_pixels=60 * 40 - 1)


def test_the_stages_are_timed():
    assert set(prepared().stage_seconds) == {"decode", "preprocess"}
