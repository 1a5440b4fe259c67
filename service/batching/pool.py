"""Threads whose jobs come from all parties in turn, and that know how long one would wait."""

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, ParamSpec, TypeVar

from service.batching.fairness import FairShares
from service.batching.ticket import PARTY

P = ParamSpec("P")
T = TypeVar("T")

# Of each measurement; about twenty jobs are remembered.
NEW_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class _Job:
    party: str
    result: Future[Any]
    run: Callable[[], Any]


class FairPool(Executor):
    """A pool of threads; the jobs that wait for one begin in the order of their parties' shares."""

    def __init__(self, num_threads: int, name: str) -> None:
        self._num_threads = num_threads
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix=name)
        # Guards what follows: whoever submits, and the threads that take.
        self._changed = threading.Lock()
        self._waiting: dict[str, deque[_Job]] = {}
        self._shares = FairShares()
        self._num_running = 0
        self._job_s = 0.0

    @property
    def job_s(self) -> float:
        """What a job takes on average, of the last ones; 0 while that is not known."""
        return self._job_s

    def turn_s(self, party: str, /) -> float:
        """Seconds until the threads would begin with what a party brings now."""
        with self._changed:
            if self._num_running < self._num_threads:
                return 0.0
            queued_s = {name: len(jobs) * self._job_s for name, jobs in self._waiting.items()}
            at_once_s = dict.fromkeys(queued_s, self._job_s)
            # On average half of what runs is done.
            running_s = self._job_s / 2
            return running_s + self._shares.turn_s(party, queued_s, at_once_s) / self._num_threads

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Has a job of the present party done; what is cancelled while it waits costs nothing."""
        job = _Job(PARTY.get(), Future(), partial(fn, *args, **kwargs))
        with self._changed:
            if self._num_running < self._num_threads:
                self._threads.submit(self._work)
                self._num_running += 1
            if not self._waiting and self._num_running == 1:
                self._shares.level()
            if job.party not in self._waiting:
                self._shares.join(job.party)
            self._waiting.setdefault(job.party, deque()).append(job)
        return job.result

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Takes no more jobs; those that wait are done, unless they are to be cancelled."""
        if cancel_futures:
            with self._changed:
                for jobs in self._waiting.values():
                    for job in jobs:
                        job.result.cancel()
        self._threads.shutdown(wait)

    def _work(self) -> None:
        """Does jobs until none waits."""
        while (job := self._next_job()) is not None:
            if job.result.set_running_or_notify_cancel():
                self._run(job)
            else:
                self._correct(job.party, 0.0)

    def _next_job(self) -> _Job | None:
        with self._changed:
            if not self._waiting:
                self._num_running -= 1
                return None
            party = min(self._waiting, key=self._shares.had_s)
            jobs = self._waiting[party]
            job = jobs.popleft()
            if not jobs:
                del self._waiting[party]
            self._shares.begin(party, self._job_s)
            return job

    def _run(self, job: _Job) -> None:
        begun_s = time.monotonic()
        try:
            result = job.run()
        except BaseException as error:  # noqa: BLE001  # it is for whoever waits for the result
            self._learn(job.party, time.monotonic() - begun_s)
            job.result.set_exception(error)
        else:
            self._learn(job.party, time.monotonic() - begun_s)
            job.result.set_result(result)

    def _learn(self, party: str, seconds: float) -> None:
        """A job has taken so long."""
        self._correct(party, seconds)
        with self._changed:
            share = NEW_SHARE if self._job_s else 1.0
            self._job_s += share * (seconds - self._job_s)

    def _correct(self, party: str, seconds: float) -> None:
        with self._changed:
            self._shares.correct(party, seconds - self._job_s)
