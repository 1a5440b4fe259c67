"""Where a request's record stands on its way through the middleware and the routes."""

from starlette.types import Scope

from service.pipeline.record import Record

SCOPE_KEY = "densepose.record"
# Why a request is not read on: an error of ours, noted by the connection that it comes on.
REFUSAL_KEY = "densepose.refusal"


def record_of(scope: Scope) -> Record:
    """The record that the middleware put there."""
    record: Record = scope[SCOPE_KEY]
    return record
