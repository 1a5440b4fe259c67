"""POST /v1/densepose: a question about an image as HTTP brings it, its answer as HTTP sends it."""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from contextlib import ExitStack
from functools import partial
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive

from service.api.body import declared_length, read_body
from service.api.negotiation import OF_ALL, accepts_gzip, choose_media_type, types_with
from service.api.record import record_of
from service.api.sending import ChunkedResponse
from service.api.submission import Submission, parser_for
from service.batching.inflight import Holding, InflightBytes
from service.errors import ClientLeft
from service.output.chunks import total_bytes
from service.pipeline.parameters import check_parameters
from service.pipeline.pipeline import Pipeline, Written, run_if_large, until
from service.settings import Settings

T = TypeVar("T")


class DensePose:
    """The endpoint."""

    def __init__(self, pipeline: Pipeline, inflight: InflightBytes, settings: Settings) -> None:
        self._pipeline = pipeline
        self._inflight = inflight
        self._settings = settings

    async def answer(self, request: Request) -> Response:
        """Describe the people or animals in one image."""
        # What no answer of any kind could be is refused at once.
        choose_media_type(_all_of(request, "accept"), OF_ALL)
        # Whom the queue has no room for is told so before the body is read.
        self._pipeline.engine.check(self._named_model(request))
        with ExitStack() as stack:
            holding = stack.enter_context(self._inflight.hold(_owner_of(request)))
            work = self._describe(request, await self._read(request, holding), holding)
            written = await _unless_client_leaves(request.receive, work)
            headers = {"Vary": "Accept, Accept-Encoding"}
            if written.encoding is not None:
                headers["Content-Encoding"] = written.encoding
            # What is written is held until it is sent.
            return ChunkedResponse(
                written.chunks,
                holding,
                stack.pop_all().close,
                headers=headers,
                media_type=written.media_type,
            )

    def _named_model(self, request: Request) -> str | None:
        """The model that is asked for, as far as that is known without the body."""
        media_type = request.headers.get("content-type", "")
        may_body_tell = media_type.startswith(("multipart/", "application/json"))
        default = None if may_body_tell else self._settings.default_model
        return request.query_params.get("model", default)

    async def _read(self, request: Request, holding: Holding) -> Callable[[], Submission]:
        """The body, yet to be taken apart."""
        record, settings = record_of(request.scope), self._settings
        with record.timed("read"):
            parse = parser_for(request.headers)
            length = declared_length(request.headers)
            # Whose body would not fit now is told so before it is sent.
            holding.check(length or 0)
            body = await read_body(
                request.receive,
                length,
                max_bytes=settings.max_body_bytes,
                timeout_s=settings.upload_timeout_ms / 1000,
                hold=holding.resize,
            )
        record.body_bytes = len(body)
        return partial(parse, body)

    async def _describe(
        self, request: Request, parse: Callable[[], Submission], holding: Holding
    ) -> Written:
        """An accepted request, from its body to its answer."""
        record, pipeline = record_of(request.scope), self._pipeline
        with pipeline.engine.admit():
            # What the client allows stands in what is read here.
            async with until(record.arrived_s + self._settings.timeout_ms / 1000):
                with record.timed("read"):
                    num_bytes = record.body_bytes or 0
                    submission = await run_if_large(num_bytes, pipeline.threads.decoders, parse)
            parameters = check_parameters(request.query_params.multi_items(), submission.parameters)
            offered = types_with(parameters.render)
            plan = pipeline.plan(
                parameters,
                choose_media_type(_all_of(request, "accept"), offered),
                has_atlas=submission.pictures.atlas is not None,
            )
            timeout_ms = self._settings.timeout_ms
            timeout_ms = min(parameters.timeout_ms or timeout_ms, timeout_ms)
            deadline_s = record.arrived_s + timeout_ms / 1000
            task = pipeline.prepare(submission.pictures, plan, record, holding, deadline_s)
            # Nobody else may hold the body, and then the pixels, while the request waits.
            del parse, submission
            written = await pipeline.answer(
                await task, may_compress=accepts_gzip(_all_of(request, "accept-encoding"))
            )
        holding.replace(total_bytes(written.chunks))
        return written


def _owner_of(request: Request) -> Hashable:
    """Who a request counts for, together with others: its key or, without one, its connection."""
    return record_of(request.scope).key_name or request.scope.get("client")


def _all_of(request: Request, header: str) -> str | None:
    """The header's value; where it stands several times, all of them as the one list they are."""
    return ", ".join(request.headers.getlist(header)) or None


async def _unless_client_leaves(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    working, watching = asyncio.ensure_future(work), asyncio.ensure_future(_client_left(receive))
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientLeft("The client left before the answer.")
        return working.result()
    finally:
        working.cancel()
        watching.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _client_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
