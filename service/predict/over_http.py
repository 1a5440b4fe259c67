"""Images described by a server, or by several behind a load balancer."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from service.client import (
    AsyncDensePose,
    DensePoseError,
    OutOfTime,
    Refused,
    ServerUnreachable,
    UnreadableAnswer,
)
from service.predict.describing import CannotGoOn, Describe, NotDescribed

# How long a server may be gone or busy: somewhat more than replicas take to be replaced.
PATIENCE_S = 600.0
MAX_RETRIES = 10_000
# At the beginning it is more likely that the address is wrong.
FIRST_ANSWER_S, FIRST_RETRIES = 30.0, 3
# What is true of every image that is asked about in the same way.
FATAL_CODES = frozenset(
    (
        *("unauthorized", "forbidden", "unknown_model", "not_found", "method_not_allowed"),
        *("not_acceptable", "unsupported_output", "checkpoint_unavailable", "headers_too_large"),
    )
)


@asynccontextmanager
async def describing(
    url: str, api_key: str | None, wishes: Mapping[str, Any], media_type: str
) -> AsyncIterator[Describe]:
    """Describes images by a server, until the end of the block.

    Raises:
        CannotGoOn: it does not answer, or not as a server of ours, or has no such model.
    """
    try:
        async with AsyncDensePose(
            url, api_key=api_key, timeout_s=FIRST_ANSWER_S, max_retries=FIRST_RETRIES
        ) as server:
            model = wishes.get("model")
            await (server.models() if model is None else server.model(model))
    except DensePoseError as error:
        raise CannotGoOn(str(error), code=_code_of(error)) from error
    async with AsyncDensePose(
        url, api_key=api_key, timeout_s=PATIENCE_S, max_retries=MAX_RETRIES
    ) as server:

        async def describe(image: bytes) -> bytes:
            try:
                return await server.fetch(image, media_type, **wishes)
            except DensePoseError as error:
                raise _translated(error) from error

        yield describe


def _translated(error: DensePoseError) -> NotDescribed | CannotGoOn:
    code = _code_of(error)
    if code in FATAL_CODES or isinstance(error, ServerUnreachable):
        return CannotGoOn(str(error), code=code)
    return NotDescribed(str(error), code=code)


def _code_of(error: DensePoseError) -> str:
    match error:
        case Refused():
            return error.code or f"status_{error.status}"
        case ServerUnreachable():
            return "server_unreachable"
        case OutOfTime():
            return "out_of_time"
        case UnreadableAnswer():
            return "unreadable_answer"
    return "failed"
