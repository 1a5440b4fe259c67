"""POST /v1/densepose: the way of one image through this process."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Hashable
from concurrent.futures import Executor
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ParamSpec, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive

from service.api.answer import canvases_of, jobs_of, write_answer
from service.api.answer_size import AnswerSize, known_regions
from service.api.backend import Backend
from service.api.body import declared_length, read_body
from service.api.inflight import Holding, InflightBytes
from service.api.negotiation import OF_ALL, accepts_gzip, choose_media_type, types_with
from service.api.parameters import check_parameters
from service.api.pieces import Draft
from service.api.plan import Plan, plan_answer
from service.api.preparation import Prepared, prepare
from service.api.record import Record, record_of
from service.api.room import AnswerRoom
from service.api.sending import ChunkedResponse
from service.api.submission import Submission, parser_for
from service.batching.pool import FairPool
from service.datatypes import Prediction
from service.errors import ClientLeft, DeadlineExceeded
from service.imaging.decoders import Decoders
from service.output.chunks import Chunks, gzip_of, total_bytes
from service.output.media import COCO, JSON

P = ParamSpec("P")
T = TypeVar("T")

MIN_GZIP_BYTES = 1024
# What is done with so few bytes takes no longer than to hand it to a thread.
SMALL_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may take, and all of them together."""

    timeout_ms: int
    upload_timeout_ms: int
    max_body_bytes: int
    max_pixels: int
    max_inflight_bytes: int
    max_answer_bytes: int
    max_connections: int = 1000


@dataclass(frozen=True, slots=True)
class Threads:
    """Where all that takes more than microseconds runs.

    There are two pools, so that many uploads to decode keep no answer from being encoded, and
    costly pictures, which may be small files, are decoded in processes.
    """

    decoders: FairPool
    encoders: FairPool
    pictures: Decoders


@dataclass(frozen=True, slots=True)
class _Task:
    """A request that was understood: what is left of it on the way to the device."""

    plan: Plan
    prepared: Prepared
    deadline_s: float
    room: AnswerRoom


@dataclass(frozen=True, slots=True)
class _Written:
    """An answer that is yet to be sent."""

    chunks: Chunks
    headers: dict[str, str]
    media_type: str


class DensePose:
    """The endpoint."""

    def __init__(
        self,
        *,
        backend: Backend,
        default_model: str,
        limits: Limits,
        inflight: InflightBytes,
        threads: Threads,
    ) -> None:
        self._backend = backend
        self._default_model = default_model
        self._limits = limits
        self._inflight = inflight
        self._threads = threads

    async def answer(self, request: Request) -> Response:
        """Describe the people or animals in one image."""
        # What no answer of any kind could be is refused at once.
        choose_media_type(_all_of(request, "accept"), OF_ALL)
        # Whom the queue has no room for is told so before the body is read.
        self._backend.queue.check(self._named_model(request))
        with ExitStack() as stack:
            holding = stack.enter_context(self._inflight.hold(_owner_of(request)))
            work = self._describe(request, await self._read(request, holding), holding)
            written = await _unless_client_leaves(request.receive, work)
            # What is written is held until it is sent.
            return ChunkedResponse(
                written.chunks,
                holding,
                stack.pop_all().close,
                headers=written.headers,
                media_type=written.media_type,
            )

    def _named_model(self, request: Request) -> str | None:
        """The model that is asked for, as far as that is known without the body."""
        media_type = request.headers.get("content-type", "")
        may_body_tell = media_type.startswith(("multipart/", "application/json"))
        default = None if may_body_tell else self._default_model
        return request.query_params.get("model", default)

    async def _read(self, request: Request, holding: Holding) -> Callable[[], Submission]:
        """The body, yet to be taken apart."""
        record = record_of(request.scope)
        with record.timed("read"):
            parse = parser_for(request.headers)
            length = declared_length(request.headers)
            # Whose body would not fit now is told so before it is sent.
            holding.check(length or 0)
            body = await read_body(
                request.receive,
                length,
                max_bytes=self._limits.max_body_bytes,
                timeout_s=self._limits.upload_timeout_ms / 1000,
                hold=holding.resize,
            )
        record.body_bytes = len(body)
        return partial(parse, body)

    async def _describe(
        self,
        request: Request,
        parse: Callable[[], Submission],
        holding: Holding,
    ) -> _Written:
        """An accepted request, from its body to its answer."""
        record = record_of(request.scope)
        with self._backend.queue.admit():
            task = await self._understand(request, parse, holding)
            del parse
            deadline_s, room = task.deadline_s, task.room
            prediction = await self._ask_device(task)
            draft = Draft(task.plan, prediction, task.prepared.scenery)
            del task
            media_type = draft.plan.media_type
            room.keep_others(draft.scenery.num_bytes)
            record.add_stages(prediction.stage_seconds)
            record.num_instances = len(prediction.instances)
            async with _until(deadline_s):
                chunks = await self._write(draft, record, room)
                # Those of floats are views of the samples.
                is_copied = all(isinstance(chunk, bytes) for chunk in chunks)
                del draft, prediction
                room.keep_others(0)
                if is_copied:
                    room.drop_samples()
                headers = {"Vary": "Accept, Accept-Encoding"}
                num_bytes = total_bytes(chunks)
                if (
                    media_type in {JSON, COCO}
                    and num_bytes > MIN_GZIP_BYTES
                    and accepts_gzip(_all_of(request, "accept-encoding"))
                ):
                    with record.timed("encode"):
                        chunks = await _run_if_large(
                            num_bytes, self._threads.encoders, gzip_of, chunks, room.count
                        )
                    headers["Content-Encoding"] = "gzip"
        holding.replace(total_bytes(chunks))
        return _Written(chunks, headers, media_type)

    async def _understand(
        self, request: Request, parse: Callable[[], Submission], holding: Holding
    ) -> _Task:
        """Everything before the device."""
        record, limits = record_of(request.scope), self._limits
        # What the client allows stands in what is read here.
        async with _until(record.arrived_s + limits.timeout_ms / 1000):
            with record.timed("read"):
                num_bytes = record.body_bytes or 0
                submission = await _run_if_large(num_bytes, self._threads.decoders, parse)
        parameters = check_parameters(request.query_params.multi_items(), submission.parameters)
        plan = plan_answer(
            parameters,
            self._backend.cards(),
            default_model=self._default_model,
            media_type=choose_media_type(_all_of(request, "accept"), types_with(parameters.render)),
            has_atlas=submission.atlas is not None,
        )
        record.model_id = plan.card.id
        timeout_ms = min(parameters.timeout_ms or limits.timeout_ms, limits.timeout_ms)
        deadline_s = record.arrived_s + timeout_ms / 1000
        await self._backend.queue.prepare(plan.card, deadline_s)
        async with _until(deadline_s):
            prepared = await prepare(
                submission,
                plan,
                self._threads.pictures,
                deadline_s,
                max_pixels=limits.max_pixels,
            )
        record.add_stages(prepared.stage_seconds)
        height, width = prepared.sample.image_size_hw
        record.image_pixels = height * width
        # What waits for the device holds its resized image, and what a render is drawn on.
        holding.resize(prepared.num_bytes)
        size = AnswerSize(plan, prepared.sample.image_size_hw)
        room = AnswerRoom(size, holding, limits.max_answer_bytes)
        room.check(known_regions(prepared.sample.query))
        sample = replace(prepared.sample, reserve=room.reserve)
        return _Task(plan, replace(prepared, sample=sample), deadline_s, room)

    async def _ask_device(self, task: _Task) -> Prediction:
        sample = task.prepared.sample
        if sample.query.boxes_xyxy == ():
            # The client asked about no box at all.
            task.room.reserve(())
            return Prediction(sample.image_size_hw, ())
        return await self._backend.queue.predict(task.plan.card, sample, task.deadline_s)

    async def _write(self, draft: Draft, record: Record, room: AnswerRoom) -> Chunks:
        """The answer, its maps and its render made side by side."""
        encoders = self._threads.encoders
        with record.timed("encode"):
            is_painted = draft.plan.is_whole_image
            canvases = (
                await _run(encoders, canvases_of, draft) if is_painted else canvases_of(draft)
            )
            pieces = await asyncio.gather(
                *(_run(encoders, job) for job in jobs_of(draft, canvases, room.count))
            )
        timing_ms = record.timing_ms()
        with record.timed("encode"):
            num_bytes = sum(piece.num_bytes for piece in pieces)
            return await _run_if_large(
                num_bytes, encoders, write_answer, draft, pieces, timing_ms, room.count
            )


async def _run(threads: Executor, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    return await asyncio.get_running_loop().run_in_executor(
        threads, partial(function, *args, **kwargs)
    )


async def _run_if_large(
    num_bytes: int,
    threads: Executor,
    function: Callable[P, T],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    if num_bytes <= SMALL_BYTES:
        return function(*args, **kwargs)
    return await _run(threads, function, *args, **kwargs)


def _owner_of(request: Request) -> Hashable:
    """Who a request counts for, together with others: its key or, without one, its connection."""
    return record_of(request.scope).key_name or request.scope.get("client")


def _all_of(request: Request, header: str) -> str | None:
    """The header's value; where it stands several times, all of them as the one list they are."""
    return ", ".join(request.headers.getlist(header)) or None


@asynccontextmanager
async def _until(deadline_s: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(deadline_s - time.monotonic()):
            yield
    except TimeoutError:
        raise DeadlineExceeded(
            "The time for this request is over: send a smaller image, ask for less, or allow more "
            "with timeout_ms."
        ) from None


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
