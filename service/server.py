"""The server process: listens, and goes when it is told, without leaving anybody in the lurch."""

import asyncio
import errno
import gc
import logging
import os
import resource
import select
import signal
import socket
import threading
import time
from functools import partial
from types import FrameType
from typing import Any, cast

import uvicorn

from service.allocator import give_back_freed_memory
from service.api.connection import Connection
from service.assembly import Service
from service.batching.engine import Engine
from service.errors import InvalidSetting
from service.settings import Settings

logger = logging.getLogger(__name__)

# Before the limit, so that what was given up then is told so.
MAX_FAREWELL_S = 1.0
# When the device has failed: so long at least probes are told why, and so long at most it takes to
# tell everybody who waits.
MIN_LAST_WORDS_S, MAX_LAST_WORDS_S = 1.0, 5.0
# How long at most those that wait to be accepted are taken before nobody is any more.
MAX_ACCEPT_S, ACCEPT_PAUSE_S = 1.0, 0.001
# Ten ticks are a second. What was freed and not taken again goes back to the system twice a minute:
# pictures of all sizes leave holes, and some never fit what comes later. It takes some
# 20 ms, in which nobody else allocates.
TICKS_BETWEEN_TRIMS = 300
# Open files beside connections: the model store's, sockets of the event loop, libraries.
OTHER_FILES = 256
BACKLOG = 2048
# Of an address that a name has and this machine has not: localhost without IPv6.
NOT_HERE = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
# The exit status then: EX_SOFTWARE of sysexits.h. Another process may have better luck.
DEVICE_FAILED = 70


class Server(uvicorn.Server):
    """Goes in steps from the first signal on: not ready, but serving; refusing; ended.

    It ends when the last accepted request has. A second signal hurries. It ends, too, when the
    device has failed.
    """

    def __init__(
        self, config: uvicorn.Config, engine: Engine, *, drain_delay_s: float, limit_s: float
    ) -> None:
        super().__init__(config)
        self._engine = engine
        self._drain_delay_s = drain_delay_s
        self._limit_s = limit_s
        self._signalled_s: float | None = None
        self._failed_s: float | None = None
        self._is_hurried = False
        # Held, as the event loop holds its tasks weakly.
        self._trimming: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002  # uvicorn's
        """Only notes the signal, as it may come at any moment."""
        if self._signalled_s is not None:
            self._is_hurried = True
            return
        self._signalled_s = time.monotonic()
        self._engine.drain()
        if sig == signal.SIGINT:
            # A terminal has no load balancer.
            self._drain_delay_s = 0.0
        _end_process_after(self._limit_s, 0)

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether to stop listening."""
        is_over = await super().on_tick(counter)
        if counter % TICKS_BETWEEN_TRIMS == TICKS_BETWEEN_TRIMS - 1:
            self._trimming = asyncio.create_task(asyncio.to_thread(give_back_freed_memory))
        return is_over or self._has_failed() or self._has_drained()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Takes the connections that wait to be accepted, so that they are answered; then ends."""
        # The event loop takes one at a time, and those that are left when it closes are reset.
        waiting = select.poll()
        for listener in self.servers:
            for one in listener.sockets:
                waiting.register(one.fileno(), select.POLLIN)
        end_s = time.monotonic() + MAX_ACCEPT_S
        while waiting.poll(0) and time.monotonic() < end_s:  # noqa: ASYNC110 - the kernel tells nobody
            await asyncio.sleep(ACCEPT_PAUSE_S)
        await super().shutdown(sockets)

    def _has_failed(self) -> bool:
        """Whether the device has failed, and everybody who waited has been told."""
        if self._engine.failure is None:
            return False
        if self._failed_s is None:
            self._failed_s = time.monotonic()
            _end_process_after(MAX_LAST_WORDS_S, DEVICE_FAILED)
        since_s = time.monotonic() - self._failed_s
        return since_s >= MIN_LAST_WORDS_S and self._engine.num_accepted == 0

    def _has_drained(self) -> bool:
        if self._signalled_s is None:
            return False
        since_s = time.monotonic() - self._signalled_s
        if since_s >= self._limit_s - min(MAX_FAREWELL_S, self._limit_s / 5):
            self._engine.abandon()
        elif self._is_hurried:
            self._engine.hurry()
        elif since_s >= self._drain_delay_s:
            self._engine.close()
        else:
            return False
        return self._engine.num_accepted == 0


def run_server(service: Service, settings: Settings) -> None:
    """Serves until a signal ends it: SIGTERM, or SIGINT, which is not followed by a delay.

    When the device fails, the process ends with the status `DEVICE_FAILED`.

    Raises:
        InvalidSetting: nobody can listen there.
    """
    engine = service.engine
    sockets = listen(settings.host, settings.port)
    for one in sockets:
        fields = {"address": "{}, port {}".format(*one.getsockname()[:2])}
        logger.info("listening", extra={"fields": fields})
    allow_open_files(settings.max_connections + OTHER_FILES)
    config = uvicorn.Config(
        service.application,
        http=cast("Any", partial(Connection, settings=settings, inflight=service.inflight)),
        ws="none",
        # Nothing asks who the client is, so nobody has to be believed.
        proxy_headers=False,
        log_config=None,
        access_log=False,
        server_header=False,
        # Whole seconds to its type, and any to the timer that it is for.
        timeout_keep_alive=cast("int", settings.keep_alive_ms / 1000),
        # Of connections; by then every accepted request has ended.
        timeout_graceful_shutdown=-(-settings.shutdown_timeout_ms // 1000),
    )
    server = Server(
        config,
        engine,
        drain_delay_s=settings.drain_delay_ms / 1000,
        limit_s=settings.shutdown_timeout_ms / 1000,
    )
    # What was imported stays: to look through it again and again would stop everything for 50 ms.
    gc.collect()
    gc.freeze()
    try:
        server.run(sockets)
    finally:
        # Libraries complain at the end of what they find still there.
        gc.unfreeze()
    if engine.failure is not None:
        # A thread that hangs in a driver would keep the process from ending by itself.
        _end_process(DEVICE_FAILED)


def listen(host: str, port: int) -> list[socket.socket]:
    """A socket for each address of the host; that of `::` takes IPv4 too.

    Raises:
        InvalidSetting: the host or the port cannot be had.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise _not_here(host) from None
    sockets: list[socket.socket] = []
    try:
        for family, _, _, _, address in dict.fromkeys(found):
            try:
                sockets.append(_bind(family, address))
            except OSError as error:
                if error.errno not in NOT_HERE:
                    raise InvalidSetting(_reason(error, host, port)) from None
        if not sockets:
            raise _not_here(host)
    except InvalidSetting:
        for one in sockets:
            one.close()
        raise
    return sockets


def _bind(family: int, address: tuple[object, ...]) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        # The port of a server that has just ended is free.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            takes_ipv4 = address[0] == "::"
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not takes_ipv4)
        listener.bind(address)
        # At once: of two that only bound the port, neither would know of the other.
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _reason(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"DENSEPOSE_PORT is in use by another process (it is {port} on {host})"
    if error.errno in {errno.EACCES, errno.EPERM}:
        return f"DENSEPOSE_PORT is not open to this user: take one from 1024 on (it is {port})"
    return f"DENSEPOSE_HOST and DENSEPOSE_PORT cannot be listened on: {error.strerror}"


def _not_here(host: str) -> InvalidSetting:
    return InvalidSetting(f"DENSEPOSE_HOST is no address of this machine (it is {host!a:.80})")


def allow_open_files(num_files: int) -> None:
    """Raises the process' own limit, where the system's allows it, and warns where it does not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= num_files:
        return
    allowed = num_files if hard == resource.RLIM_INFINITY else min(num_files, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < num_files:
        fields = {"allowed": allowed, "wanted": num_files}
        logger.warning("fewer files than connections may be open", extra={"fields": fields})


def _end_process_after(seconds: float, status: int) -> None:
    """Ends what does not end by itself: a device that hangs, a client that does not read."""
    watchdog = threading.Timer(seconds, _end_late, [status])
    watchdog.daemon = True
    watchdog.start()


def _end_late(status: int) -> None:
    logger.warning("the time to shut down is over")
    _end_process(status)


def _end_process(status: int) -> None:
    logging.shutdown()
    os._exit(status)
