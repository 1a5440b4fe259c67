"""The way of one picture: from its bytes and a question about it to the bytes of the answer."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import ParamSpec, TypeVar

from service.batching.engine import Engine
from service.batching.inflight import Holding
from service.batching.pool import FairPool
from service.datatypes import Prediction
from service.errors import DeadlineExceeded
from service.imaging.decoders import Decoders
from service.metrics import Metrics
from service.output.chunks import Chunks, gzip_of, total_bytes
from service.output.media import COCO, JSON
from service.pipeline.answer import Draft, canvases_of, jobs_of, write_answer
from service.pipeline.parameters import Parameters
from service.pipeline.plan import Plan, plan_answer
from service.pipeline.preparation import Pictures, Prepared, prepare
from service.pipeline.record import Record
from service.pipeline.room import AnswerRoom, AnswerSize, known_regions
from service.settings import Settings
from service.threads import num_cores

P = ParamSpec("P")
T = TypeVar("T")

MIN_GZIP_BYTES = 1024
# What is done with so few bytes takes no longer than to hand it to a thread.
SMALL_BYTES = 64 * 1024
# Of each pool: more would keep up with any device, and hold more decoded pictures at a time.
MAX_THREADS = 8


class Threads:
    """Where all that takes more than microseconds runs.

    There are two pools, so that many uploads to decode keep no answer from being encoded, and
    costly pictures, which may be small files, are decoded in processes.
    """

    def __init__(self, metrics: Metrics) -> None:
        """As many threads in each pool as there are cores."""
        num_threads = min(num_cores(), MAX_THREADS)
        self.decoders = FairPool(num_threads, "decoder")
        self.encoders = FairPool(num_threads, "encoder")
        self.pictures = Decoders(
            self.decoders,
            num_usual=num_threads,
            num_large=max(num_threads // 2, 1),
            metrics=metrics,
        )

    def close(self) -> None:
        """Ends what is idle, and lets what runs come to its end."""
        self.decoders.shutdown(wait=False)
        self.encoders.shutdown(wait=False)
        self.pictures.close()


@dataclass(frozen=True, slots=True)
class Task:
    """A picture that is ready for the device, and what is asked about it."""

    plan: Plan
    prepared: Prepared
    deadline_s: float
    record: Record
    room: AnswerRoom


@dataclass(frozen=True, slots=True)
class Written:
    """An answer that is yet to be sent; its encoding is HTTP's name for it."""

    chunks: Chunks
    media_type: str
    encoding: str | None = None


class Pipeline:
    """Answers questions about pictures; every way in goes through it, once it was admitted."""

    def __init__(
        self, engine: Engine, threads: Threads, settings: Settings, *, max_answer_bytes: int
    ) -> None:
        self.engine = engine
        self.threads = threads
        self._settings = settings
        self._max_answer_bytes = max_answer_bytes

    def plan(self, parameters: Parameters, media_type: str, *, has_atlas: bool) -> Plan:
        """What will be asked of the device, and answered in this type.

        Raises:
            ServiceError, ModelStoreError: as `plan_answer` does.
        """
        return plan_answer(
            parameters,
            self.engine.models.cards(),
            default_model=self._settings.default_model,
            media_type=media_type,
            has_atlas=has_atlas,
        )

    async def prepare(
        self, pictures: Pictures, plan: Plan, record: Record, holding: Holding, deadline_s: float
    ) -> Task:
        """Waits for the model, and then decodes; what is held then waits for the device.

        Raises:
            ServiceError, ModelStoreError: the model cannot be had in time, the pictures cannot be
                used, or there is no room for them or for what is asked.
        """
        record.model_id = plan.card.id
        await self.engine.prepare(plan.card, deadline_s)
        async with until(deadline_s):
            prepared = await prepare(
                pictures,
                plan,
                self.threads.pictures,
                deadline_s,
                max_pixels=self._settings.max_pixels,
            )
        record.add_stages(prepared.stage_seconds)
        sample = prepared.sample
        record.image_pixels = math.prod(sample.image_size_hw)
        # What waits for the device holds its resized image, and what a render is drawn on.
        holding.resize(prepared.num_bytes)
        room = AnswerRoom(AnswerSize(plan, sample.image_size_hw), holding, self._max_answer_bytes)
        room.check(known_regions(sample.query))
        prepared = replace(prepared, sample=replace(sample, reserve=room.reserve))
        return Task(plan, prepared, deadline_s, record, room)

    async def answer(self, task: Task, *, may_compress: bool = False) -> Written:
        """What the model finds in the picture, written as it was planned.

        Raises:
            ServiceError: it was not done in time, or there is no room for the answer.
        """
        deadline_s, record, room = task.deadline_s, task.record, task.room
        prediction = await self._predict(task)
        draft = Draft(task.plan, prediction, task.prepared.scenery)
        del task
        media_type = draft.plan.media_type
        room.keep_others(draft.scenery.num_bytes)
        record.add_stages(prediction.stage_seconds)
        record.num_instances = len(prediction.instances)
        async with until(deadline_s):
            chunks = await self._write(draft, record, room)
            # Those of floats are views of the samples.
            is_copied = all(isinstance(chunk, bytes) for chunk in chunks)
            del draft, prediction
            room.keep_others(0)
            if is_copied:
                room.drop_samples()
            num_bytes = total_bytes(chunks)
            if not may_compress or media_type not in {JSON, COCO} or num_bytes <= MIN_GZIP_BYTES:
                return Written(chunks, media_type)
            with record.timed("encode"):
                chunks = await run_if_large(
                    num_bytes, self.threads.encoders, gzip_of, chunks, room.count
                )
            return Written(chunks, media_type, "gzip")

    async def _predict(self, task: Task) -> Prediction:
        sample = task.prepared.sample
        if sample.query.boxes_xyxy == ():
            # The client asked about no box at all.
            task.room.reserve(())
            return Prediction(sample.image_size_hw, ())
        return await self.engine.predict(task.plan.card, sample, task.deadline_s)

    async def _write(self, draft: Draft, record: Record, room: AnswerRoom) -> Chunks:
        """The answer, its maps and its render made side by side."""
        encoders = self.threads.encoders
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
            return await run_if_large(
                num_bytes, encoders, write_answer, draft, pieces, timing_ms, room.count
            )


async def run_if_large(
    num_bytes: int,
    threads: Executor,
    function: Callable[P, T],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """What the function returns, which works on so many bytes: called here, or in a thread."""
    if num_bytes <= SMALL_BYTES:
        return function(*args, **kwargs)
    return await _run(threads, function, *args, **kwargs)


@asynccontextmanager
async def until(deadline_s: float) -> AsyncIterator[None]:
    """Ends the block at this second of `time.monotonic()`.

    Raises:
        DeadlineExceeded: it was not done by then.
    """
    try:
        async with asyncio.timeout(deadline_s - time.monotonic()):
            yield
    except TimeoutError:
        raise DeadlineExceeded(
            "The time for this request is over: send a smaller image, ask for less, or allow more "
            "with timeout_ms."
        ) from None


async def _run(threads: Executor, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    return await asyncio.get_running_loop().run_in_executor(
        threads, partial(function, *args, **kwargs)
    )
