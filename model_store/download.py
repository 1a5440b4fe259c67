"""Fetch a file over HTTP: resumed where it broke off, within a process and across processes."""

import ipaddress
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TypeAlias

import httpx2

# Bytes that have arrived, and of how many; None while that is not known. What it raises (no
# OSError, which would say that the disk failed) ends the download; what has arrived stays.
Progress: TypeAlias = Callable[[int, int | None], None]

# Without a byte. Shorter than a server's time to shut down.
TIMEOUT_S = 20.0
# Between attempts that bring nothing new.
BACKOFFS_S = (0.5, 1.0, 2.0, 4.0)
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
    backoffs_s = iter(BACKOFFS_S)
    most_bytes = count_bytes(partial)
    with _open_client(source) as client:
        while True:
            try:
                return _continue(client, source, partial, progress)
            except (httpx2.TransportError, _Interrupted) as error:
                num_bytes = count_bytes(partial)
                if num_bytes > most_bytes:
                    most_bytes = num_bytes
                    backoffs_s = iter(BACKOFFS_S)
                backoff_s = next(backoffs_s, None)
                if backoff_s is None:
                    raise DownloadFailed(str(error) or type(error).__name__) from error
            time.sleep(backoff_s)


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
    """This attempt failed, and another one may not."""


@dataclass(frozen=True, slots=True)
class _Version:
    """What the server called the file of which a part is here."""

    url: str
    etag: str
    num_bytes: int


def _open_client(source: Source) -> httpx2.Client:
    try:
        url = httpx2.URL(source.url)
        # An encoding would be undone by nobody: what is verified and resumed are the file's bytes.
        client = httpx2.Client(headers={"Accept-Encoding": "identity"}, timeout=TIMEOUT_S)
    except (ImportError, ValueError, httpx2.InvalidURL) as error:
        raise DownloadFailed(
            f"the address, or the environment's proxy, is none: {error}"
        ) from error
    if url.scheme not in ("http", "https") or not url.host:
        raise DownloadFailed("the address does not begin with https://")
    return client


def _continue(client: httpx2.Client, source: Source, partial: Path, progress: Progress) -> None:
    num_bytes, version = count_bytes(partial), _read_version(partial, source)
    headers = {}
    if version is None or num_bytes > version.num_bytes:
        num_bytes = 0
    elif num_bytes == version.num_bytes:
        return
    elif num_bytes:
        headers = {"Range": f"bytes={num_bytes}-", "If-Range": version.etag}
    with _open_response(client, source, headers) as response:
        if response.status_code == HTTPStatus.PARTIAL_CONTENT and version is not None:
            _check_range(response, version, num_bytes, partial)
            total = version.num_bytes
        else:
            _check_whole(response, partial)
            num_bytes, total = 0, _read_length(response, source)
            _begin(partial, _Version(source.url, response.headers.get("ETag", ""), total))
        _check_free_disk(partial, num_bytes, total)
        with partial.open("ab") as file:
            progress(num_bytes, total)
            for chunk in response.iter_raw():
                file.write(chunk)
                num_bytes += len(chunk)
                progress(num_bytes, total)
            file.flush()
            os.fsync(file.fileno())
    if num_bytes != total:
        raise _Interrupted(f"the server sent {num_bytes} of {total} bytes")


@contextmanager
def _open_response(
    client: httpx2.Client, source: Source, headers: dict[str, str]
) -> Iterator[httpx2.Response]:
    request = client.build_request("GET", source.url, headers=headers)
    for _ in range(1 + MAX_REDIRECTS):
        with closing(client.send(request, stream=True)) as response:
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
        raise _Interrupted(_describe(response))
    if status != HTTPStatus.OK:
        raise DownloadFailed(_describe(response))
    if response.headers.get("Content-Type", "").startswith("text/html"):
        raise DownloadFailed("a web page came in its place: does this network ask for a login?")
    if "Content-Encoding" in response.headers:
        raise DownloadFailed("the server sends it compressed, though asked not to")


def _describe(response: httpx2.Response) -> str:
    return f"the server answered {response.status_code} {response.reason_phrase}".rstrip()


def _read_length(response: httpx2.Response, source: Source) -> int:
    try:
        num_bytes = int(response.headers["Content-Length"])
    except (KeyError, ValueError):
        raise DownloadFailed("the server does not say how long the file is") from None
    if source.num_bytes not in (None, num_bytes):
        raise DownloadFailed(
            f"the server's file has {num_bytes} bytes instead of {source.num_bytes}"
        )
    return num_bytes


def _check_free_disk(partial: Path, num_bytes: int, total: int) -> None:
    # Once more the whole, for what it is converted to.
    needed = total - num_bytes + total
    free = shutil.disk_usage(partial.parent).free
    if free < needed:
        raise DownloadFailed(f"it takes {needed} bytes on the disk, where {free} are free")


def _begin(partial: Path, version: _Version) -> None:
    discard(partial)
    content = {"url": version.url, "etag": version.etag, "num_bytes": version.num_bytes}
    _version_path(partial).write_text(json.dumps(content), encoding="utf-8")


def _read_version(partial: Path, source: Source) -> _Version | None:
    try:
        content = json.loads(_version_path(partial).read_text(encoding="utf-8"))
    except (OSError, ValueError):
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
