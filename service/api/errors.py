"""The error table: what each error of ours is over HTTP, and how it is written."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from model_store.errors import (
    CheckpointRejected,
    CheckpointUnavailable,
    ModelNotAdded,
    UnknownModel,
)
from service.api.record import record_of
from service.errors import (
    AnswerTooLarge,
    BodyTooLarge,
    ClientLeft,
    DeadlineExceeded,
    DeviceFailed,
    DeviceUnavailable,
    Draining,
    Forbidden,
    ForbiddenOrigin,
    HeadersTooLarge,
    ImageTooLarge,
    InvalidParameter,
    InvalidSetting,
    MalformedRequest,
    ModelLoading,
    NotAcceptable,
    OutOfMemory,
    Overloaded,
    SlowUpload,
    Unauthorized,
    UndecodableImage,
    Unhealthy,
    UnknownHost,
    UnsupportedMediaType,
    UnsupportedOutput,
)

PROBLEM_MEDIA_TYPE = "application/problem+json"
MAX_RETRY_AFTER_S = 30


@dataclass(frozen=True, slots=True)
class Problem:
    """What an error is over HTTP: its status, its stable code, and what the code stands for."""

    status: int
    code: str
    title: str
    retry_after_s: int | None = None


INTERNAL_ERROR = Problem(500, "internal_error", "A defect of the service")
INVALID_PARAMETER = Problem(422, "invalid_parameter", "A parameter cannot be used")
CHECKPOINT_UNAVAILABLE = Problem(
    502, "checkpoint_unavailable", "The model's file could not be had, or did not verify"
)
UNHEALTHY = Problem(503, "unhealthy", "The device cannot answer", retry_after_s=10)

PROBLEM_OF: Mapping[type[Exception], Problem] = {
    MalformedRequest: Problem(400, "malformed_request", "The body cannot be read"),
    Unauthorized: Problem(401, "unauthorized", "A key is missing or wrong"),
    Forbidden: Problem(403, "forbidden", "This may not be done here"),
    ForbiddenOrigin: Problem(403, "forbidden_origin", "Pages of this origin may not ask"),
    UnknownModel: Problem(404, "unknown_model", "No model has this name"),
    NotAcceptable: Problem(406, "not_acceptable", "The answer has no such form"),
    SlowUpload: Problem(408, "slow_upload", "The body did not arrive in time"),
    HeadersTooLarge: Problem(431, "headers_too_large", "The headers are too large"),
    BodyTooLarge: Problem(413, "body_too_large", "The body has too many bytes"),
    ImageTooLarge: Problem(413, "image_too_large", "The image has too many pixels"),
    UnsupportedMediaType: Problem(
        415, "unsupported_media_type", "A body of this type is not read here"
    ),
    UnknownHost: Problem(421, "unknown_host", "The service has another name"),
    UndecodableImage: Problem(422, "undecodable_image", "The bytes are not an image"),
    InvalidParameter: INVALID_PARAMETER,
    UnsupportedOutput: Problem(422, "unsupported_output", "The model has no such map"),
    AnswerTooLarge: Problem(422, "answer_too_large", "The answer has too many bytes"),
    Overloaded: Problem(429, "overloaded", "The service is busy", retry_after_s=1),
    # Nobody reads this one: it is for the log and the metrics.
    ClientLeft: Problem(499, "client_left", "The client left"),
    CheckpointUnavailable: CHECKPOINT_UNAVAILABLE,
    CheckpointRejected: CHECKPOINT_UNAVAILABLE,
    ModelLoading: Problem(503, "loading", "The model is being loaded", retry_after_s=5),
    Draining: Problem(503, "draining", "The service is shutting down", retry_after_s=5),
    Unhealthy: UNHEALTHY,
    DeviceFailed: UNHEALTHY,
    DeadlineExceeded: Problem(504, "deadline_exceeded", "The work took too long"),
    OutOfMemory: Problem(507, "out_of_memory", "The image does not fit the device"),
    # Of the command line and the start: no request can meet them.
    DeviceUnavailable: INTERNAL_ERROR,
    InvalidSetting: INTERNAL_ERROR,
    ModelNotAdded: INVALID_PARAMETER,
}

FRAMEWORK_PROBLEMS: Mapping[int, tuple[Problem, str]] = {
    404: (
        Problem(404, "not_found", "There is nothing at this address"),
        "Nothing is at this address: /docs lists what there is.",
    ),
    405: (
        Problem(405, "method_not_allowed", "The address does not take this method"),
        "This address does not take this method: the Allow header names those that it takes.",
    ),
}


def problem_body(problem: Problem, *, detail: str, request_id: str) -> dict[str, Any]:
    """The JSON of an error. RFC 9457."""
    return {
        "type": f"urn:densepose:error:{problem.code}",
        "title": problem.title,
        "status": problem.status,
        "detail": detail,
        "code": problem.code,
        "request_id": request_id,
    }


def problem_response(
    request: Request, problem: Problem, detail: str, headers: Mapping[str, str] | None = None
) -> Response:
    """The error as the client reads it; its code is noted in the request's record."""
    record = record_of(request.scope)
    record.code = problem.code
    headers = dict(headers or {})
    if problem.retry_after_s is not None:
        headers.setdefault("Retry-After", str(problem.retry_after_s))
    body = problem_body(problem, detail=detail, request_id=record.request_id)
    return Response(json.dumps(body), problem.status, headers, PROBLEM_MEDIA_TYPE)


def internal_error_response(request: Request) -> Response:
    """The answer to what was not foreseen; says nothing about it."""
    detail = "The service failed on this request; its log has the reason under the request_id."
    return problem_response(request, INTERNAL_ERROR, detail)


async def answer_expected_error(request: Request, error: Exception) -> Response:
    """The answer to an error that the service or the model store raised on purpose."""
    problem = next(PROBLEM_OF[cls] for cls in type(error).__mro__ if cls in PROBLEM_OF)
    if problem is INTERNAL_ERROR:
        raise error
    headers = {}
    if isinstance(error, SlowUpload):
        # The body would otherwise go on arriving on a connection that is kept open.
        headers["Connection"] = "close"
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    if problem.retry_after_s is not None:
        record_of(request.scope).refusal = problem.code
    if isinstance(error, Overloaded):
        record_of(request.scope).refusal = error.reason
        headers["Retry-After"] = str(retry_after_s(error.retry_after_s))
    return problem_response(request, problem, str(error), headers)


def retry_after_s(estimate_s: float) -> int:
    """Whole seconds for a client to wait; an estimate that is far off should not cost an hour."""
    return min(max(math.ceil(estimate_s), 1), MAX_RETRY_AFTER_S)


async def answer_framework_error(request: Request, error: Exception) -> Response:
    """The answer to an error that the web framework raised: no such path, or no such method."""
    status = cast("HTTPException", error)
    problem, detail = FRAMEWORK_PROBLEMS[status.status_code]
    return problem_response(request, problem, detail, status.headers)
