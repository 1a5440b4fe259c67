"""The OpenAPI document: what the routes take and give, beyond what their signatures say."""

from collections.abc import Iterable
from itertools import groupby
from typing import Any, Literal

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from service.api.access import OPEN_PATHS
from service.api.errors import (
    INTERNAL_ERROR,
    PROBLEM_MEDIA_TYPE,
    PROBLEM_OF,
    Problem,
    problem_body,
)
from service.api.examples import (
    DESCRIPTION,
    EXAMPLE_ANSWER,
    EXAMPLE_FORM,
    EXAMPLE_JSON,
    HEADERS,
)
from service.api.schemas import ProblemDetails
from service.errors import (
    ClientLeft,
    Forbidden,
    ForbiddenOrigin,
    Overloaded,
    Unauthorized,
    UnknownHost,
)
from service.output.media import COCO, NPY, NPZ, PNG, ZIP
from service.pipeline.parameters import Parameters
from service.pipeline.schemas import Answer

REFERENCE = "#/components/schemas/{model}"
BINARY = {"type": "string", "format": "binary"}
# A key may come in either way; a server without keys asks for none.
KEYS = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
KEYS_OF_ALL: list[dict[str, list[str]]] = [{}, {"bearer": []}, {"header": []}]


def document(app: FastAPI) -> dict[str, Any]:
    """The application's OpenAPI document."""
    openapi = get_openapi(
        title=app.title,
        version=app.version,
        description=DESCRIPTION,
        routes=app.routes,
        # Where the document itself is: the edge may have taken a prefix off.
        servers=[{"url": "."}],
    )
    schemas: dict[str, Any] = openapi["components"]["schemas"]
    for model in (Answer, ProblemDetails):
        schemas |= _definitions(model, "serialization")
    _drop_framework_errors(openapi)
    openapi["components"]["securitySchemes"] = KEYS
    for path, operations in openapi["paths"].items():
        for operation in operations.values():
            operation["responses"] |= {**OF_PAGES, **operation["responses"]}
            if path not in OPEN_PATHS:
                operation["security"] = KEYS_OF_ALL
                operation["responses"] |= {**OF_KEYS, **operation["responses"]}
    return openapi


# Nobody reads the first; the other is of the administrator's paths.
NEVER_OF_IMAGES = {ClientLeft, Forbidden}


def problem_responses(problems: Iterable[Problem]) -> dict[int | str, dict[str, Any]]:
    """What these errors, and a defect of ours, look like: by status, each code as an example."""
    by_code = {problem.code: problem for problem in (*problems, INTERNAL_ERROR)}
    in_order = sorted(by_code.values(), key=lambda problem: problem.status)
    return {
        status: _problem_response(list(group))
        for status, group in groupby(in_order, key=lambda problem: problem.status)
    }


def densepose_responses() -> dict[int | str, dict[str, Any]]:
    """The answers about an image, and everything that can go wrong on the way to one."""
    answer = {
        "description": "All that was found in the image, or the render that was asked for.",
        "headers": {
            name: {"description": text, "schema": {"type": "string"}}
            for name, text in HEADERS.items()
        },
        "content": {
            "application/json": {
                "schema": {"$ref": REFERENCE.format(model="Answer")},
                "example": EXAMPLE_ANSWER,
            },
            **{media_type: {"schema": BINARY} for media_type in (PNG, ZIP, NPZ, NPY)},
            COCO: {"schema": {"type": "array", "items": {"type": "object"}}},
        },
    }
    problems = (problem for error, problem in PROBLEM_OF.items() if error not in NEVER_OF_IMAGES)
    return {200: answer} | problem_responses(problems)


def densepose_operation() -> dict[str, Any]:
    """The parameters and the bodies of a request about an image."""
    properties = _definitions(Parameters, "validation")["Parameters"]["properties"]
    in_json = {name: _with_example_in_words(schema) for name, schema in properties.items()}
    in_text = {name: _text_form(schema) for name, schema in in_json.items()}
    parameters = [
        {
            "name": name,
            "in": "query",
            "description": schema["description"],
            "schema": {key: schema[key] for key in schema if key != "description"},
        }
        for name, schema in in_text.items()
    ]
    raw = {"schema": BINARY}
    form = {"schema": _with_pictures(_left_empty(in_text), BINARY), "example": EXAMPLE_FORM}
    base64 = {"type": "string", "format": "byte", "contentEncoding": "base64"}
    json = {"schema": _with_pictures(in_json, base64), "example": EXAMPLE_JSON}
    content = {
        "image/*": raw,
        "application/octet-stream": raw,
        "multipart/form-data": form,
        "application/json": json,
    }
    return {"parameters": parameters, "requestBody": {"required": True, "content": content}}


def _drop_framework_errors(openapi: dict[str, Any]) -> None:
    """No route leaves its checks to the framework, so none answers in the framework's form."""
    for name in ("HTTPValidationError", "ValidationError"):
        openapi["components"]["schemas"].pop(name, None)
    for path in openapi["paths"].values():
        for operation in path.values():
            if "application/json" in operation["responses"].get("422", {}).get("content", {}):
                del operation["responses"]["422"]


def _definitions(
    model: type[BaseModel], mode: Literal["validation", "serialization"]
) -> dict[str, Any]:
    _, schema = models_json_schema([(model, mode)], ref_template=REFERENCE)
    definitions: dict[str, Any] = schema["$defs"]
    for definition in definitions.values():
        for field in definition.get("properties", {}).values():
            field.pop("title", None)
            # Of what may be left out, and cannot be null.
            if field.get("default", ...) is None:
                del field["default"]
    return definitions


def _with_example_in_words(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with its example in the description.

    The page /docs would fill an example in, and so send all of them, which make no sense together.
    """
    (example,) = schema["examples"]
    described = f"{schema['description']} Example: `{example}`."
    kept = {key: value for key, value in schema.items() if key != "examples"}
    return kept | {"description": described}


def _text_form(schema: dict[str, Any]) -> dict[str, Any]:
    """How a parameter looks in a query or a form, where lists are text."""
    if "anyOf" not in schema:
        return schema
    return {key: value for key, value in schema.items() if key != "anyOf"} | {"type": "string"}


def _left_empty(properties: dict[str, Any]) -> dict[str, Any]:
    """The fields of a form, each empty until somebody fills it in, unless it has a default.

    The page /docs would fill them in with values that it makes up.
    """
    return {
        name: schema if "default" in schema else schema | {"examples": [""]}
        for name, schema in properties.items()
    }


def _with_pictures(properties: dict[str, Any], picture: dict[str, Any]) -> dict[str, Any]:
    pictures = {
        "image": picture | {"description": "The encoded image."},
        "atlas": picture | {"description": "For render=texture: 4 N x 6 N pixels, encoded."},
    }
    return {
        "type": "object",
        "required": ["image"],
        "properties": pictures | properties,
        "additionalProperties": False,
    }


def _problem_response(problems: list[Problem]) -> dict[str, Any]:
    examples = {
        problem.code: {
            "value": problem_body(
                problem,
                detail="What is wrong with this request, and what to do.",
                request_id="5f0c7a2e9b1d4c38a6e2f4d1b7c90a35",
            )
        }
        for problem in problems
    }
    response: dict[str, Any] = {
        "description": "; ".join(problem.title for problem in problems),
        "content": {
            PROBLEM_MEDIA_TYPE: {
                "schema": {"$ref": REFERENCE.format(model="ProblemDetails")},
                "examples": examples,
            }
        },
    }
    if any(problem.retry_after_s is not None for problem in problems):
        response["headers"] = {"Retry-After": {"schema": {"type": "integer"}}}
    return response


def _of_any_path(*errors: type[Exception]) -> dict[str, dict[str, Any]]:
    responses = problem_responses(PROBLEM_OF[error] for error in errors)
    return {str(status): response for status, response in responses.items()}


# What a path may answer whatever else it does: any, and one that needs a key.
OF_PAGES = _of_any_path(ForbiddenOrigin, UnknownHost)
OF_KEYS = _of_any_path(Unauthorized, Overloaded)
