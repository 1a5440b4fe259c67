"""POST /v1/densepose: the way of one image through this process."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, ParamSpec, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive

from service.api.answer import canvases_of, compress, encode_canvas, render_json
from service.api.backend import Backend
from service.api.body import declared_length, read_body
from service.api.inflight import Holding, InflightBytes
from service.api.negotiation import accepts_gzip, preferred_media_type
from service.api.parameters import check_parameters
from service.api.plan import Plan, plan_answer, query_for
from service.api.record import Record, record_of
from service.api.submission import parser_for
from service.datatypes import Prediction, Sample
from service.errors import ClientLeft, DeadlineExceeded, NotAcceptable
from service.imaging.decode import decode_image
from service.imaging.resize import resize_image

P = ParamSpec("P")
T = TypeVar("T")

JSON, PNG = "application/json", "image/png"
MIN_GZIP_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may take, and all of them together."""

    timeout_ms: int
    upload_timeout_ms: int
    max_body_bytes: int
    max_pixels: int
    max_inflight_bytes: int
    max_answer_samples: int


@dataclass(frozen=True, slots=True)
class _Task:
    """A request that was understood: what is left of it on the way to the device."""

    plan: Plan
    sample: Sample
    deadline_s: float


class DensePose:
    """The endpoint. Whatever takes more than microseconds runs in the executor."""

    def __init__(
        self, *, backend: Backend, default_model: str, limits: Limits, executor: Executor
    ) -> None:
        self._backend = backend
        self._default_model = default_model
        self._limits = limits
        self._executor = executor
        self._inflight = InflightBytes(limits.max_inflight_bytes)

    async def answer(self, request: Request) -> Response:
        """Describe the people or animals in one image."""
        media_type = preferred_media_type(_all_of(request, "accept"), (JSON, PNG))
        if media_type is None:
            raise NotAcceptable(f"Accept {JSON} or {PNG}.")
        record = record_of(request.scope)
        with self._inflight.hold() as holding:
            task = await self._understand(request, record, holding, is_picture=media_type == PNG)
            work = self._work(task, record, is_picture=media_type == PNG)
            content = await _unless_client_leaves(request.receive, work)
            headers = {"Vary": "Accept, Accept-Encoding"}
            accept_encoding = _all_of(request, "accept-encoding")
            if (
                media_type == JSON
                and len(content) > MIN_GZIP_BYTES
                and accepts_gzip(accept_encoding)
            ):
                with record.timed("encode"):
                    content = await self._in_thread(compress, content)
                headers["Content-Encoding"] = "gzip"
        return Response(content, headers=headers, media_type=media_type)

    async def _understand(
        self, request: Request, record: Record, holding: Holding, *, is_picture: bool
    ) -> _Task:
        """Everything before the device. The body is let go at its end."""
        limits = self._limits
        with record.timed("read"):
            parse = parser_for(request.headers)
            body = await read_body(
                request.receive,
                declared_length(request.headers),
                max_bytes=limits.max_body_bytes,
                timeout_s=limits.upload_timeout_ms / 1000,
                hold=holding.resize,
            )
            record.body_bytes = len(body)
            submission = await self._in_thread(parse, body)
        parameters = check_parameters([*request.query_params.multi_items(), *submission.parameters])
        plan = plan_answer(
            parameters,
            self._backend.cards(),
            default_model=self._default_model,
            is_picture=is_picture,
        )
        record.model_id = plan.card.id
        timeout_ms = min(parameters.timeout_ms or limits.timeout_ms, limits.timeout_ms)
        deadline_s = record.arrived_s + timeout_ms / 1000
        async with _until(deadline_s):
            sample, stage_seconds = await self._in_thread(
                prepare_sample, submission.image, plan, limits
            )
        record.add_stages(stage_seconds)
        record.image_pixels = sample.image_size_hw[0] * sample.image_size_hw[1]
        holding.resize(sample.pixels_hw3.nbytes)
        return _Task(plan, sample, deadline_s)

    async def _work(self, task: _Task, record: Record, *, is_picture: bool) -> bytes:
        """The device's part, and the writing of the answer."""
        if task.sample.query.boxes_xyxy == ():
            # The client asked about no box at all.
            prediction = Prediction(task.sample.image_size_hw, ())
        else:
            prediction = await self._backend.predict(task.plan.card, task.sample, task.deadline_s)
        record.add_stages(prediction.stage_seconds)
        record.num_instances = len(prediction.instances)
        async with _until(task.deadline_s):
            return await self._write(task.plan, prediction, record, is_picture=is_picture)

    async def _write(
        self, plan: Plan, prediction: Prediction, record: Record, *, is_picture: bool
    ) -> bytes:
        """The answer, its maps encoded side by side."""
        with record.timed("encode"):
            canvases = await self._in_thread(canvases_of, plan, prediction)
            encoded = await asyncio.gather(
                *(self._in_thread(encode_canvas, canvas, model=plan.card.id) for canvas in canvases)
            )
        if is_picture:
            ((picture,),) = encoded
            return picture.data
        timing_ms = record.timing_ms()
        with record.timed("encode"):
            return await self._in_thread(render_json, plan, prediction, encoded, timing_ms)

    async def _in_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, partial(function, *args, **kwargs))


def prepare_sample(
    data: bytes | bytearray | memoryview, plan: Plan, limits: Limits
) -> tuple[Sample, dict[str, float]]:
    """The image as the network takes it, and what to ask about it; with the seconds it took."""
    begun_s = time.monotonic()
    image = decode_image(data, max_pixels=limits.max_pixels)
    decoded_s = time.monotonic()
    query = query_for(plan, image.size_hw, max_answer_samples=limits.max_answer_samples)
    short_side, long_side = plan.short_and_long_side
    pixels_hw3 = resize_image(image, short_side=short_side, long_side=long_side)
    stage_seconds = {"decode": decoded_s - begun_s, "preprocess": time.monotonic() - decoded_s}
    return Sample(pixels_hw3, image.size_hw, query), stage_seconds


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
