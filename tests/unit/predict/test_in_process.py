"""The way of a request without requests, to a device that stands in."""

import asyncio
from collections import Counter

import pytest

from load_tests.generator import jpeg
from load_tests.stand_in import StandIn
from model_store.errors import UnknownModel
from service.assembly import build_metrics
from service.errors import OutOfMemory, UnsupportedOutput
from service.output.media import PNG, ZIP
from service.pipeline.parameters import check_parameters
from service.predict.describing import CannotGoOn, NotDescribed
from service.predict.in_process import Question, describing
from service.settings import Settings

PHOTO = jpeg(320, 240, 10_000)


class Device(StandIn):
    """Notes the sizes of batches; fails as it is told."""

    def __init__(self, error=None) -> None:
        super().__init__(batch_ms=5, image_ms=0)
        self.__dict__ |= {"error": error, "batches": Counter()}

    def predict(self, model_id, samples):
        self.batches[len(samples)] += 1
        if self.error is not None:
            raise self.error
        return super().predict(model_id, samples)


def describe(images, device=None, media_type=ZIP, wishes=None, **settings):
    """What each of the images, all at once, came to."""
    device = device or Device()
    question = Question(check_parameters((wishes or {"outputs": "iuv"}).items()), media_type)
    chosen = Settings(default_model="demo", **settings)

    async def run():
        way = describing(chosen, device, question, build_metrics({}))
        async with way as ask:
            return await asyncio.gather(*map(ask, images), return_exceptions=True)

    return asyncio.run(run())


def test_images_go_in_batches_and_all_come_back():
    device = Device()
    answers = describe([PHOTO] * 24, device)
    assert all(answer == answers[0] for answer in answers)
    assert answers[0].startswith(b"PK")
    assert max(device.batches) > 1


def test_the_same_image_has_the_same_answer_to_the_last_byte():
    assert describe([PHOTO]) == describe([PHOTO])


def test_a_bad_image_fails_alone():
    good, bad = describe([PHOTO, b"none"])
    assert good.startswith(b"PK")
    assert isinstance(bad, NotDescribed)
    assert bad.code == "undecodable_image"


@pytest.mark.parametrize(
    ("error", "code"),
    [(OutOfMemory("too large"), "out_of_memory"), (RuntimeError("a defect"), "internal_error")],
)
def test_what_fails_on_the_device_fails_for_its_image(error, code):
    (answer,) = describe([PHOTO], Device(error))
    assert isinstance(answer, NotDescribed)
    assert answer.code == code


def test_what_holds_more_than_there_is_room_for_goes_one_by_one():
    device = Device()
    answers = describe([PHOTO] * 6, device, max_inflight_bytes=1, max_body_bytes=1)
    assert all(isinstance(answer, bytes) for answer in answers)


@pytest.mark.parametrize(
    ("wishes", "error"),
    [({"model": "nobody"}, UnknownModel), ({"outputs": "vertices"}, UnsupportedOutput)],
)
def test_what_no_image_could_be_asked_is_told_before_the_first(wishes, error):
    with pytest.raises(error):
        describe([PHOTO], wishes=wishes, media_type=PNG)


def test_a_device_that_has_failed_ends_the_run(monkeypatch):
    (answer,) = describe([PHOTO], Device(SystemExit(1)))
    assert isinstance(answer, CannotGoOn)
    assert answer.code == "unhealthy"
