"""Images described by this process: the way of a request, without the requests."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from model_store.catalogue import ModelCard
from model_store.errors import ModelStoreError
from service.api.answer import canvases_of, jobs_of, write_answer
from service.api.backend import Queue
from service.api.densepose import Threads
from service.api.errors import INTERNAL_ERROR, PROBLEM_OF
from service.api.parameters import Parameters
from service.api.pieces import Draft
from service.api.plan import Plan, plan_answer
from service.api.preparation import prepare
from service.api.record import STAGES
from service.api.submission import Submission
from service.assembly import MAX_THREADS, build_engine, build_threads
from service.engine import Models
from service.errors import ServiceError
from service.metrics import Metrics
from service.output.chunks import join
from service.predict.describing import CannotGoOn, Describe, NotDescribed
from service.settings import Settings

logger = logging.getLogger(__name__)

# Nobody waits for a single image.
PATIENCE_S = 24 * 3600.0
# Full batches for the device, as many again on their way to it, and some being read and written.
BATCHES_IN_FLIGHT, MORE_IN_FLIGHT = 2, 8
# Of a device that has failed, a model that cannot be had, a queue that is never empty.
FATAL_STATUSES = frozenset({429, 502, 503})
NO_TIMING: Mapping[str, float] = dict.fromkeys((*STAGES, "total"), 0.0)


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
    settings: Settings,
    models: Models,
    cards: Callable[[], Mapping[str, ModelCard]],
    question: Question,
    metrics: Metrics,
) -> AsyncIterator[Describe]:
    """Describes images by a model that is loaded, until the end of the block.

    Raises:
        ServiceError, ModelStoreError: the model cannot be had, or not asked this.
    """
    plan = plan_answer(
        question.parameters,
        cards(),
        default_model=settings.default_model,
        media_type=question.media_type,
        has_atlas=question.atlas is not None,
    )
    own = {"preload": (), "max_queue": max(settings.max_queue, num_in_flight(settings))}
    threads = build_threads(metrics)
    engine = build_engine(settings.model_copy(update=own), models, cards, metrics, threads)
    try:
        async with engine.lifespan(None):
            describer = _Describer(engine.queue(), plan, question.atlas, threads, settings)
            await describer.wait_for_model()
            yield describer.describe
    finally:
        threads.decoders.shutdown(wait=False)
        threads.encoders.shutdown(wait=False)
        threads.pictures.close()


class _Describer:
    """One plan for all images."""

    def __init__(
        self,
        queue: Queue,
        plan: Plan,
        atlas: bytes | None,
        threads: Threads,
        settings: Settings,
    ) -> None:
        self._queue = queue
        self._plan = plan
        self._atlas = atlas
        self._threads = threads
        # So many are decoded at a time as there are threads for it, and none as long as those on
        # their way hold too much.
        self._decoding = asyncio.Semaphore(MAX_THREADS)
        self._has_room = asyncio.Event()
        self._num_bytes, self._max_bytes = 0, settings.max_inflight_bytes
        self._hold(0)
        self._prepare = partial(
            prepare, plan=plan, decoders=threads.pictures, max_pixels=settings.max_pixels
        )

    async def wait_for_model(self) -> None:
        """Have the model loaded, and fetched before that where it has to be.

        Raises:
            ServiceError, ModelStoreError: it cannot be had.
        """
        with self._queue.admit():
            await self._queue.prepare(self._plan.card, time.monotonic() + PATIENCE_S)

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
        loop, plan, threads = asyncio.get_running_loop(), self._plan, self._threads
        deadline_s = time.monotonic() + PATIENCE_S
        with self._queue.admit():
            await self._queue.prepare(plan.card, deadline_s)
            async with self._decoding:
                await self._has_room.wait()
                submission = Submission(image, atlas=self._atlas)
                prepared = await self._prepare(submission, deadline_s=deadline_s)
                self._hold(prepared.num_bytes)
            try:
                prediction = await self._queue.predict(plan.card, prepared.sample, deadline_s)
                draft = Draft(plan, prediction, prepared.scenery)
                return await loop.run_in_executor(threads.encoders, _write, draft)
            finally:
                self._hold(-prepared.num_bytes)

    def _hold(self, num_bytes: int) -> None:
        """Take note of bytes that are held, or given back; let images in while there is room."""
        self._num_bytes += num_bytes
        if self._num_bytes < self._max_bytes:
            self._has_room.set()
        else:
            self._has_room.clear()


def _write(draft: Draft) -> bytes:
    # Images are many: their maps need not be encoded side by side as well.
    pieces = [job() for job in jobs_of(draft, canvases_of(draft))]
    return join(write_answer(draft, pieces, NO_TIMING))
