"""Fetch a file over HTTP: resumed where it broke off, within a process and across processes.

A server may be anybody's. It is asked for no more bytes than it announced, or the catalogue knows,
and has to bring them at a least rate, whatever it sends instead.
"""

import asyncio
import ipaddress
import json
import os
import shutil
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from typing import TypeAlias

import httpx2

from model_store.plain_files import (
    append_to,
    count_plain_bytes,
    create_file,
    read_text,
    write_text,
)

# Bytes that have arrived, and of how many; None while that is not known. What it raises (no
# OSError, which would say that the disk failed) ends the download; what has arrived stays.
Progress: TypeAlias = Callable[[int, int | None], None]

# So many bytes, or those that are missing, have to come within the time, 10 kB a second; before
# them an answer's head, with all that comes in front of it. Shorter than a server's time to shut
# down.
PIECE_BYTES = 200_000
TIMEOUT_S = 20.0
# Between attempts that bring less than a piece.
BACKOFFS_S = (0.5, 1.0, 2.0, 4.0)
# How long a server that is busy may ask to be left alone, and how often it is looked meanwhile
# whether anybody still wants the file.
MAX_RETRY_AFTER_S = 60.0
POLL_S = 0.5
# Eight times the zoo's largest file.
MAX_BYTES = 2**32
MAX_REDIRECTS = 5
_RETRIED = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)


class DownloadFailed(Exception):
    """The file could not be had; the message says why, without the address."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a file comes from, and what is known of it before it is here."""

    url: str
    num_bytes: int | None = None
    # Only what can be told from any other file may come from another host.
    has_sha256: bool = False


def download(source: Source, partial: Path, progress: Progress) -> None:
    """Bring `partial` to its full length; what it holds is for the caller to verify.

    After a failure, what has arrived stays beside it with the server's name for it, to be
    continued the next time.

    Raises:
        DownloadFailed: the file could not be had.
        OSError: it cannot be written.
    """
    asyncio.run(_download(source, partial, progress))


def discard(partial: Path) -> None:
    """Forget what has arrived."""
    partial.unlink(missing_ok=True)
    _version_path(partial).unlink(missing_ok=True)


def count_bytes(path: Path) -> int:
    """The file's size, 0 where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


class _Interrupted(Exception):
    """This attempt failed, and another one may not, after the time that the server asked for."""

    def __init__(self, message: str, *, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class _Version:
    """What the server called the file of which a part is here."""

    url: str
    etag: str
    num_bytes: int


async def _download(source: Source, partial: Path, progress: Progress) -> None:
    backoffs_s = iter(BACKOFFS_S)
    most_bytes = count_plain_bytes(partial)
    async with _open_client(source) as client:
        while True:
            try:
                return await _continue(client, source, partial, progress)
            except (httpx2.TransportError, _Interrupted) as error:
                num_bytes = count_plain_bytes(partial)
                if num_bytes >= most_bytes + PIECE_BYTES:
                    most_bytes = num_bytes
                    backoffs_s = iter(BACKOFFS_S)
                backoff_s = next(backoffs_s, None)
                if backoff_s is None:
                    raise DownloadFailed(_explain(error)) from error
                if isinstance(error, _Interrupted):
                    backoff_s = max(backoff_s, min(error.retry_after_s, MAX_RETRY_AFTER_S))
            await _wait(backoff_s, lambda: progress(count_plain_bytes(partial), None))


async def _wait(seconds: float, report: Callable[[], None]) -> None:
    while seconds > 0:
        report()
        await asyncio.sleep(min(seconds, POLL_S))
        seconds -= POLL_S


def _explain(error: Exception) -> str:
    reason = _innermost(error) if isinstance(error, httpx2.TransportError) else error
    if isinstance(reason, ssl.SSLCertVerificationError):
        return f"{reason.verify_message} (SSL_CERT_FILE names the certificates that are trusted)"
    if isinstance(reason, OSError) and not isinstance(reason, ssl.SSLError | socket.gaierror):
        return os.strerror(reason.errno) if reason.errno else str(reason)
    return str(error) or type(error).__name__


def _innermost(error: BaseException) -> BaseException:
    """What happened, of which the libraries in between say only that all attempts failed."""
    if isinstance(error, BaseExceptionGroup):
        return _innermost(error.exceptions[0])
    earlier = error.__cause__ or error.__context__
    return error if earlier is None else _innermost(earlier)


def _open_client(source: Source) -> httpx2.AsyncClient:
    try:
        url = httpx2.URL(source.url)
    except (ValueError, httpx2.InvalidURL) as error:
        raise DownloadFailed(f"the address cannot be used: {error}") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise DownloadFailed("the address does not begin with https://")
    try:
        # An encoding would be undone by nobody: what is verified and resumed are the file's bytes.
        # All that takes time has a limit of its own.
        return httpx2.AsyncClient(headers={"Accept-Encoding": "identity"}, timeout=None)
    except ImportError as error:
        raise DownloadFailed(
            "the environment names a SOCKS proxy, for which the package socksio is needed: "
            "install it, or name an http:// proxy in HTTPS_PROXY or ALL_PROXY"
        ) from error
    except (ValueError, httpx2.InvalidURL) as error:
        raise DownloadFailed(f"the environment's proxy cannot be used: {error}") from error
    except OSError as error:
        raise DownloadFailed(
            "the certificates that SSL_CERT_FILE or SSL_CERT_DIR names cannot be read: "
            f"{error.strerror or error}"
        ) from error


async def _continue(
    client: httpx2.AsyncClient, source: Source, partial: Path, progress: Progress
) -> None:
    num_bytes, version = count_plain_bytes(partial), _read_version(partial, source)
    headers = {}
    if version is not None and num_bytes == version.num_bytes:
        return
    if version is not None and 0 < num_bytes < version.num_bytes:
        headers = {"Range": f"bytes={num_bytes}-", "If-Range": version.etag}
    limit = asyncio.timeout(TIMEOUT_S)
    try:
        async with limit, _open_response(client, source, headers) as response:
            if headers and version and response.status_code == HTTPStatus.PARTIAL_CONTENT:
                _check_range(response, version, num_bytes, partial)
                total = version.num_bytes
            else:
                _check_whole(response, partial)
                total = _read_length(response, source)
                _begin(partial, _Version(source.url, response.headers.get("ETag", ""), total))
            _check_free_disk(partial, total)
            await _receive(response, partial, total, progress, limit)
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise _Interrupted(
            f"timed out: fewer than {PIECE_BYTES} bytes came in {TIMEOUT_S:g} s"
        ) from error


async def _receive(
    response: httpx2.Response,
    partial: Path,
    total: int,
    progress: Progress,
    limit: asyncio.Timeout,
) -> None:
    _extend(limit)
    with append_to(partial) as file:
        num_bytes = file.tell()
        progress(num_bytes, total)
        wanted = num_bytes + PIECE_BYTES
        async for chunk in response.aiter_raw():
            num_bytes += len(chunk)
            if num_bytes > total:
                discard(partial)
                raise DownloadFailed(
                    f"the server sends more than the {total} bytes that it announced"
                )
            file.write(chunk)
            progress(num_bytes, total)
            if num_bytes == total:
                break
            if num_bytes >= wanted:
                wanted = num_bytes + PIECE_BYTES
                _extend(limit)
        file.flush()
        os.fsync(file.fileno())
    if num_bytes != total:
        raise _Interrupted(f"the server sent {num_bytes} of {total} bytes")


def _extend(limit: asyncio.Timeout) -> None:
    limit.reschedule(asyncio.get_running_loop().time() + TIMEOUT_S)


@asynccontextmanager
async def _open_response(
    client: httpx2.AsyncClient, source: Source, headers: dict[str, str]
) -> AsyncIterator[httpx2.Response]:
    request = client.build_request("GET", source.url, headers=headers)
    for _ in range(1 + MAX_REDIRECTS):
        async with aclosing(await client.send(request, stream=True)) as response:
            if response.next_request is None:
                yield response
                return
        request = response.next_request
        _check_redirect(httpx2.URL(source.url), request.url, source)
    raise DownloadFailed(f"the server redirects more than {MAX_REDIRECTS} times")


def _check_redirect(origin: httpx2.URL, target: httpx2.URL, source: Source) -> None:
    is_local = all(url.scheme == "http" and _is_loopback(url.host) for url in (origin, target))
    if target.scheme != "https" and not is_local:
        raise DownloadFailed("the server redirects to an address that is not https")
    if target.host != origin.host and not source.has_sha256:
        raise DownloadFailed(
            f"the server redirects to another host ({target.host}), which is followed only for "
            "models whose SHA-256 is in the catalogue"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_range(
    response: httpx2.Response, version: _Version, num_bytes: int, partial: Path
) -> None:
    expected = f"bytes {num_bytes}-{version.num_bytes - 1}/{version.num_bytes}"
    is_same = response.headers.get("ETag", version.etag) == version.etag
    if not is_same or response.headers.get("Content-Range") != expected:
        discard(partial)
        raise _Interrupted("the server continues another file than the one that it began")


def _check_whole(response: httpx2.Response, partial: Path) -> None:
    status = response.status_code
    if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        discard(partial)
    if status in (*_RETRIED, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE) or status >= 500:
        raise _Interrupted(_describe(response), retry_after_s=_read_retry_after(response))
    if status != HTTPStatus.OK:
        raise DownloadFailed(_describe(response))
    if response.headers.get("Content-Type", "").startswith("text/html"):
        raise DownloadFailed("a web page came in its place: does this network ask for a login?")
    if "Content-Encoding" in response.headers:
        raise DownloadFailed("the server sends it compressed, though asked not to")


def _describe(response: httpx2.Response) -> str:
    return f"the server answered {response.status_code} {response.reason_phrase}".rstrip()


def _read_retry_after(response: httpx2.Response) -> float:
    """RFC 9110, 10.2.3: seconds, or a date."""
    text = response.headers.get("Retry-After", "")
    try:
        # All digits, it may still be too large for a number.
        return float(text) if text.isdecimal() else _seconds_until(parsedate_to_datetime(text))
    except ValueError:
        return 0.0


def _seconds_until(moment: datetime) -> float:
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (aware - datetime.now(UTC)).total_seconds()


def _read_length(response: httpx2.Response, source: Source) -> int:
    # The HTTP library refuses lengths that are no numbers, or that contradict one another.
    text = response.headers.get("Content-Length")
    num_bytes = source.num_bytes if text is None else int(text)
    if num_bytes is None:
        raise DownloadFailed("the server does not say how long the file is")
    if source.num_bytes not in (None, num_bytes):
        raise DownloadFailed(
            f"the server's file has {num_bytes} bytes instead of {source.num_bytes}"
        )
    if num_bytes > MAX_BYTES:
        raise DownloadFailed(f"the server's file has {num_bytes} bytes, more than {MAX_BYTES}")
    return num_bytes


def _check_free_disk(partial: Path, total: int) -> None:
    # Once more the whole, for what it is converted to.
    needed = total - count_plain_bytes(partial) + total
    free = shutil.disk_usage(partial.parent).free
    if free < needed:
        raise DownloadFailed(f"it takes {needed} bytes on the disk, where {free} are free")


def _begin(partial: Path, version: _Version) -> None:
    discard(partial)
    content = {"url": version.url, "etag": version.etag, "num_bytes": version.num_bytes}
    write_text(_version_path(partial), json.dumps(content))
    create_file(partial).close()


def _read_version(partial: Path, source: Source) -> _Version | None:
    try:
        content = json.loads(read_text(_version_path(partial)))
    except (OSError, ValueError, RecursionError):
        return None
    match content:
        case {"url": source.url, "etag": str(etag), "num_bytes": int(num_bytes)} if (
            # RFC 9110, 13.1.5: a weak tag does not say that the bytes are the same.
            etag.startswith('"')
        ):
            return _Version(source.url, etag, num_bytes)
    return None


def _version_path(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.json")
