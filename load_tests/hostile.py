"""Sends a real server what nobody means well with, and looks what becomes of the others.

    python -m load_tests.hostile [--requests 100000] [--rate 100] [--seed 1] [--costly]

The server runs the model `demo`. Damaged pictures, forms and JSON, HTTP that is none, connections
that are left, fed drop by drop, or never read; and beside them one good request after the other.
It ends with 1 if there was an answer of 500, no answer, an answer in another form than ours, a good
request that failed, or if memory grew by more than 5 % since the first tenth of the requests.

With --costly every request means to cost as much memory and time as can be had for its few bytes,
to decode a picture or to write an answer; slow ones ask for large answers and never read them. The
server must stay below 6 GiB, where a container would end it. A good request that is turned away
comes again, as `Retry-After` says, and must be answered within a minute.
"""

import argparse
import asyncio
import os
import random
import re
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

import uvloop
from PIL import Image

from load_tests.hostile_costs import costly_files, costly_request, unread_request
from load_tests.hostile_inputs import hostile_request, largest_pictures, pictures, request
from load_tests.memory import container_bytes
from load_tests.server import HOST, running_server

# Longer than the server gives anybody.
ANSWER_TIMEOUT_S = 60.0
UPLOAD_TIMEOUT_MS = 2000
# Most wait for the server to give up what is shorter than it says.
NUM_WORKERS, NUM_SLOW = 64, 24
NUM_QUIET, NUM_READINGS = 60, 10
MAX_GROWTH = 1.05
MAX_SLOWDOWN = 2.0
GOOD_PERIOD_S, MEMORY_PERIOD_S = 0.25, 30.0
SERVER_ERRORS_OF_OURS = {503, 504}
CONTINUE = 100
# How a slow connection begins, and what it is fed; the last asks and never reads.
LARGE_ANSWER = b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n"
SLOW_MANNERS = (
    (b"GET /livez HTTP/1.1\r\nX: ", b"y"),
    (request(bytes(100_000))[:200], b"y"),
    (b"", b""),
    (LARGE_ANSWER * 4, LARGE_ANSWER),
)
# As docker-compose.yml has it; of the server and of the processes that it has started.
MAX_CONTAINER_BYTES = 6 * 2**30
CONTAINER_PERIOD_S = 0.05
PATIENCE_S = 60.0
# So long is an answer left where it is.
UNREAD_S = 30.0
BUSY = (b" 429 ", b" 503 ")
# What a line of the server's log has that tells of a defect.
TRACE = "Traceback"
SETTINGS = {
    "DEFAULT_MODEL": "demo",
    "MODELS": "demo",
    "OFFLINE": "true",
    "LOG_LEVEL": "warning",
    "UPLOAD_TIMEOUT_MS": str(UPLOAD_TIMEOUT_MS),
}


@dataclass
class Record:
    """What became of the requests."""

    outcomes: Counter[str] = field(default_factory=Counter)
    defects: list[str] = field(default_factory=list)
    good_s: list[float] = field(default_factory=list)
    resident_mib: list[int] = field(default_factory=list)
    num_sent: int = 0
    most_bytes: int = 0


@dataclass(frozen=True)
class Run:
    """One server under attack."""

    port: int
    pid: int
    num_requests: int
    rate: float
    seed: int
    is_costly: bool = False
    record: Record = field(default_factory=Record)

    async def attack(self) -> None:
        """Sends all requests, with good ones beside them."""
        numbers = count()
        begun_s = time.monotonic()
        slow = [asyncio.create_task(self._be_slow(index)) for index in range(NUM_SLOW)]
        works = (self._be_good(), self._watch_memory(), self._contain())
        beside = [asyncio.create_task(work) for work in works]
        workers = [self._send_on(numbers, begun_s) for _ in range(NUM_WORKERS)]
        await asyncio.gather(*workers)
        for task in (*slow, *beside):
            task.cancel()
        await asyncio.gather(*slow, *beside, return_exceptions=True)

    async def ask_quietly(self) -> list[float]:
        """What good requests take while nobody else asks."""
        return [await self._ask_good() for _ in range(NUM_QUIET)]

    async def resident_bytes(self) -> float:
        """The median of several readings of what the server has in memory."""
        readings = []
        for _ in range(NUM_READINGS):
            readings.append(_resident_bytes(self.pid))
            await asyncio.sleep(0.3)
        return statistics.median(readings)

    async def _contain(self) -> None:
        """Ends the server where its container would."""
        while True:
            num_bytes = container_bytes(self.pid)
            self.record.most_bytes = max(self.record.most_bytes, num_bytes)
            if num_bytes > MAX_CONTAINER_BYTES:
                os.kill(self.pid, signal.SIGKILL)
                self.record.defects.append(f"it took {num_bytes / 2**20:.0f} MiB, and was ended")
                return
            await asyncio.sleep(CONTAINER_PERIOD_S)

    async def _watch_memory(self) -> None:
        while True:
            self.record.resident_mib.append(round(_resident_bytes(self.pid) / 2**20))
            await asyncio.sleep(MEMORY_PERIOD_S)

    async def _send_on(self, numbers: "count[int]", begun_s: float) -> None:
        for number in numbers:
            if number >= self.num_requests:
                return
            await asyncio.sleep(begun_s + number / self.rate - time.monotonic())
            random_ = random.Random(f"{self.seed}/{number}")
            data = costly_request(random_) if self.is_costly else hostile_request(random_)
            try:
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    await self._send(data, number, random_.random())
            except TimeoutError:
                self._note_defect(number, "no answer")
            except OSError:
                self.record.outcomes["reset"] += 1
            self.record.num_sent += 1

    async def _send(self, data: bytes, number: int, manner: float) -> None:
        reader, writer = await asyncio.open_connection(HOST, self.port)
        try:
            if manner < 0.02:
                writer.write(data[: len(data) // 2])
                self.record.outcomes["left in the middle"] += 1
                return
            writer.write(data)
            if manner < 0.04:
                self.record.outcomes["left before the answer"] += 1
                return
            head = await reader.readuntil(b"\r\n\r\n")
            self._judge(head, await _read_body(reader, head), number)
        except asyncio.IncompleteReadError as error:
            self.record.outcomes["closed without an answer"] += 1
            if error.partial:
                self._note_defect(number, "half an answer")
        finally:
            await _close(writer)

    def _judge(self, head: bytes, body: bytes, number: int) -> None:
        status = int(head.split()[1])
        code = re.search(rb'"code": "(\w+)"', body)
        self.record.outcomes[f"{status} {code[1].decode() if code else ''}".strip()] += 1
        if status == CONTINUE:
            return
        if status >= 500 and status not in SERVER_ERRORS_OF_OURS:
            self._note_defect(number, f"status {status}")
        if b"\r\nx-request-id: " not in head:
            self._note_defect(number, "an answer without an id")
        if status >= 400 and b"application/problem+json" not in head:
            self._note_defect(number, "an error in another form")

    def _note_defect(self, number: int, what: str) -> None:
        self.record.defects.append(f"request {number} of seed {self.seed}: {what}")

    async def _be_slow(self, index: int) -> None:
        """Again and again a connection that is fed drop by drop, or silent, or never read."""
        begin, drop = SLOW_MANNERS[index % len(SLOW_MANNERS)]
        while True:
            reader, writer = await asyncio.open_connection(HOST, self.port)
            try:
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    if self.is_costly:
                        writer.write(unread_request())
                        await asyncio.sleep(UNREAD_S)
                    else:
                        await _feed(reader, writer, begin, drop)
            except TimeoutError:
                self.record.defects.append(f"a slow connection was not cut off: {begin[:30]!r}")
            except OSError:
                pass
            finally:
                await _close(writer)
            self.record.outcomes["not read" if self.is_costly else "slow, cut off"] += 1

    async def _be_good(self) -> None:
        while True:
            self.record.good_s.append(await self._ask_good())
            await asyncio.sleep(GOOD_PERIOD_S)

    async def _ask_good(self) -> float:
        begun_s = time.monotonic()
        while True:
            try:
                head = await self._ask(request(pictures()[17], query="outputs=labels"))
            except (OSError, asyncio.IncompleteReadError) as error:
                head = repr(error).encode()
            is_busy = any(status in head[:20] for status in BUSY)
            if not (self.is_costly and is_busy and time.monotonic() < begun_s + PATIENCE_S):
                break
            self.record.outcomes["a good one asks again"] += 1
            await asyncio.sleep(_retry_after_s(head))
        if b" 200 " not in head[:20]:
            self.record.defects.append(f"a good request failed: {head[:60]!r}")
        return time.monotonic() - begun_s

    async def _ask(self, data: bytes) -> bytes:
        """The head of an answer that is there as a whole."""
        reader, writer = await asyncio.open_connection(HOST, self.port)
        try:
            writer.write(data)
            head = await reader.readuntil(b"\r\n\r\n")
            await _read_body(reader, head)
            return head
        finally:
            await _close(writer)


def _retry_after_s(head: bytes) -> float:
    told = re.search(rb"retry-after: (\d+)", head)
    return float(told[1]) if told else 1.0


def _resident_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return 1024 * int(status.partition("VmRSS:")[2].split()[0])


async def _feed(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, begin: bytes, drop: bytes
) -> None:
    """Returns, or raises OSError, when the other side has closed the connection."""
    writer.write(begin)
    if not drop:
        await reader.read()
        return
    while True:
        await asyncio.sleep(0.2)
        writer.write(drop)
        await writer.drain()


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with suppress(OSError):
        await writer.wait_closed()


async def _read_body(reader: asyncio.StreamReader, head: bytes) -> bytes:
    length = re.search(rb"content-length: (\d+)", head)
    return b"" if length is None else await reader.readexactly(int(length[1]))


async def attack(run: Run) -> list[str]:
    """Attacks, prints what was seen, and gives back what must not be."""
    await run.ask_quietly()
    quiet_s = await run.ask_quietly()
    tenth = Run(
        *(run.port, run.pid, max(run.num_requests // 10, 1), run.rate, run.seed + 1),
        *(run.is_costly, run.record),
    )
    begun_s = time.monotonic()
    await tenth.attack()
    before = await run.resident_bytes()
    await replace(run, num_requests=run.num_requests - tenth.num_requests).attack()
    seconds = time.monotonic() - begun_s
    after = await run.resident_bytes()
    record, defects = run.record, [*run.record.defects]
    slowdown = statistics.median(record.good_s) / statistics.median(quiet_s)
    print(f"{record.num_sent} hostile requests in {seconds:.0f} s: {dict(record.outcomes)}")
    print(f"good requests: {len(record.good_s)}, {_times(record.good_s)}; quiet {_times(quiet_s)}")
    print(f"median {slowdown:.2f} times the quiet one (at most {MAX_SLOWDOWN:g})")
    growth = after / before - 1
    print(f"memory: {before / 2**20:.0f} MiB, then {after / 2**20:.0f} MiB, {growth:+.1%}")
    print(f"on the way: {record.resident_mib}; at most {record.most_bytes / 2**20:.0f} MiB")
    # How much is under way at the end is chance where every request means to take much.
    if after > MAX_GROWTH * before and not run.is_costly:
        defects.append("memory grew")
    return defects


def _times(seconds: list[float]) -> str:
    in_order = sorted(seconds)
    at = {50: len(in_order) // 2, 95: int(0.95 * len(in_order)), 100: len(in_order) - 1}
    return ", ".join(f"p{share} {1000 * in_order[index]:.0f} ms" for share, index in at.items())


def main() -> int:
    """Run it; 1 if there was anything that must not be."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--rate", type=float, default=100.0, help="requests per second, at most")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--costly", action="store_true", help="see above")
    chosen = parser.parse_args()
    # To make them takes so long that connections would be silent for it, and be closed.
    pictures(), largest_pictures()
    if chosen.costly:
        # The files are larger than Pillow opens without being told.
        Image.MAX_IMAGE_PIXELS = None
        costly_files()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "server.log"
        settings = SETTINGS | {"MODEL_STORE": folder}
        with running_server(settings, log) as server:
            run = Run(
                server.port,
                server.process.pid,
                chosen.requests,
                chosen.rate,
                chosen.seed,
                chosen.costly,
            )
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                defects = runner.run(attack(run))
        defects += [line for line in log.read_text(errors="replace").splitlines() if TRACE in line]
    print("\n".join(defects[:50]) or "nothing that must not be")
    return 1 if defects else 0


if __name__ == "__main__":
    sys.exit(main())
