"""What goes out on a connection: written for clients that have gone, or that do not read."""

import asyncio
from collections.abc import Callable

from service.batching.inflight import Holding, InflightBytes

# An answer has to be read at this rate, after a while to begin with, and in so long at most.
WRITE_GRACE_S = 20.0
MIN_BYTES_READ_PER_S = 64 * 1024
MAX_READ_S = 120.0
# Not yet the answer: the client is told to send its body.
GO_ON = b"HTTP/1.1 100"


class Outgoing:
    """A transport as an answer needs it: a client that has gone is no error.

    At the end it says that no more comes, and leaves the rest to the client and to time: were it
    closed at once, what the client still sends would reset the connection under the answer.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        on_end: Callable[[], None],
        on_write: Callable[[int], None],
    ) -> None:
        """`on_end` is called when no more comes; the client may be there still.

        `on_write` is called before so many bytes of an answer are written.
        """
        self.is_closing = transport.is_closing
        self._transport = transport
        self._on_end = on_end
        self._on_write = on_write

    def write(self, data: bytes) -> None:
        """Sends on."""
        if not self.is_closing():
            if not data.startswith(GO_ON):
                self._on_write(len(data))
            self._transport.write(data)

    def close(self) -> None:
        """Ends the answers."""
        if not self.is_closing():
            self._transport.write_eof()
            self._on_end()


class Unread:
    """What a client has been sent and has not read: it counts as in flight, and has its time."""

    def __init__(
        self,
        transport: asyncio.Transport,
        inflight: InflightBytes,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._transport = transport
        self._holding = Holding(inflight)
        self._loop = loop
        self._num_answers = 0
        # Of the answer that is written, or was the last: when that began, and how much there is.
        self._is_begun = False
        self._begun_s = 0.0
        self._num_written = 0
        self._deadline: asyncio.TimerHandle | None = None

    def note_written(self, num_bytes: int) -> None:
        """More of an answer is written now."""
        if not self._is_begun:
            self._is_begun = True
            self._begun_s, self._num_written = self._loop.time(), 0
        self._num_written += num_bytes

    def note_answer(self) -> None:
        """An answer was written to its end."""
        self._num_answers += 1
        self._is_begun = False
        if self._deadline is None:
            self._watch(self._num_answers)

    def note_much(self) -> None:
        """The transport keeps more than it should, and takes no more until that is little."""
        self._holding.replace(self._transport.get_write_buffer_size())
        self._unset_deadline()
        self._watch(None)

    def note_little(self) -> None:
        """The client has read nearly all, or has gone."""
        self._holding.replace(0)
        self._unset_deadline()

    def _watch(self, num_answers: int | None) -> None:
        """Gives what is written now its time; other answers may follow it where that is little."""
        if self._transport.get_write_buffer_size():
            seconds = min(WRITE_GRACE_S + self._num_written / MIN_BYTES_READ_PER_S, MAX_READ_S)
            self._deadline = self._loop.call_later(
                self._begun_s + seconds - self._loop.time(), self._give_up, num_answers
            )

    def _unset_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self, num_answers: int | None) -> None:
        self._deadline = None
        if num_answers not in {None, self._num_answers}:
            self._watch(self._num_answers)
        elif self._transport.get_write_buffer_size():
            self._transport.abort()
