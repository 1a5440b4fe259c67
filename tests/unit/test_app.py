"""The models that are served, by what the operator chose."""

import threading
import time

import pytest

from model_store import model_files
from model_store.catalogue import load_catalogue
from model_store.errors import CheckpointUnavailable
from service.app import build_models
from service.errors import Draining
from service.residency.resident import ResidentModels
from service.settings import Settings

ZOO = "R_50_FPN_s1x"


@pytest.fixture
def serve(tmp_path):
    def make(**settings) -> ResidentModels:
        served.append(build_models(Settings(model_store=tmp_path, device="cpu", **settings)))
        return served[-1]

    served: list[ResidentModels] = []
    yield make
    for models in served:
        models.close()


def test_without_a_choice_all_models_are_served(serve):
    assert set(serve().cards()) == set(load_catalogue())


def test_only_the_chosen_models_are_served_by_whatever_name_they_were_chosen(serve):
    assert set(serve(models=("165712039", "demo")).cards()) == {ZOO, "demo"}


def test_the_operator_s_sides_are_the_zoo_s_models_and_not_the_demo_s(serve):
    cards = serve(short_side=640, long_side=960).cards()
    assert (cards[ZOO].short_side, cards[ZOO].long_side) == (640, 960)
    assert (cards["demo"].short_side, cards["demo"].long_side) == (320, 533)


def test_the_demo_is_there_and_can_be_loaded(serve):
    models = serve()
    card = models.cards()["demo"]
    assert models.status_of(card).state == "stored"
    models.request(card).result(60)
    assert models.status_of(card).state == "ready"


@pytest.mark.parametrize("download", ["never", "preload"])
def test_a_model_that_requests_may_not_download_is_said_to_be_so(serve, download):
    models = serve(download=download, preload=())
    with pytest.raises(CheckpointUnavailable, match="models pull"):
        models.request(models.cards()[ZOO]).result(60)


def test_a_download_ends_with_the_service(serve):
    models = serve()
    models._stop_when_closing(1, None)
    models.close()
    with pytest.raises(Draining):
        models._stop_when_closing(2, None)


def test_a_conversion_holds_up_no_other_model_and_ends_with_the_service(
    serve, tmp_path, monkeypatch
):
    def convert(source, target, metadata, while_waiting, lock):
        while True:
            while_waiting()
            has_begun.set()
            time.sleep(0.01)

    has_begun = threading.Event()
    monkeypatch.setattr(model_files, "convert", convert)
    file = tmp_path / "ResNet50_FPN_s1x-e2e" / "DensePose_ResNet50_FPN_s1x-e2e.pkl"
    file.parent.mkdir()
    file.write_bytes(b"\x80\x02}.")
    models = serve()
    converted = models.request(models.cards()["ResNet50_FPN_s1x-e2e"])
    assert has_begun.wait(60)
    models.request(models.cards()["demo"]).result(60)
    assert not converted.done()
    models.close()
    with pytest.raises(Draining):
        converted.result(0)
