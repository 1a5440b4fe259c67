"""Open-loop load: requests are sent when they are due, whether or not others were answered."""

import asyncio
import json
import random
import secrets
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from load_tests.connections import Answer, Pool, RequestLost
from load_tests.report import HUNG_UP, LOST, NOT_CONNECTED, Ending

PATIENCE_S = 60.0
# Another replica could answer, and nothing was done that could be done twice.
WORTH_A_RETRY = (LOST, NOT_CONNECTED, "503")


@dataclass(frozen=True)
class Load:
    """Who comes, and when.

    `rates` has pairs of a duration in seconds and the requests per second in it. `requests` are
    whole HTTP requests, one of which is drawn each time. A `hang_up_share` of the clients leaves
    within `hang_up_s`.
    """

    rates: Sequence[tuple[float, float]]
    requests: Sequence[bytes]
    hang_up_share: float = 0.0
    hang_up_s: float = 0.1
    seed: int = 1

    def arrivals(self) -> Iterator[float]:
        """Seconds from the start, at random: nobody knows of the others (a Poisson process)."""
        chance = random.Random(self.seed)
        begin_s = 0.0
        for duration_s, per_s in self.rates:
            due_s = begin_s
            while per_s and (due_s := due_s + chance.expovariate(per_s)) < begin_s + duration_s:
                yield due_s
            begin_s += duration_s


@dataclass
class Generator:
    """Sends a load to a server, and notes how each request ended."""

    pool: Pool
    load: Load
    # Nobody comes any more: a load balancer has found that the server is not ready.
    is_stopped: bool = False
    # How often a client asks again where another replica could answer.
    retries: int = 0
    num_retried: int = 0
    endings: list[Ending] = field(default_factory=list)
    # When it began, in seconds of `time.perf_counter`.
    begin_s: float = 0.0

    async def run(self) -> list[Ending]:
        """All endings, when the last request has ended."""
        chance = random.Random(self.load.seed)
        self.begin_s = time.perf_counter()
        async with asyncio.TaskGroup() as requests:
            async for due_s in _on_time(self.load.arrivals(), self.begin_s):
                if self.is_stopped:
                    break
                request = chance.choice(self.load.requests)
                patience_s = PATIENCE_S
                if chance.random() < self.load.hang_up_share:
                    patience_s = chance.uniform(0, self.load.hang_up_s)
                requests.create_task(self._one(request, due_s, patience_s))
        return self.endings

    async def _one(self, request: bytes, due_s: float, patience_s: float) -> None:
        request_id = secrets.token_hex(8)
        request = _with_id(request, request_id)
        outcome = await self._ask(request, patience_s)
        for _ in range(self.retries):
            if outcome.startswith(WORTH_A_RETRY):
                self.num_retried += 1
                outcome = await self._ask(request, patience_s)
        ended_s = time.perf_counter() - self.begin_s
        self.endings.append(Ending(due_s, ended_s, outcome, request_id))

    async def _ask(self, request: bytes, patience_s: float) -> str:
        try:
            async with asyncio.timeout(patience_s):
                return outcome_of(await self.pool.ask(request))
        except TimeoutError:
            return LOST if patience_s == PATIENCE_S else HUNG_UP
        except RequestLost:
            return LOST
        except OSError:
            return NOT_CONNECTED


async def ask_in_turn(pool: Pool, request: bytes, num_requests: int) -> list[Ending]:
    """One client that sends its next request when it has the answer to the last."""
    begin_s = time.perf_counter()
    endings = []
    for _ in range(num_requests):
        due_s = time.perf_counter() - begin_s
        outcome = outcome_of(await pool.ask(request))
        endings.append(Ending(due_s, time.perf_counter() - begin_s, outcome))
    return endings


def outcome_of(answer: Answer) -> str:
    """The status and, of an error, its code."""
    if b"problem+json" in answer.headers.get(b"content-type", b""):
        return f"{answer.status} {json.loads(answer.body)['code']}"
    return str(answer.status)


def post(path: str, body: bytes, content_type: str = "image/jpeg") -> bytes:
    """A whole request."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode("ascii") + body


def get(path: str) -> bytes:
    """A whole request."""
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode("ascii")


def _with_id(request: bytes, request_id: str) -> bytes:
    line, end, rest = request.partition(b"\r\n")
    return line + end + b"X-Request-Id: " + request_id.encode("ascii") + end + rest


def jpeg(width: int, height: int, num_bytes: int) -> bytes:
    """A picture of about so many bytes: a smooth one, with as much noise as it takes."""
    chance = np.random.default_rng(1)
    coarse_hw3 = chance.integers(0, 255, (height // 8, width // 8, 3), np.uint8)
    smooth_hw3 = cv2.resize(coarse_hw3, (width, height), interpolation=cv2.INTER_CUBIC)
    noise_hw3 = chance.normal(0, 9, (height, width, 3))
    pixels_hw3 = np.clip(smooth_hw3 + noise_hw3, 0, 255).astype(np.uint8)
    return min(
        (_encode(pixels_hw3, quality) for quality in range(20, 100, 2)),
        key=lambda data: abs(len(data) - num_bytes),
    )


def _encode(pixels_hw3: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]", quality: int) -> bytes:
    _, data = cv2.imencode(".jpg", pixels_hw3, (cv2.IMWRITE_JPEG_QUALITY, quality))
    return data.tobytes()


async def _on_time(moments: Iterable[float], begin_s: float) -> AsyncIterator[float]:
    """Each moment when it has come."""
    for moment_s in moments:
        await asyncio.sleep(max(begin_s + moment_s - time.perf_counter(), 0))
        yield moment_s
