"""One request and one answer, and the two ways that they go: waiting, or by asyncio."""

import asyncio
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, ParamSpec, TypeAlias, TypeVar
from urllib.parse import urlsplit

import httpx2

from service.client.errors import (
    ERROR_OF,
    OutOfTime,
    Refused,
    ServerUnreachable,
    UnreadableAnswer,
)
from service.client.retries import Attempts

P = ParamSpec("P")
T = TypeVar("T")

CONNECT_TIMEOUT_S = 10.0
MAX_ERROR_BYTES = 64 * 1024
MAX_SHOWN = 2000
LIMITS = httpx2.Limits(max_connections=100, max_keepalive_connections=100)
HEADERS: Mapping[str, str] = {
    "User-Agent": "densepose-client",
    # Pictures are compressed already, and what nobody asked to be packed cannot be a bomb.
    "Accept-Encoding": "identity",
}
BINARY: Mapping[str, str] = {"Content-Type": "application/octet-stream"}


@dataclass(frozen=True)
class Request:
    """What is asked; repeating it changes nothing where `is_safe`."""

    method: str
    path: str
    accept: str = "application/json"
    params: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    # A form instead of the content: its fields, and its files by name.
    fields: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    is_safe: bool = True
    # Whether the server is told how long the caller waits.
    has_timeout: bool = False

    def within(self, left_s: float) -> "Request":
        """The same, with the time that is left for it."""
        if not self.has_timeout:
            return self
        return replace(self, params={**self.params, "timeout_ms": str(max(int(1000 * left_s), 1))})

    def build(self, http: httpx2.Client | httpx2.AsyncClient, left_s: float) -> httpx2.Request:
        """The request as it goes out."""
        return http.build_request(
            self.method,
            # Relative, so that a path before the server's own is kept.
            self.path.removeprefix("/"),
            params=self.within(left_s).params,
            headers={"Accept": self.accept, **({} if self.content is None else BINARY)},
            content=self.content,
            data=self.fields or None,
            files=self.files or None,
            timeout=httpx2.Timeout(left_s, connect=min(left_s, CONNECT_TIMEOUT_S)),
        )


class Collector:
    """Takes an answer's bytes as they come, up to a limit and a moment."""

    def __init__(self, response: httpx2.Response, *, max_bytes: int, deadline_s: float) -> None:
        """`deadline_s` is one of `time.monotonic()`.

        Raises:
            UnreadableAnswer: it is packed in a way that was not asked for.
        """
        self._response = response
        self._max_bytes = max_bytes if response.is_success else MAX_ERROR_BYTES
        self._deadline_s = deadline_s
        self._content = bytearray()
        encoding = response.headers.get("content-encoding", "identity")
        if encoding != "identity":
            raise UnreadableAnswer(f"The answer has the Content-Encoding {shown(encoding)}.")

    def add(self, chunk: bytes) -> None:
        """Take note of some bytes.

        Raises:
            UnreadableAnswer: they are too many.
            OutOfTime: they come too late.
        """
        self._content += chunk
        if len(self._content) > self._max_bytes:
            raise UnreadableAnswer(f"The answer has more than {self._max_bytes} bytes.")
        if time.monotonic() > self._deadline_s:
            raise OutOfTime("The answer did not arrive in time.")

    def content(self) -> bytes:
        """All of them, if they are an answer.

        Raises:
            Refused: they are an error.
            UnreadableAnswer: they are of another media type than was asked for.
        """
        content = bytes(self._content)
        response = self._response
        if not response.is_success:
            raise refusal_in(response.status_code, response.headers, content)
        media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != response.request.headers["accept"]:
            raise UnreadableAnswer(
                f"The answer is of the media type {shown(media_type)!r}: is this the address of a "
                "DensePose server?"
            )
        return content


class Awaiting:
    """By asyncio."""

    def __init__(
        self, url: str, api_key: str | None, transport: httpx2.AsyncBaseTransport | None
    ) -> None:
        self._http = httpx2.AsyncClient(
            base_url=check_address(url),
            headers={**HEADERS, **key_headers(api_key)},
            transport=transport,
            limits=LIMITS,
        )

    async def attempt(self, request: Request, attempts: Attempts, max_bytes: int) -> bytes:
        """The answer, or an error of ours, in the time that is left for another attempt."""
        left_s = attempts.left_s()
        try:
            # The HTTP library's own limits are those of a single read.
            async with asyncio.timeout(left_s):
                with translated():
                    response = await self._http.send(request.build(self._http, left_s), stream=True)
                    try:
                        collector = Collector(
                            response, max_bytes=max_bytes, deadline_s=attempts.deadline_s
                        )
                        async for chunk in response.aiter_raw():
                            collector.add(chunk)
                    finally:
                        await response.aclose()
                return collector.content()
        except TimeoutError:
            raise OutOfTime("The server did not answer in time.") from None

    async def aside(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What comes of the work, which keeps no other task waiting."""
        return await asyncio.to_thread(work, *args, **kwargs)

    async def pause(self, seconds: float) -> None:
        """Let the other tasks go on."""
        await asyncio.sleep(seconds)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()


class Waiting:
    """Without asyncio: all is there as soon as it is awaited."""

    def __init__(
        self, url: str, api_key: str | None, transport: httpx2.BaseTransport | None
    ) -> None:
        self._http = httpx2.Client(
            base_url=check_address(url),
            headers={**HEADERS, **key_headers(api_key)},
            transport=transport,
            limits=LIMITS,
        )

    async def attempt(self, request: Request, attempts: Attempts, max_bytes: int) -> bytes:
        """The answer, or an error of ours, in the time that is left for another attempt."""
        built = request.build(self._http, attempts.left_s())
        with translated():
            response = self._http.send(built, stream=True)
            try:
                collector = Collector(response, max_bytes=max_bytes, deadline_s=attempts.deadline_s)
                for chunk in response.iter_raw():
                    collector.add(chunk)
            finally:
                response.close()
        return collector.content()

    async def aside(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What comes of the work."""
        return work(*args, **kwargs)

    async def pause(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)  # noqa: ASYNC251  # there is no event loop that could do more meanwhile

    async def close(self) -> None:
        """Close the connections."""
        self._http.close()


Way: TypeAlias = Awaiting | Waiting


@contextmanager
def translated() -> Iterator[None]:
    """The errors of the HTTP library as ours.

    Raises:
        ServerUnreachable, OutOfTime, UnreadableAnswer: what they are here.
    """
    try:
        yield
    except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
        raise ServerUnreachable(
            f"There is no connection to the server: {shown(str(error))}", was_sent=False
        ) from error
    except httpx2.TimeoutException as error:
        raise OutOfTime("The server did not answer in time.") from error
    except httpx2.TransportError as error:
        raise ServerUnreachable(
            f"The connection to the server broke: {shown(str(error))}", was_sent=True
        ) from error
    except httpx2.HTTPError as error:
        raise UnreadableAnswer(f"The answer cannot be read: {shown(str(error))}") from error


def check_address(url: str) -> str:
    """The address with a slash at its end, so that paths can be appended.

    Raises:
        ValueError: it is none of a server.
    """
    try:
        parsed = urlsplit(url)
        is_address = parsed.scheme in {"http", "https"} and parsed.hostname and parsed.port != 0
    except ValueError:
        is_address = False
    if not is_address or parsed.query or parsed.fragment:
        raise ValueError(f"{shown(url)!r} is no address of a server, as http://localhost:8000 is")
    return url.rstrip("/") + "/"


def key_headers(api_key: str | None) -> dict[str, str]:
    """The headers that carry a key.

    Raises:
        ValueError: it has characters that no header can carry.
    """
    if api_key is None:
        return {}
    if not (api_key and api_key.isascii() and api_key.isprintable() and " " not in api_key):
        raise ValueError("The key is empty, or has characters that no header can carry.")
    return {"Authorization": f"Bearer {api_key}"}


def refusal_in(status: int, headers: Mapping[str, str], content: bytes) -> Refused:
    """The error that an answer tells, as far as it tells one."""
    problem = _problem_in(content)
    code = problem.get("code")
    if not isinstance(code, str) or not isinstance(problem.get("detail"), str):
        # The health of a server, which is no error, has a reason.
        reason = problem.get("reason")
        return Refused(
            shown(reason) if isinstance(reason, str) else f"The server answered {status}.",
            status=status,
            retry_after_s=parse_retry_after(headers.get("retry-after")),
        )
    request_id = problem.get("request_id")
    return ERROR_OF.get(code, Refused)(
        shown(problem["detail"]),
        status=status,
        code=shown(code),
        request_id=shown(request_id) if isinstance(request_id, str) else None,
        retry_after_s=parse_retry_after(headers.get("retry-after")),
    )


def parse_retry_after(text: str | None) -> float | None:
    """The seconds that a Retry-After header asks for; None where it does not. RFC 9110, 10.2.3."""
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            moment = parsedate_to_datetime(text)
        except ValueError:
            return None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        seconds = (moment - datetime.now(UTC)).total_seconds()
    return max(seconds, 0.0) if math.isfinite(seconds) else None


def shown(text: str) -> str:
    """A server's text, of which nothing can act on a terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:MAX_SHOWN])


def _problem_in(content: bytes) -> dict[str, Any]:
    try:
        problem = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return problem if isinstance(problem, dict) else {}
