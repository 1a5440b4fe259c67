"""Damaged pictures, forms and JSON; and a real server that is sent all kinds of hostile things."""

import asyncio
import random

import pytest

from load_tests.hostile import Run
from load_tests.hostile_inputs import (
    PARAMETERS,
    SAVED_AS,
    damage,
    damaged_form,
    damaged_json,
    damaged_picture,
    hostile_request,
    pictures,
)
from load_tests.server import running_server
from tests.integration.test_errors import problem_of

NUM_EACH = 250
# The last: a form may allow a millisecond.
REFUSED = {400, 404, 413, 422, 504}
STAND_IN = ("-m", "load_tests.stand_in", "--image-ms", "1", "--batch-ms", "1")


def ask(service, number, content, media_type="image/jpeg", query="boxes=[]"):
    response = service.client.post(
        f"/v1/densepose?{query}", content=content, headers={"content-type": media_type}
    )
    if response.status_code != 200:
        assert problem_of(response)["status"] in REFUSED, number
    return response.status_code


def test_a_damaged_picture_is_described_or_refused(make_service):
    service = make_service()
    statuses = {
        ask(service, number, damaged_picture(random.Random(number)), query="outputs=labels")
        for number in range(2 * NUM_EACH)
    }
    assert statuses >= {200, 422}


@pytest.mark.parametrize(("make", "query"), [(damaged_form, "boxes=[]"), (damaged_json, "")])
def test_a_damaged_body_is_described_or_refused(service, make, query):
    statuses = set()
    for number in range(NUM_EACH):
        media_type, body = make(random.Random(number))
        statuses.add(ask(service, number, body, media_type, query))
    assert statuses >= {200, 400, 422}


@pytest.mark.parametrize("query", PARAMETERS)
def test_a_strange_parameter_is_taken_or_refused(service, query):
    response = service.client.post(f"/v1/densepose?{query}", content=pictures()[0])
    if response.status_code != 200:
        assert problem_of(response)["code"] in {
            *("invalid_parameter", "unknown_model", "unsupported_output", "answer_too_large"),
            *("malformed_request", "deadline_exceeded"),
        }


def test_the_sound_pictures_among_them_are_all_read(make_service):
    service = make_service()
    # The last of the sizes is so long that nothing would be left of its short side.
    assert {ask(service, 0, picture) for picture in pictures()[: -len(SAVED_AS)]} == {200}


def test_damage_depends_on_its_seed_alone():
    assert damage(random.Random(1), b"abc" * 50) == damage(random.Random(1), b"abc" * 50)
    assert hostile_request(random.Random(2)) == hostile_request(random.Random(2))
    assert len({hostile_request(random.Random(seed)) for seed in range(100)}) > 90


def test_a_real_server_answers_hostile_requests_as_it_should_and_good_ones_beside_them(tmp_path):
    settings = {"DEFAULT_MODEL": "demo", "MODEL_STORE": str(tmp_path), "UPLOAD_TIMEOUT_MS": "500"}
    log = tmp_path / "log"
    with running_server(settings | {"LOG_LEVEL": "warning"}, log, STAND_IN) as server:
        run = Run(server.port, server.process.pid, num_requests=800, rate=200, seed=7)
        asyncio.run(run.attack())
    assert run.record.defects == []
    assert "Traceback" not in log.read_text(errors="replace")
    assert run.record.num_sent == 800
    assert run.record.good_s
    kinds = {outcome.split()[0] for outcome in run.record.outcomes}
    assert kinds >= {"200", "400", "404", "405", "406", "408", "413", "415", "422", "431", "slow,"}
