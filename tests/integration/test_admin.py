"""Loading and unloading models over HTTP, with the admin key and without."""

import hashlib

import pytest

from service.api.access import Access
from tests.integration.test_errors import problem_of

KEY = "open sesame"
DIGEST = hashlib.sha256(KEY.encode()).hexdigest()
WITH_KEY = [{"Authorization": f"Bearer {KEY}"}, {"X-API-Key": KEY}]
WITHOUT_KEY = [
    {},
    {"Authorization": "Bearer open"},
    {"Authorization": f"Basic {KEY}"},
    {"X-API-Key": DIGEST},
    {"X-API-Key": ""},
]


@pytest.mark.parametrize("action", ["load", "unload"])
@pytest.mark.parametrize("headers", [{}, *WITH_KEY])
def test_without_an_admin_key_set_nobody_may(service, action, headers):
    response = service.client.post(f"/v1/models/demo/{action}", headers=headers)
    assert problem_of(response)["code"] == "forbidden"
    assert response.status_code == 403
    assert not service.device.models.loads
    assert not service.device.models.unloads


@pytest.mark.parametrize("action", ["load", "unload"])
@pytest.mark.parametrize("headers", WITHOUT_KEY)
def test_a_missing_or_wrong_key_is_refused(make_service, action, headers):
    service = make_service(access=Access(None, DIGEST))
    response = service.client.post(f"/v1/models/demo/{action}", headers=headers)
    assert problem_of(response)["code"] == "unauthorized"
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert not service.device.models.loads
    assert not service.device.models.unloads


@pytest.mark.parametrize("headers", WITH_KEY)
@pytest.mark.parametrize("name", ["R_50_FPN_s1x", "165712039", "densepose_rcnn_R_50_FPN_s1x"])
def test_the_key_loads_and_unloads_by_any_of_the_names(make_service, headers, name):
    service = make_service(access=Access(None, DIGEST))
    loaded = service.client.post(f"/v1/models/{name}/load", headers=headers)
    unloaded = service.client.post(f"/v1/models/{name}/unload", headers=headers)
    assert (loaded.status_code, unloaded.status_code) == (202, 202)
    assert loaded.json()["id"] == unloaded.json()["id"] == "R_50_FPN_s1x"
    assert [card.id for card in service.device.models.loads] == ["R_50_FPN_s1x"]
    assert service.device.models.unloads == ["R_50_FPN_s1x"]


def test_a_name_with_a_slash_is_a_name(make_service):
    service = make_service(access=Access(None, DIGEST))
    response = service.client.post(
        "/v1/models/cse/densepose_rcnn_R_50_FPN_s1x/load", headers=WITH_KEY[0]
    )
    assert response.json()["id"] == "cse_R_50_FPN_s1x"


def test_an_unknown_model_cannot_be_loaded(make_service):
    service = make_service(access=Access(None, DIGEST))
    response = service.client.post("/v1/models/nothing/load", headers=WITH_KEY[0])
    assert problem_of(response)["code"] == "unknown_model"
