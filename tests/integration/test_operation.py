"""What machines and operators see: models, health, metrics, the log."""

import logging

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.conftest import HEIGHT, WIDTH, picture


def sample(service, name, **labels):
    return sample_in(service.client.get("/metrics").text, name, **labels)


def sample_in(text, name, **labels):
    """The sum over all samples of this name that have these labels, in a scrape."""
    found = [
        each.value
        for family in text_string_to_metric_families(text)
        for each in family.samples
        if each.name == name and labels.items() <= each.labels.items()
    ]
    return sum(found)


def test_the_models_are_listed_with_what_they_can_do(service):
    listing = service.client.get("/v1/models").json()
    assert listing["default"] == "demo"
    models = {model["id"]: model for model in listing["models"]}
    assert len(models) == 44
    chart, cse = models["R_50_FPN_s1x"], models["cse_R_50_FPN_soft_animals_finetune_4k"]
    assert (chart["kind"], cse["kind"]) == ("chart", "cse")
    assert chart["outputs"] == ["iuv", "iuv16", "labels", "coarse", "mask", "uv", "texture"]
    assert cse["outputs"] == ["vertices", "coarse", "mask", "embedding", "vertex_colours"]
    assert chart["classes"] == ["person"]
    assert "cat_5001" in cse["meshes"]
    assert chart["source"].startswith("https://")
    assert chart["state"] == "stored"
    assert chart["bytes_on_device"] is None


@pytest.mark.parametrize(
    ("name", "model_id"),
    [
        ("demo", "demo"),
        ("r_50_fpn_S1X", "R_50_FPN_s1x"),
        ("165712039", "R_50_FPN_s1x"),
        ("cse/densepose_rcnn_R_50_FPN_s1x", "cse_R_50_FPN_s1x"),
    ],
)
def test_a_model_is_shown_by_its_id_or_an_alias(service, name, model_id):
    assert service.client.get(f"/v1/models/{name}").json()["id"] == model_id


@pytest.mark.parametrize(("path", "probe"), [("/livez", "liveness"), ("/readyz", "readiness")])
def test_health_is_200_or_503_with_the_reason(service, path, probe):
    assert service.client.get(path).status_code == 200
    service.device.found[probe] = (False, "the device is lost")
    response = service.client.get(path)
    assert response.status_code == 503
    assert response.json() == {"status": "unavailable", "reason": "the device is lost"}
    assert "retry-after" in response.headers


def test_a_request_is_counted_by_model_and_outcome(service):
    service.ask()
    service.ask(params={"outputs": "vertices"})
    service.ask(b"no image")
    service.ask(params={"model": "what"})
    service.client.get("/v1/densepose")
    for model, outcome in [
        ("demo", "success"),
        ("unknown", "unsupported_output"),
        ("demo", "undecodable_image"),
        ("unknown", "unknown_model"),
    ]:
        assert sample(service, "densepose_requests_total", model=model, outcome=outcome) == 1
    assert sample(service, "densepose_requests_total") == 4
    assert (
        sample(
            service,
            "densepose_http_requests_total",
            route="/v1/densepose",
            method="GET",
            status="405",
        )
        == 1
    )


def test_what_clients_invent_does_not_become_a_label(service):
    service.client.get("/secret/path")
    service.client.request("BREW", "/v1/models")
    service.client.get("/v1/models/invented")
    text = service.client.get("/metrics").text
    for invented in ("secret", "BREW", "invented"):
        assert invented not in text
    assert 'route="other"' in text
    assert 'route="/v1/models/{name:path}"' in text


def test_a_request_is_measured(service):
    response = service.ask(accept_encoding="identity")
    assert sample(service, "densepose_request_duration_seconds_count", model="demo") == 1
    for stage in ("read", "decode", "queue", "preprocess", "network", "postprocess", "encode"):
        name = "densepose_stage_duration_seconds_count"
        count = sample(service, name, stage=stage, model="demo")
        assert count == 1, stage
    assert sample(service, "densepose_stage_duration_seconds_sum", stage="network") == 0.003
    assert sample(service, "densepose_image_pixels_sum") == WIDTH * HEIGHT
    assert sample(service, "densepose_instances_per_image_sum", model="demo") == 2
    assert sample(service, "densepose_response_bytes_sum", media_type="application/json") == len(
        response.content
    )
    assert sample(service, "densepose_build_info", version="test") == 1


def test_a_request_is_one_line_in_the_log(service, caplog):
    caplog.set_level(logging.INFO, logger="service")
    body = picture()
    response = service.ask(body, x_request_id="abc")
    (record,) = caplog.records
    fields = record.fields
    assert fields["id"] == "abc"
    assert (fields["method"], fields["path"]) == ("POST", "/v1/densepose")
    assert (fields["status"], fields["outcome"], fields["model"]) == (200, "success", "demo")
    assert (fields["body_bytes"], fields["image_pixels"]) == (len(body), WIDTH * HEIGHT)
    assert fields["instances"] == 2
    assert fields["response_bytes"] == int(response.headers["content-length"])
    assert fields["timing_ms"]["total"] > 0


def test_probes_and_scrapes_do_not_fill_the_log(service, caplog):
    caplog.set_level(logging.INFO, logger="service")
    for path in ("/livez", "/readyz", "/metrics"):
        service.client.get(path)
    assert caplog.records == []
