"""What a server is put through, one function each; the device is a stand-in."""

import asyncio
import os
import signal
import statistics
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from load_tests.connections import Pool, RequestLost
from load_tests.generator import Generator, Load, ask_in_turn, get, jpeg, post
from load_tests.report import REFUSED, SUCCESS, Ending, Report, percentile, summarize
from load_tests.server import Server, running_server
from load_tests.stand_in import StandIn
from service.datatypes import Query, Sample

PATH = "/v1/densepose"
PHOTO = post(PATH, jpeg(640, 480, 60_000))
SHAPES = tuple(
    post(PATH, jpeg(width, height, width * height // 5))
    for width, height in ((640, 480), (480, 640), (640, 427), (500, 375), (333, 500), (1280, 720))
)
PROBE_PERIOD_S = 0.2
NUM_IN_TURN = 200


@dataclass(frozen=True)
class Course:
    """What a scenario runs with; the server has a core for itself, if one is named."""

    log: Path
    # How long it is measured, and what comes before that: batch sizes are learned in it.
    seconds: float = 10.0
    warm_up_s: float = 3.0
    core: int | None = None
    max_batch: int = 8
    device: StandIn = field(default_factory=StandIn)
    # Of the photos' size by default: what resizing costs depends on the model.
    short_side: int = 480

    @contextmanager
    def server(self, **settings: str) -> Iterator[Server]:
        """A server that is ready; `settings` as in `running_server`."""
        command = ["-m", "load_tests.stand_in"]
        command += ["--batch-ms", str(self.device.batch_ms)]
        command += ["--image-ms", str(self.device.image_ms)]
        command += ["--short-side", str(self.short_side)]
        chosen = {"DEFAULT_MODEL": "demo", "LOG_LEVEL": "info", "MAX_BATCH": str(self.max_batch)}
        with running_server({**chosen, **settings}, self.log, command, core=self.core) as server:
            yield server

    def plain_loop_s(self, num_images: int) -> float:
        """What one batch takes the same device in a loop that does nothing else, on average."""
        sample = Sample(np.zeros((1, 1, 3), np.uint8), (1, 1), Query(frozenset()))
        taken_s = []
        end_s = time.perf_counter() + self.warm_up_s
        while (begun_s := time.perf_counter()) < end_s:
            self.device.predict("demo", [sample] * num_images)
            taken_s.append(time.perf_counter() - begun_s)
        return statistics.fmean(taken_s)

    def peak_per_s(self) -> float:
        """Images per second of that loop, in the largest batches."""
        return self.max_batch / self.plain_loop_s(self.max_batch)


Scenario: TypeAlias = Callable[[Course], Coroutine[Any, Any, list[Report]]]


async def latency(course: Course) -> list[Report]:
    """One client, one request at a time: what is added to the device's time."""
    alone_ms = 1000 * course.plain_loop_s(1)
    with course.server() as server:
        pool = Pool(server.host, server.port)
        await ask_in_turn(pool, PHOTO, 20)
        endings = await ask_in_turn(pool, PHOTO, NUM_IN_TURN)
        pool.close()
    added_ms = [ending.latency_ms - alone_ms for ending in endings]
    notes = {
        "device alone, ms": alone_ms,
        "added at the median, ms": percentile(added_ms, 50),
        "added at the 99th percentile, ms": percentile(added_ms, 99),
    }
    end_s = max(ending.ended_s for ending in endings) + 1e-9
    return [summarize("latency", endings, begin_s=0.0, end_s=end_s, notes=notes)]


async def saturation(course: Course) -> list[Report]:
    """A little more than the device can do: how much of that is done."""
    peak_per_s = course.peak_per_s()
    with course.server() as server:
        endings = await _offer(server, course, 1.2 * peak_per_s)
    report = _measured("saturation", endings, course, {"plain loop, per s": peak_per_s})
    report.notes["share of the plain loop"] = report.answered_per_s / peak_per_s
    return [report]


async def overload(course: Course) -> list[Report]:
    """Twice what was done at best: how much still is, and how fast the others are told."""
    plain_per_s = course.peak_per_s()
    with course.server() as server:
        at_peak = _measured("peak", await _offer(server, course, 1.1 * plain_per_s), course)
        endings = await _offer(server, course, 2 * at_peak.answered_per_s)
    report = _measured("overload", endings, course)
    report.notes["share of the peak"] = report.answered_per_s / at_peak.answered_per_s
    if REFUSED in report.latency_ms:
        report.notes["refusals, p99 ms"] = report.latency_ms[REFUSED]["p99"]
    return [at_peak, report]


async def steady(course: Course) -> list[Report]:
    """70% of what the device can do."""
    with course.server() as server:
        endings = await _offer(server, course, 0.7 * course.peak_per_s())
    return [_measured("steady", endings, course)]


async def spike(course: Course) -> list[Report]:
    """Half load, three times as much as can be done for a fifth of the time, half load."""
    peak_per_s = course.peak_per_s()
    part_s = course.seconds / 5
    rates = [(course.warm_up_s + 2 * part_s, 0.5), (part_s, 3.0), (2 * part_s, 0.5)]
    load = Load([(seconds, share * peak_per_s) for seconds, share in rates], [PHOTO])
    with course.server() as server:
        endings = await _generate(server, load)
    return [_measured("spike", endings, course)]


async def mixed(course: Course) -> list[Report]:
    """Photos of six shapes, 70% of what the device can do with one."""
    load = Load([(course.warm_up_s + course.seconds, 0.7 * course.peak_per_s())], SHAPES)
    with course.server() as server:
        endings = await _generate(server, load)
    return [_measured("mixed", endings, course)]


async def hangups(course: Course) -> list[Report]:
    """At the device's limit, a third of the clients leave before they have their answer."""
    load = Load(
        [(course.warm_up_s + course.seconds, course.peak_per_s())], [PHOTO], hang_up_share=1 / 3
    )
    with course.server() as server:
        endings = await _generate(server, load)
        # Whom it kept from others is told by the one that comes now.
        after = await ask_in_turn(Pool(server.host, server.port), PHOTO, 1)
    report = _measured("hangups", endings, course)
    report.notes["one request afterwards, ms"] = after[0].latency_ms
    return [report]


async def shutdown(course: Course) -> list[Report]:
    """SIGTERM under load, behind a load balancer that asks /readyz five times a second."""
    return await _shut_down(course, "shutdown", has_balancer=True)


async def shutdown_blind(course: Course) -> list[Report]:
    """SIGTERM under load from clients who go on whatever they are told."""
    return await _shut_down(course, "shutdown_blind", has_balancer=False)


async def _shut_down(course: Course, name: str, *, has_balancer: bool) -> list[Report]:
    signal_s = course.warm_up_s + course.seconds / 2
    load = Load([(course.warm_up_s + course.seconds, 0.8 * course.peak_per_s())], [PHOTO])
    with course.server(DRAIN_DELAY_MS="1000", SHUTDOWN_TIMEOUT_MS="10000") as server:
        pool = Pool(server.host, server.port)
        generator = Generator(pool, load)
        running = asyncio.create_task(generator.run())
        balancing = asyncio.create_task(_balance(server, generator, is_blind=not has_balancer))
        await asyncio.sleep(signal_s)
        server.process.send_signal(signal.SIGTERM)
        begun_s = time.monotonic()
        exit_status = await asyncio.to_thread(server.process.wait, 30)
        took_s = time.monotonic() - begun_s
        endings = await running
        balancing.cancel()
    notes = {"exit status": float(exit_status), "seconds to the end": took_s}
    if has_balancer:
        notes["failed"] = float(sum(ending.outcome != SUCCESS for ending in endings))
    return [_measured(name, endings, course, notes)]


async def _balance(server: Server, generator: Generator, *, is_blind: bool) -> None:
    """Stops the load when the server says that it is not ready."""
    pool = Pool(server.host, server.port)
    while not is_blind and not generator.is_stopped:
        await asyncio.sleep(PROBE_PERIOD_S)
        try:
            generator.is_stopped = (await pool.ask(get("/readyz"))).status != 200
        except (OSError, RequestLost):
            generator.is_stopped = True


async def _offer(server: Server, course: Course, per_s: float) -> list[Ending]:
    return await _generate(server, Load([(course.warm_up_s + course.seconds, per_s)], [PHOTO]))


async def _generate(server: Server, load: Load) -> list[Ending]:
    pool = Pool(server.host, server.port)
    endings = await Generator(pool, load).run()
    pool.close()
    return endings


def _measured(
    name: str,
    endings: Sequence[Ending],
    course: Course,
    notes: Mapping[str, float] | None = None,
) -> Report:
    return summarize(
        name,
        endings,
        begin_s=course.warm_up_s,
        end_s=course.warm_up_s + course.seconds,
        notes=dict(notes or {}),
    )


SCENARIOS: Mapping[str, Scenario] = {
    function.__name__: function
    for function in (
        *(latency, saturation, overload, steady, spike, mixed, hangups),
        *(shutdown, shutdown_blind),
    )
}


def free_cores() -> tuple[int | None, int | None]:
    """One core for the server and one for the generator, where there are two."""
    cores = sorted(os.sched_getaffinity(0))
    return (cores[0], cores[1]) if len(cores) > 1 else (None, None)
