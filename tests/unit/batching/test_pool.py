"""Threads that parties share, with jobs that end when they are told to."""

import gc
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import wait

import pytest

from service.batching.pool import FairPool
from service.batching.ticket import PARTY


@pytest.fixture
def pool() -> Iterator[FairPool]:
    pool, before = FairPool(1, "test"), PARTY.set("")
    yield pool
    PARTY.reset(before)
    pool.shutdown(cancel_futures=True)


def test_a_job_s_result_or_error_is_its_owner_s(pool: FairPool) -> None:
    assert pool.submit(divmod, 7, 2).result(5) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        pool.submit(divmod, 7, 0).result(5)
    assert pool.submit(int, "7", base=8).result(5) == 7


def test_parties_take_turns(pool: FairPool) -> None:
    is_open, order = threading.Event(), list[str]()

    def work(name: str) -> None:
        # Long enough that what a job is seen to take is no chance.
        time.sleep(0.005)
        order.append(name)

    jobs = [pool.submit(is_open.wait, 5)]
    for party, count in (("flood", 10), ("bob", 2)):
        PARTY.set(party)
        jobs += [pool.submit(work, f"{party} {number}") for number in range(count)]
    is_open.set()
    wait(jobs, 5)
    assert {"bob 0", "bob 1"} <= set(order[:5])
    assert [name for name in order if name.startswith("flood")] == [f"flood {n}" for n in range(10)]


def test_the_wait_for_a_turn_is_that_of_the_party_and_not_of_all(pool: FairPool) -> None:
    is_open = threading.Event()
    pool.submit(time.sleep, 0.01).result(5)
    job_s = pool.job_s
    assert job_s >= 0.01
    assert pool.turn_s("bob") == 0
    PARTY.set("flood")
    jobs = [pool.submit(is_open.wait, 5) for _ in range(11)]
    while not jobs[0].running():
        time.sleep(0.001)
    assert pool.turn_s("flood") == pytest.approx(10.5 * job_s)
    assert pool.turn_s("bob") == pytest.approx(1.5 * job_s)
    is_open.set()
    wait(jobs, 5)


def test_what_is_cancelled_while_it_waits_costs_nothing(pool: FairPool) -> None:
    is_open, done = threading.Event(), list[int]()
    first = pool.submit(is_open.wait, 5)
    jobs = [pool.submit(done.append, number) for number in range(3)]
    assert jobs[1].cancel()
    is_open.set()
    wait([first, *jobs], 5)
    assert done == [0, 2]


def test_threads_work_side_by_side_and_no_more_than_there_are() -> None:
    pool, barrier = FairPool(3, "test"), threading.Barrier(3)
    jobs = [pool.submit(barrier.wait, 5) for _ in range(6)]
    assert sorted(job.result(5) for job in jobs) == [0, 0, 1, 1, 2, 2]
    pool.shutdown()
    with pytest.raises(RuntimeError):
        pool.submit(int)


def test_what_was_submitted_is_done_at_the_end_unless_it_is_cancelled() -> None:
    for is_cancelled, expected in ((False, [0, 1, 2]), (True, [])):
        pool, is_open, done = FairPool(1, "test"), threading.Event(), list[int]()
        pool.submit(is_open.wait, 5)
        for number in range(3):
            pool.submit(done.append, number)
        threading.Timer(0.05, is_open.set).start()
        pool.shutdown(cancel_futures=is_cancelled)
        assert done == expected


def test_a_job_s_result_is_let_go_of(pool: FairPool) -> None:
    class Picture:
        pass

    pictures = [pool.submit(Picture) for _ in range(2)]
    references = [weakref.ref(future.result(5)) for future in pictures]
    pool.submit(int).result(5)
    del pictures
    gc.collect()
    assert [reference() for reference in references] == [None, None]
