"""Decode a request's pictures: in a thread, or what is costly in a process of its own."""

import asyncio
import fcntl
import json
import math
import mmap
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import Executor
from contextlib import ExitStack, suppress
from dataclasses import asdict
from itertools import accumulate
from pathlib import Path
from typing import IO, Any

import numpy as np

from service.datatypes import Image
from service.errors import ImageTooLarge, InvalidParameter, ServiceError, UndecodableImage
from service.imaging import decoding_process
from service.imaging.decoding_process import BEGUN, HEAD, LARGE, MAX_CPU_S, USUAL
from service.imaging.pictures import File, Opened, Pixels, Wanted, open_pictures, resized_size_hw
from service.metrics import Metrics

_PACKAGES = Path(__file__).parents[2]
_MODULE = decoding_process.__name__
# Of the environment the process is told nothing else: there may be keys in it.
_KEPT_VARIABLES = ("LD_LIBRARY_PATH", "PATH", "TMPDIR")
# One thread, so that it can be copied; and pages of 2 MiB, whose faults take a tenth of the time.
_OWN_VARIABLES = {"OPENBLAS_NUM_THREADS": "1", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
_MAX_REPLY_BYTES = 16 * 1024
_REPLY_ERRORS: dict[str, type[ServiceError]] = {
    error.__name__: error for error in (ImageTooLarge, InvalidParameter, UndecodableImage)
}
# Timers of the event loop may be early by so much.
_EARLY_S = 0.01


class Decoders:
    """Turns encoded pictures into pixels. The event loop's.

    Pictures whose time and memory their size bounds are decoded in threads. The others, and large
    ones, are decoded in processes that are ended when the request is over, at `MAX_CPU_S`, or at
    their bound on memory, whichever comes first. There are places for so many at a time; large
    ones have their own, and wait in their order.
    """

    def __init__(self, threads: Executor, *, num_usual: int, num_large: int, metrics: Metrics):
        self._threads = threads
        self._template = _Template()
        self._usual, self._large = asyncio.Semaphore(num_usual), asyncio.Semaphore(num_large)
        self._overruns = metrics.decoder_overruns

    def start(self) -> None:
        """Makes the first process wait for no import."""
        self._template.start()

    def close(self) -> None:
        """Ends all processes."""
        self._template.close()

    def places(self, *, is_large: bool) -> asyncio.Semaphore:
        """Where pictures of this kind wait for one another."""
        return self._large if is_large else self._usual

    async def read(
        self, image: File, atlas: File | None, wanted: Wanted, deadline_s: float
    ) -> Pixels:
        """What is wanted of the pictures, as `Opened.read` returns it.

        Cancelled, it leaves no process behind. An overrun of the deadline, at which the caller is
        to cancel it, is counted.

        Raises:
            ImageTooLarge, UndecodableImage: the image or the atlas.
            InvalidParameter: a side of the resized image would have no pixel.
        """
        job = self._threads.submit(_read_unless_costly, image, atlas, wanted)
        try:
            pixels = await asyncio.wrap_future(job)
        except asyncio.CancelledError:
            if not job.cancelled() and _is_past(deadline_s):
                self._overruns.labels("thread").inc()
            raise
        if isinstance(pixels, Pixels):
            return pixels
        is_large = pixels.is_large
        async with self.places(is_large=is_large):
            try:
                return await self._read_in_process(image, atlas, wanted, is_large)
            except asyncio.CancelledError:
                if _is_past(deadline_s):
                    self._overruns.labels("deadline").inc()
                raise

    async def _read_in_process(
        self, image: File, atlas: File | None, wanted: Wanted, is_large: bool
    ) -> Pixels:
        order = json.dumps(asdict(wanted)).encode()
        head = HEAD.pack(len(order), len(image), -1 if atlas is None else len(atlas))
        with _memory_file() as file:
            # Closed, the connection ends the process.
            with await self._begin(LARGE if is_large else USUAL, file.fileno()) as connection:
                reply = await _ask(connection, (head, order, image, atlas or b""))
            if not reply:
                self._overruns.labels("cost").inc()
                raise UndecodableImage(
                    f"To decode the image takes more than {MAX_CPU_S:.0f} s of computing, or its "
                    "decoder failed: send it smaller, or as a baseline JPEG."
                )
            return _understood(reply, file.fileno(), wanted)

    async def _begin(self, kind: bytes, file: int) -> socket.socket:
        """The connection to a process that has begun."""
        for _ in range(2):
            connection = self._template.copy(kind, file)
            if connection is not None:
                with ExitStack() as closing:
                    closing.enter_context(connection)
                    if await asyncio.get_running_loop().sock_recv(connection, len(BEGUN)):
                        closing.pop_all()
                        return connection
            # Somebody has ended it.
            self._template.close()
        raise RuntimeError("no process can be started to decode an image")


class _Template:
    """The process that makes a copy of itself for each request."""

    def __init__(self) -> None:
        self._running: tuple[socket.socket, subprocess.Popen[bytes]] | None = None

    def start(self) -> socket.socket:
        """Starts it, unless it runs; how it is asked."""
        if self._running is not None:
            return self._running[0]
        control, end = socket.socketpair()
        variables = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
        path = os.pathsep.join([str(_PACKAGES), os.environ.get("PYTHONPATH", "")])
        with end:
            # -P: the working directory is no place to import from. A group of its own: what a
            # Ctrl-C means, the server decides.
            process = subprocess.Popen(  # noqa: S603  # our own module
                [sys.executable, "-P", "-m", _MODULE, str(end.fileno())],
                env=variables | _OWN_VARIABLES | {"PYTHONPATH": path.rstrip(os.pathsep)},
                stdin=subprocess.DEVNULL,
                pass_fds=[end.fileno()],
                process_group=0,
            )
        self._running = control, process
        return control

    def copy(self, kind: bytes, file: int) -> socket.socket | None:
        """The connection to a copy, which writes pixels to the file; None where there is none."""
        control = self.start()
        ours, its = socket.socketpair()
        ours.setblocking(False)
        with its:
            try:
                socket.send_fds(control, [kind], [its.fileno(), file])
            except OSError:
                ours.close()
                return None
        return ours

    def close(self) -> None:
        """Ends it, and no copy of it."""
        if self._running is not None:
            control, process = self._running
            control.close()
            process.kill()
            process.wait()
        self._running = None


def _read_unless_costly(image: File, atlas: File | None, wanted: Wanted) -> Pixels | Opened:
    opened = open_pictures(image, atlas, max_pixels=wanted.max_pixels)
    return opened if opened.is_costly else opened.read(wanted)


def _is_past(deadline_s: float) -> bool:
    return time.monotonic() >= deadline_s - _EARLY_S


def _memory_file() -> IO[bytes]:
    """A file without a name, in memory where the system has that."""
    if sys.platform == "linux":
        return os.fdopen(os.memfd_create("pixels", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), "w+b", 0)
    return tempfile.TemporaryFile(buffering=0)


async def _ask(connection: socket.socket, parts: Iterable[File]) -> bytes:
    """The line that answers the parts; nothing where the process has ended without one."""
    loop = asyncio.get_running_loop()
    reply = b""
    with suppress(ConnectionError):
        for part in parts:
            await loop.sock_sendall(connection, part)
        while not reply.endswith(b"\n") and len(reply) < _MAX_REPLY_BYTES:
            received = await loop.sock_recv(connection, _MAX_REPLY_BYTES)
            if not received:
                return b""
            reply += received
    return reply


def _understood(reply: bytes, file: int, wanted: Wanted) -> Pixels:
    """The pixels in the file that the reply is about, or the error that it is.

    Nothing is taken for granted: the process had a stranger's bytes in its memory.
    """
    try:
        answer = json.loads(reply)
        if "error" in answer:
            raise _REPLY_ERRORS[answer["error"]](str(answer["message"]))
        return _pixels(answer, file, wanted)
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise UndecodableImage("The decoder of the image failed.") from error


def _pixels(answer: dict[str, Any], file: int, wanted: Wanted) -> Pixels:
    height, width = image_size_hw = tuple(answer["image_size_hw"])
    sides = {"short_side": wanted.short_side, "long_side": wanted.long_side}
    shapes = [None if shape is None else tuple(shape) for shape in answer["shapes"]]
    resized_shape, photo_shape, atlas_shape = shapes
    if (
        not 0 < height * width <= wanted.max_pixels
        or height < 0
        or resized_shape != (*resized_size_hw(image_size_hw, **sides), 3)
        or photo_shape not in {None, (*image_size_hw, 3)}
        or (photo_shape is None) == wanted.is_photo_kept
        or (atlas_shape and (len(atlas_shape) != 3 or atlas_shape[2] not in {3, 4}))
    ):
        raise ValueError("not what was asked for")
    if sys.platform == "linux":
        # Or the file could be cut short under our eyes.
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    sizes = [math.prod(shape) if shape else 0 for shape in shapes]
    everything = np.frombuffer(mmap.mmap(file, sum(sizes)), np.uint8)
    resized, photo, atlas = np.split(everything, list(accumulate(sizes[:-1])))
    return Pixels(
        resized.reshape(resized_shape),
        image_size_hw,
        Image(photo.reshape(photo_shape)) if photo_shape else None,
        atlas.reshape(atlas_shape) if atlas_shape else None,
        float(answer["decode_s"]),
        float(answer["resize_s"]),
    )
