"""Images described by this process: the way of a request, without the requests."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from model_store.errors import ModelStoreError
from service.api.errors import INTERNAL_ERROR, PROBLEM_OF
from service.batching.engine import Engine, Models
from service.batching.inflight import InflightBytes
from service.errors import ServiceError
from service.imaging.pictures import File
from service.metrics import Metrics
from service.output.chunks import join
from service.pipeline.parameters import Parameters
from service.pipeline.pipeline import MAX_THREADS, Pipeline, Threads
from service.pipeline.plan import Plan
from service.pipeline.preparation import Pictures
from service.pipeline.record import Record
from service.predict.describing import CannotGoOn, Describe, NotDescribed
from service.settings import Settings

logger = logging.getLogger(__name__)

# Nobody waits for a single image, and an answer may be as large as it is.
PATIENCE_S = 24 * 3600.0
NO_LIMIT = 2**63
# Full batches for the device, as many again on their way to it, and some being read and written.
BATCHES_IN_FLIGHT, MORE_IN_FLIGHT = 2, 8
# Of a device that has failed, a model that cannot be had, a queue that is never empty.
FATAL_STATUSES = frozenset({429, 502, 503})


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked about every image."""

    parameters: Parameters
    media_type: str
    atlas: bytes | None = None


def num_in_flight(settings: Settings) -> int:
    """How many images should be on their way at a time."""
    return BATCHES_IN_FLIGHT * settings.max_batch + MORE_IN_FLIGHT


@asynccontextmanager
async def describing(
    settings: Settings, models: Models, question: Question, metrics: Metrics
) -> AsyncIterator[Describe]:
    """Describes images by a model that is loaded, until the end of the block.

    Raises:
        ServiceError, ModelStoreError: the model cannot be had, or not asked this.
    """
    max_queue = max(settings.max_queue, num_in_flight(settings))
    settings = settings.model_copy(update={"preload": (), "max_queue": max_queue})
    threads = Threads(metrics)
    try:
        engine = Engine(models, settings, metrics, (threads.decoders, threads.encoders))
        pipeline = Pipeline(engine, threads, settings, max_answer_bytes=NO_LIMIT)
        async with engine.running():
            plan = pipeline.plan(
                question.parameters, question.media_type, has_atlas=question.atlas is not None
            )
            with engine.admit():
                await engine.prepare(plan.card, time.monotonic() + PATIENCE_S)
            yield _Describer(pipeline, plan, question.atlas, settings.max_inflight_bytes).describe
    finally:
        threads.close()


class _Describer:
    """One plan for all images."""

    def __init__(
        self, pipeline: Pipeline, plan: Plan, atlas: File | None, max_inflight_bytes: int
    ) -> None:
        self._pipeline = pipeline
        self._plan = plan
        self._atlas = atlas
        self._inflight = InflightBytes(NO_LIMIT, pipeline.engine.wait_s)
        # So many are decoded at a time as there are threads for it, and none as long as those on
        # their way hold too much.
        self._decoding = asyncio.Semaphore(MAX_THREADS)
        self._max_bytes = max_inflight_bytes
        self._has_ended = asyncio.Condition()

    async def describe(self, image: bytes) -> bytes:
        """The answer about one image.

        Raises:
            NotDescribed: it has none.
            CannotGoOn: nor would any other have.
        """
        try:
            return await self._answer(image)
        except (ServiceError, ModelStoreError) as error:
            problem = next(PROBLEM_OF[cls] for cls in type(error).__mro__ if cls in PROBLEM_OF)
            kind = CannotGoOn if problem.status in FATAL_STATUSES else NotDescribed
            raise kind(str(error), code=problem.code) from error
        except Exception as error:  # one image should not end a hundred thousand
            logger.exception("a defect of the service")
            raise NotDescribed("the service failed on it", code=INTERNAL_ERROR.code) from error

    async def _answer(self, image: bytes) -> bytes:
        record, deadline_s = Record("", is_timed=False), time.monotonic() + PATIENCE_S
        try:
            with self._pipeline.engine.admit(), self._inflight.hold() as holding:
                async with self._decoding:
                    async with self._has_ended:
                        await self._has_ended.wait_for(self._has_room)
                    task = await self._pipeline.prepare(
                        Pictures(image, self._atlas), self._plan, record, holding, deadline_s
                    )
                    answering = self._pipeline.answer(task)
                    # The pixels are counted no longer than the answer needs them.
                    del task
                return join((await answering).chunks)
        finally:
            async with self._has_ended:
                self._has_ended.notify_all()

    def _has_room(self) -> bool:
        return self._inflight.num_bytes < self._max_bytes
