"""The way of many images through a few at a time."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict, dataclass

from service.client.errors import UnreadableAnswer
from service.predict.describing import CannotGoOn, Describe, NotDescribed
from service.predict.files import FileRejected, Job, read_source
from service.predict.folder import FATAL_ERRORS, Results
from service.predict.progress import Failure, RunProgress, Tally
from service.predict.recipes import Recipe

REDRAW_S = 0.1


@dataclass(frozen=True, slots=True)
class Run:
    """What every job needs."""

    recipe: Recipe
    results: Results
    tally: Tally
    progress: RunProgress
    max_file_bytes: int

    async def do(
        self,
        jobs: Sequence[Job],
        describing: AbstractAsyncContextManager[Describe],
        *,
        num_in_flight: int,
    ) -> None:
        """Do the jobs in their order, so many at a time.

        Raises:
            CannotGoOn: something ended the run before its end.
        """
        # Reading and writing wait for disks, and not for the processor.
        executor = ThreadPoolExecutor(num_in_flight, thread_name_prefix="file")
        asyncio.get_running_loop().set_default_executor(executor)
        left = iter(jobs)
        async with describing as describe, _shown_now_and_then(self.progress):
            workers = [
                asyncio.create_task(self._work(left, describe))
                for _ in range(min(num_in_flight, len(jobs)))
            ]
            try:
                await asyncio.gather(*workers)
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)

    async def _work(self, jobs: Iterator[Job], describe: Describe) -> None:
        for job in jobs:
            try:
                await self._do_one(job, describe)
            except FileRejected as error:
                self._fail(job, "unreadable_file", str(error))
            except NotDescribed as error:
                self._fail(job, error.code, str(error))
            except UnreadableAnswer as error:
                self._fail(job, "unreadable_answer", str(error))
            except OSError as error:
                if error.errno in FATAL_ERRORS:
                    raise CannotGoOn(f"{error.strerror}", code="cannot_write") from error
                self._fail(job, "cannot_write", f"its result cannot be written: {error.strerror}")
            else:
                self.tally.done += 1

    async def _do_one(self, job: Job, describe: Describe) -> None:
        image = await asyncio.to_thread(read_source, job.path, max_bytes=self.max_file_bytes)
        answer = await describe(image)
        del image
        await asyncio.to_thread(self._keep, job, answer)

    def _keep(self, job: Job, answer: bytes) -> None:
        places = self.recipe.places(job.place)
        if places is not None:
            self.results.write(places, self.recipe.contents(answer, job))

    def _fail(self, job: Job, code: str, detail: str) -> None:
        self.results.discard(self.recipe.places(job.place) or ())
        failure = Failure(job.path, code, detail)
        self.results.note_failure(asdict(failure))
        self.tally.note(failure)


@asynccontextmanager
async def _shown_now_and_then(progress: RunProgress) -> AsyncIterator[None]:
    async def repeat() -> None:
        while True:
            progress.show()
            await asyncio.sleep(REDRAW_S)

    task = asyncio.create_task(repeat())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
