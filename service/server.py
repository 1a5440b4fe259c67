"""The server process: listens, and goes when it is told, without leaving anybody in the lurch."""

import gc
import logging
import os
import signal
import threading
import time
from types import FrameType

import uvicorn
from fastapi import FastAPI

from service.engine import Engine

logger = logging.getLogger(__name__)

# Before the limit, so that what was given up then is told so.
MAX_FAREWELL_S = 1.0


class Server(uvicorn.Server):
    """Goes in steps from the first signal on: not ready, but serving; refusing; ended.

    It ends when the last accepted request has. A second signal hurries.
    """

    def __init__(
        self, config: uvicorn.Config, engine: Engine, *, drain_delay_s: float, limit_s: float
    ) -> None:
        super().__init__(config)
        self._engine = engine
        self._drain_delay_s = drain_delay_s
        self._limit_s = limit_s
        self._signalled_s: float | None = None
        self._is_hurried = False

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
        watchdog = threading.Timer(self._limit_s, _end_process)
        watchdog.daemon = True
        watchdog.start()

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether to stop listening."""
        is_over = await super().on_tick(counter)
        return is_over or self._has_drained()

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


def run_server(
    application: FastAPI,
    engine: Engine,
    *,
    host: str,
    port: int,
    drain_delay_ms: int,
    shutdown_timeout_ms: int,
) -> None:
    """Serves until a signal ends it: SIGTERM, or SIGINT, which is not followed by a delay."""
    config = uvicorn.Config(
        application,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        server_header=False,
        # Of connections; by then every accepted request has ended.
        timeout_graceful_shutdown=-(-shutdown_timeout_ms // 1000),
    )
    server = Server(
        config,
        engine,
        drain_delay_s=drain_delay_ms / 1000,
        limit_s=shutdown_timeout_ms / 1000,
    )
    # What was imported stays: to look through it again and again would stop everything for 50 ms.
    gc.collect()
    gc.freeze()
    try:
        server.run()
    finally:
        # Libraries complain at the end of what they find still there.
        gc.unfreeze()


def _end_process() -> None:
    """Ends what does not end by itself: a device that hangs, a client that does not read."""
    logger.warning("the time to shut down is over")
    logging.shutdown()
    os._exit(0)
