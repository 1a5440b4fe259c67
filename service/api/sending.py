"""An answer on its way out, chunk by chunk, for a client that may read it slowly or not at all."""

import asyncio
from collections.abc import Callable, Mapping

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.api.record import record_of
from service.batching.inflight import Holding
from service.output.chunks import Chunks, drain, join, total_bytes

# Where a connection tells how it is ended at once.
ABORT_KEY = "densepose.abort"
# What is handed on at a time, for a connection to keep until it is read.
SENT_BYTES = 2**18
# How an answer ends that gave way to others, in the log and the metrics.
CUT_OFF = "cut_off"


class ChunkedResponse(Response):
    """Chunks of a known length together, each held until it is handed on, and no longer."""

    def __init__(
        self,
        chunks: Chunks,
        holding: Holding,
        release: Callable[[], None],
        *,
        headers: Mapping[str, str],
        media_type: str,
    ) -> None:
        """`holding` counts the chunks; `release` is called at the end."""
        super().__init__(headers=headers, media_type=media_type)
        self.headers["Content-Length"] = str(total_bytes(chunks))
        self._chunks = chunks
        self._holding = holding
        self._release = release

    async def __call__(
        self,
        scope: Scope,
        receive: Receive,  # noqa: ARG002  # Starlette's
        send: Send,
    ) -> None:
        """Sends all of it, as fast as the client reads."""
        try:
            await send(
                {
                    "type": "http.response.start",
                    "status": self.status_code,
                    "headers": self.raw_headers,
                }
            )
            if total_bytes(self._chunks) <= SENT_BYTES:
                await _send_body(send, join(self._chunks), is_last=True)
                return
            self._let_be_cut_off(scope)
            for chunk in drain(self._chunks):
                view = memoryview(chunk)
                for start in range(0, len(view), SENT_BYTES):
                    piece = view[start : start + SENT_BYTES]
                    if self._holding.is_closed:
                        record_of(scope).code = CUT_OFF
                        return
                    # What is handed on counts where it waits to be read.
                    self._holding.replace(self._holding.num_bytes - len(piece))
                    await _send_body(send, bytes(piece), is_last=False)
            await _send_body(send, b"", is_last=True)
        finally:
            self._release()

    def _let_be_cut_off(self, scope: Scope) -> None:
        """Where others need the room, the connection ends in the midst of the answer."""
        abort = scope.get(ABORT_KEY)
        if abort is None:
            return
        loop = asyncio.get_running_loop()

        def cut_off() -> None:
            loop.call_soon_threadsafe(abort)

        self._holding.note_unread(cut_off)


async def _send_body(send: Send, body: bytes, *, is_last: bool) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": not is_last})
