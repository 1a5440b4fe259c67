"""A small HTTP/1.1 client that costs the generator's core as little as possible."""

import asyncio
import time
from dataclasses import dataclass
from typing import cast

# A server ends a connection that was idle for some seconds, perhaps in the moment when it is used.
# It counts from its last answer, which may have lain here for long where this process was stopped:
# what counts here is the request before that.
MAX_UNUSED_S = 2.0


class RequestLost(Exception):
    """The connection ended without an answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes


class Pool:
    """Connections to one server; as many as there are requests at a time, used again."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._idle: list[_Connection] = []

    async def ask(self, request: bytes) -> Answer:
        """The answer to a whole request.

        Raises:
            ConnectionError: the server takes no connections.
            RequestLost: the request was sent, and no answer came.
        """
        connection = await self._connection()
        answer = await connection.ask(request)
        if connection.is_open:
            self._idle.append(connection)
        return answer

    async def _connection(self) -> "_Connection":
        while self._idle:
            connection = self._idle.pop()
            if time.monotonic() - connection.used_s > MAX_UNUSED_S:
                connection.close()
            elif connection.is_open:
                return connection
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(_Connection, self._host, self._port)
        return connection

    def close(self) -> None:
        """Closes the connections that nobody uses."""
        for connection in self._idle:
            connection.close()


class _Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self) -> None:
        self.is_open = True
        # When it was used last.
        self.used_s = 0.0
        self._received = bytearray()
        self._answer: asyncio.Future[Answer] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    async def ask(self, request: bytes) -> Answer:
        self._answer = asyncio.get_running_loop().create_future()
        self.used_s = time.monotonic()
        self._transport.write(request)
        try:
            return await self._answer
        except asyncio.CancelledError:
            self.close()
            raise

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, rest = self._received.partition(b"\r\n\r\n")
        if not separator:
            return
        status_line, *lines = bytes(head).split(b"\r\n")
        headers = {
            name.lower(): value for name, _, value in (line.partition(b": ") for line in lines)
        }
        length = int(headers.get(b"content-length", b"0"))
        if len(rest) < length:
            return
        self._received.clear()
        if headers.get(b"connection") == b"close":
            self.close()
        if self._answer is not None and not self._answer.done():
            status = int(status_line.split()[1])
            self._answer.set_result(Answer(status, headers, bytes(rest[:length])))

    def connection_lost(self, _: Exception | None) -> None:
        self.is_open = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(RequestLost("the connection was closed"))

    def close(self) -> None:
        self.is_open = False
        self._transport.close()
