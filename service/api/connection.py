"""One client's connection: what HTTP leaves open is refused here, and what is slow is cut off.

uvicorn's protocol does the reading and writing; this adds the limits that it does not have. What it
refuses goes the way of every request, to the recorder, so it is answered, counted and logged there.
"""

import asyncio
import logging
import re
import time
from collections.abc import Iterator
from typing import Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service.api.outgoing import Outgoing, Unread
from service.api.record import REFUSAL_KEY
from service.api.sending import ABORT_KEY
from service.batching.inflight import InflightBytes
from service.errors import HeadersTooLarge, MalformedRequest, Overloaded, ServiceError, SlowUpload
from service.hosts import Authority, parse_authority
from service.settings import Settings

logger = logging.getLogger(__name__)

END_OF_AUTHORITY = re.compile("[/?#]")
# The request line and the headers together; a thousand points in a query take 25 KiB.
MAX_HEAD_BYTES = 32 * 1024
MAX_HEADERS = 100
# What the framing of a chunked body may take, beyond as much as the body itself.
MAX_FRAMING_BYTES = 64 * 1024
# A request may come before the answer to the one before it; more than a few do not.
MAX_PIPELINED = 8
# Some time more than the application allows a body, so that it can answer.
BODY_GRACE_S = 5.0
# How long the client has to go, once it is told that no more comes.
FAREWELL_S = 1
# A connection that is closed for its silence is listened to once more: what came while the process
# was busy has not been read when its time is over.
LISTEN_S = 0.05
# An orchestrator must be answered when all others are turned away.
PROBES = frozenset({"/livez", "/readyz"})


class Connection(HttpToolsProtocol):
    """One connection, with as many requests as the client sends on it."""

    def __init__(self, *, settings: Settings, inflight: InflightBytes, **of_uvicorn: Any) -> None:
        """`inflight` counts the bytes that clients have not read yet."""
        super().__init__(**of_uvicorn)
        self._settings = settings
        self._inflight = inflight
        # From the first byte of a request to the end of its headers, and from there to its end.
        self._upload_timeout_s = settings.upload_timeout_ms / 1000
        self._is_surplus = False
        # Whether no more is read: what came was refused, and the answer says so.
        self._is_refused = False
        # Whether the server ends: the next answer is the last.
        self._is_ending = False
        # Whether the request that is read is the last for a reason of its own.
        self._is_last = False
        # Between requests, or in the head of one, since then; None in a body or while answering.
        self.waiting_since_s: float | None = time.monotonic()
        self._is_in_head = True
        self.headers = []
        self._is_in_body = False
        self._num_head_bytes = self._num_headers = 0
        self._num_body_bytes = self._num_framing_bytes = 0
        self._num_messages = 0
        self._answering: RequestResponseCycle | None = None
        self._deadline: asyncio.TimerHandle | None = None

    # What the transport tells.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Takes the connection; where there are too many, the longest idle one goes for it."""
        super().connection_made(transport)
        self._unread = Unread(transport, self._inflight, self.loop)
        self._set_deadline(self._upload_timeout_s)
        if len(self.connections) > self._settings.max_connections:
            self._is_surplus = not self._displace_another()

    def data_received(self, data: bytes) -> None:
        """Reads on; in the place of uvicorn's, which answers what it cannot read by itself."""
        if self._is_refused or self.transport.is_closing():
            return
        self._unset_keepalive_if_required()
        if not (self._is_in_head or self._is_in_body):
            self._begin_head()
        num_messages, num_body_bytes = self._num_messages, self._num_body_bytes
        try:
            self._feed(data)
        except httptools.HttpParserError as error:
            cause = error.__context__
            self._refuse(cause if isinstance(cause, ServiceError) else _malformed())
        if not self._is_refused and num_messages == self._num_messages:
            self._count_framing(len(data) - (self._num_body_bytes - num_body_bytes))

    def pause_writing(self) -> None:
        """The client does not read as fast as it is answered."""
        super().pause_writing()
        self._unread.note_much()

    def resume_writing(self) -> None:
        """The client has read nearly all."""
        super().resume_writing()
        self._unread.note_little()

    def eof_received(self) -> None:
        """The client has gone, or has said all that it will; nothing here tells the two apart.

        It is taken for gone, so that nobody's image is described for whoever does not wait.
        """
        self._tell_that_client_left()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the connection."""
        self._tell_that_client_left()
        self._unset_deadline()
        self._unset_keepalive_if_required()
        self._unread.note_little()
        super().connection_lost(exc)

    # What the parser finds.

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        self._unset_keepalive_if_required()
        if not self._is_in_head:
            self._begin_head()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A part of the request line."""
        super().on_url(url)
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a field behind a chunked body: nothing reads those, so they are dropped."""
        self._num_headers += 1
        self._count_head(len(name) + len(value) + len(": \r\n"))
        if self._is_in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The request is given to the application, with the reason if it is to be refused."""
        if self._asks_for_another_protocol():
            return
        if self._is_refused or len(self.pipeline) >= MAX_PIPELINED:
            raise MalformedRequest("Wait for an answer before you send more requests.")
        refusal = self._refusal()
        if refusal is not None:
            cast("dict[str, Any]", self.scope)[REFUSAL_KEY] = refusal
        cast("dict[str, Any]", self.scope)[ABORT_KEY] = self.transport.abort
        super().on_headers_complete()
        self._is_in_head, self._is_in_body = False, True
        self.waiting_since_s = None
        self._set_deadline(self._upload_timeout_s + BODY_GRACE_S)
        self._is_refused = refusal is not None
        self.cycle.transport = self._outgoing()
        if refusal is not None or self._is_ending or self._is_last:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """A piece of the body; what comes after the answer is dropped, but not without end."""
        self._num_body_bytes += len(body)
        if (
            self.cycle.response_complete
            and self._num_body_bytes > 2 * self._settings.max_body_bytes
        ):
            self._is_refused = True
            self.transport.close()
            return
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The last byte of a request."""
        if self._asks_for_another_protocol():
            return
        super().on_message_complete()
        self._num_messages += 1
        self._is_in_body = False
        self._unset_deadline()
        if self.cycle.response_complete:
            # It was answered before it had been read.
            self._wait_for_next()

    def _feed(self, data: bytes) -> None:
        """Has the parser read on; of a request for another protocol, as if it were for this one.

        At such a request's headers the parser stops, as what follows may be of that protocol. It is
        the body, since nobody here agrees to change. RFC 9110, 7.8. So they are read again without
        the wish; the connection ends with the answer, in case the client takes that for granted.
        """
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self._is_refused:
                return
            (num_read,) = upgrade.args
            data = self._head_without_upgrade() + data[num_read:]
            self._begin_head()
            self._is_last = True
            # The one before may have been told to close, and would read nothing more.
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            self._feed(data)

    def _asks_for_another_protocol(self) -> bool:
        return self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"

    def _head_without_upgrade(self) -> bytes:
        version = self.parser.get_http_version().encode("ascii")
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, version)]
        lines += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])

    # What the application and time do.

    def on_response_complete(self) -> None:
        """The answer is written, which does not say that it was read."""
        super().on_response_complete()
        if not self.pipeline:
            self.waiting_since_s = time.monotonic()
        self._unread.note_answer()

    def timeout_keep_alive_handler(self) -> None:
        """Nothing came for a while, or nothing has been read."""
        close = super().timeout_keep_alive_handler
        self.timeout_keep_alive_task = self.loop.call_later(LISTEN_S, close)

    def shutdown(self) -> None:
        """The server ends: answers what has come, and no more."""
        self._is_ending = True
        self.timeout_keep_alive = 0
        if self._is_in_head:
            self._set_deadline(FAREWELL_S)
        if self.cycle is None or self.cycle.response_complete:
            self._wait_for_next()
        else:
            self.cycle.keep_alive = False

    def _wait_for_next(self) -> None:
        """Has the connection end if no request comes."""
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def _say_farewell(self) -> None:
        """The last answer is written: nothing is read or answered any more."""
        self._is_refused = True
        self._unset_deadline()
        self.pipeline.clear()
        self.timeout_keep_alive = FAREWELL_S
        self._wait_for_next()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        # The cycle that is answered; uvicorn's is the last that came.
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def _tell_that_client_left(self) -> None:
        """Lets the request that is answered know, also where others wait behind it."""
        cycle = self._answering
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()

    def _begin_head(self) -> None:
        self._is_in_head = True
        self.headers = []
        self._num_head_bytes = self._num_headers = 0
        self._num_body_bytes = self._num_framing_bytes = 0
        self._set_deadline(FAREWELL_S if self._is_ending else self._upload_timeout_s)

    def _count_head(self, num_bytes: int) -> None:
        self._num_head_bytes += num_bytes
        if self._num_head_bytes > MAX_HEAD_BYTES or self._num_headers > MAX_HEADERS:
            raise _too_large()

    def _count_framing(self, num_bytes: int) -> None:
        """Counts what was received and is no body: of it, the parser may keep what has no end."""
        self._num_framing_bytes += num_bytes
        if self._is_in_head and self._num_framing_bytes > MAX_HEAD_BYTES:
            self._refuse(_too_large())
        elif self._num_framing_bytes > MAX_HEAD_BYTES + MAX_FRAMING_BYTES + self._num_body_bytes:
            self._refuse(MalformedRequest("The body's chunks are too small, or say too much."))

    def _refusal(self) -> ServiceError | None:
        """Why the request whose headers are complete is not to be read on."""
        if self._is_surplus and self.url.decode("latin-1").partition("?")[0] not in PROBES:
            return Overloaded(
                "There are too many connections: try again in a moment.", reason="connections"
            )
        if any(self._ambiguities()):
            return _malformed()
        return None

    def _ambiguities(self) -> Iterator[bool]:
        """What servers and proxies read in different ways, though the parser has one: RFC 9112."""
        version = self.parser.get_http_version()
        hosts = [
            parse_authority(value.decode("latin-1").strip())
            for name, value in self.headers
            if name == b"host"
        ]
        codings = [
            value.strip().lower() for name, value in self.headers if name == b"transfer-encoding"
        ]
        yield version not in {"1.0", "1.1"}
        yield len(hosts) > 1 or (version == "1.1" and not hosts)
        yield any(host is None or self._is_target_of_another(host) for host in hosts)
        yield codings not in ([], [b"chunked"])
        yield version == "1.0" and bool(codings)
        # For gateways that speak other protocols over HTTP; this is none.
        yield self.parser.get_method() in {b"CONNECT", b"SOURCE", b"PRI"}

    def _is_target_of_another(self, host: Authority) -> bool:
        """Whether the request's target is a whole address, as proxies get it, of another host."""
        _, is_whole, rest = self.url.decode("latin-1").partition("://")
        if self.url.startswith((b"/", b"*")) or not is_whole:
            return False
        named = parse_authority(END_OF_AUTHORITY.split(rest, 1)[0])
        return named is None or named.name != host.name

    def _refuse(self, error: ServiceError) -> None:
        """Reads no more, answers with the error as soon as its turn has come, and closes."""
        if self._is_refused:
            return
        self._is_refused = True
        self._unset_deadline()
        if self.cycle is not None and self._is_in_body:
            self._break_off(self.cycle, error)
            return
        cycle = self._cycle_without_request(error)
        cycle.more_body = False
        before, self.cycle = self.cycle, cycle
        if before is None or before.response_complete:
            self._start_asgi_task(cycle, self.app)
        else:
            self.pipeline.appendleft((cycle, self.app))

    def _cycle_without_request(self, error: ServiceError) -> RequestResponseCycle:
        """What lets the application answer with an error though no request could be read."""
        scope: Any = {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "",
            "path": "",
            "raw_path": b"",
            "query_string": b"",
            "root_path": self.root_path,
            "scheme": self.scheme,
            "server": self.server,
            "client": self.client,
            # Those that were read: an answer follows from some, whatever is wrong.
            "headers": self.headers,
            "state": self.app_state.copy(),
            REFUSAL_KEY: error,
        }
        return RequestResponseCycle(
            scope=scope,
            transport=self._outgoing(),
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=False,
            on_response=self.on_response_complete,
        )

    def _break_off(self, cycle: RequestResponseCycle, error: ServiceError) -> None:
        """Lets whoever reads the body that broke meet the error."""
        if cycle.response_complete:
            self.transport.close()
            return
        cast("dict[str, Any]", cycle.scope)[REFUSAL_KEY] = error
        cycle.keep_alive = False
        cycle.more_body = False
        cycle.message_event.set()

    def _outgoing(self) -> asyncio.Transport:
        return cast(
            "asyncio.Transport",
            Outgoing(self.transport, self._say_farewell, self._unread.note_written),
        )

    def _displace_another(self) -> bool:
        """Closes the connection that has been without a request the longest, if there is one."""
        others = [
            (connection.waiting_since_s, connection)
            for connection in self.connections
            if isinstance(connection, Connection)
            and connection is not self
            and connection.waiting_since_s is not None
            and not connection.transport.is_closing()
        ]
        if not others:
            return False
        min(others, key=lambda each: each[0])[1].transport.abort()
        return True

    def _set_deadline(self, seconds: float) -> None:
        self._unset_deadline()
        self._deadline = self.loop.call_later(seconds, self._cut_off)

    def _unset_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _cut_off(self) -> None:
        """The client was too slow: with a request's first bytes, or with its last."""
        self._deadline = None
        if self._is_in_body and self.pipeline:
            # It is not read on before the answers to the requests before it.
            self._set_deadline(self._upload_timeout_s)
            return
        has_begun = self._num_framing_bytes > 0 or self._num_head_bytes > 0
        if self._is_in_head and has_begun and not self._is_refused:
            self._refuse(SlowUpload("The request's headers did not arrive in time."))
        else:
            self.transport.close()


def _malformed() -> MalformedRequest:
    return MalformedRequest("This is not a request in HTTP/1.1, or can be read in several ways.")


def _too_large() -> HeadersTooLarge:
    return HeadersTooLarge(
        f"The request line and the headers may have {MAX_HEAD_BYTES} bytes together, and there may "
        f"be {MAX_HEADERS} headers: send long lists of parameters in the body."
    )
