"""The OpenAPI document, against its checked-in copy: `python -m tests.integration.test_openapi`
writes that anew."""

import json
from pathlib import Path

from service.pipeline.parameters import Parameters
from tests.integration.conftest import build_service
from tests.integration.test_errors import DOCUMENTED

COPY = Path(__file__).with_name("openapi.json")


def test_the_document_is_the_one_that_is_checked_in(service):
    document = service.client.get("/openapi.json").json()
    assert document == json.loads(COPY.read_text()), f"run python -m {__spec__.name}"


def test_every_form_of_the_body_and_every_error_has_an_example(service):
    operation = service.app.openapi()["paths"]["/v1/densepose"]["post"]
    for media_type, body in operation["requestBody"]["content"].items():
        assert "example" in body or body["schema"].get("format") == "binary", media_type
    codes = {
        code: response["content"]["application/problem+json"]["examples"][code]["value"]["status"]
        for response in operation["responses"].values()
        for code in response["content"].get("application/problem+json", {}).get("examples", {})
    }
    of_other_paths = {"not_found", "method_not_allowed"}
    assert codes == {
        code: status for code, status in DOCUMENTED.items() if code not in of_other_paths
    }


def test_the_parameters_are_the_same_in_every_form(service):
    operation = service.app.openapi()["paths"]["/v1/densepose"]["post"]
    content = operation["requestBody"]["content"]
    names = set(Parameters.model_fields)
    assert {parameter["name"] for parameter in operation["parameters"]} == names
    for media_type in ("application/json", "multipart/form-data"):
        assert set(content[media_type]["schema"]["properties"]) == names | {"image", "atlas"}


def test_what_the_page_fills_in_is_a_default_or_empty(service):
    document = service.app.openapi()
    operation = document["paths"]["/v1/densepose"]["post"]
    for parameter in operation["parameters"]:
        assert not {"example", "examples"} & {*parameter, *parameter["schema"]}, parameter["name"]
    form = operation["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
    for name in Parameters.model_fields:
        assert "default" in form[name] or form[name]["examples"] == [""], name
    for path, operations in document["paths"].items():
        of_path = [
            p for o in operations.values() for p in o.get("parameters", ()) if p["in"] == "path"
        ]
        assert all(parameter["examples"] for parameter in of_path), path


def test_every_reference_leads_somewhere(service):
    text = json.dumps(service.app.openapi())
    schemas = service.app.openapi()["components"]["schemas"]
    for piece in text.split('"#/components/schemas/')[1:]:
        assert piece.partition('"')[0] in schemas


def test_the_documentation_is_served(service):
    assert "/openapi.json" in service.client.get("/docs").text


if __name__ == "__main__":
    COPY.write_text(json.dumps(build_service().app.openapi(), indent=1) + "\n")
