import importlib.util
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import httpx2
import pytest

from model_store import download as module
from model_store.download import DownloadFailed, Source, download


def fail(*_: object) -> None:
    pytest.fail("nothing has arrived")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "zoo",
        "ftp://zoo.example/file",
        "file:///etc/passwd",
        "https:///file",
        "https://zoo.example:port/",
    ],
)
def test_an_address_that_is_none_is_refused(tmp_path: Path, url: str):
    with pytest.raises(DownloadFailed, match="the address"):
        download(Source(url), tmp_path / "file.part", fail)


def test_a_proxy_that_is_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HTTPS_PROXY", "nonsense://proxy.example")
    with pytest.raises(DownloadFailed, match="proxy"):
        download(Source("https://zoo.example/file"), tmp_path / "file.part", fail)


@pytest.mark.parametrize(
    ("origin", "target", "has_sha256", "is_allowed"),
    [
        ("https://zoo.example/a", "https://zoo.example/b", False, True),
        ("https://zoo.example/a", "https://zoo.example:444/b", False, True),
        ("https://zoo.example/a", "https://other.example/b", False, False),
        ("https://zoo.example/a", "https://other.example/b", True, True),
        ("https://zoo.example/a", "http://zoo.example/b", True, False),
        ("https://zoo.example/a", "http://127.0.0.1/b", True, False),
        ("https://127.0.0.1/a", "http://127.0.0.1/b", True, False),
        ("http://zoo.example/a", "http://zoo.example/b", True, False),
        ("http://zoo.example/a", "https://zoo.example/b", False, True),
        ("http://127.0.0.1/a", "http://127.0.0.1:81/b", False, True),
        ("http://[::1]/a", "http://localhost/b", True, True),
        ("http://[::1]/a", "http://localhost/b", False, False),
        ("http://localhost/a", "http://localhost.example/b", True, False),
        ("http://127.0.0.1/a", "ftp://127.0.0.1/b", True, False),
    ],
)
def test_a_redirect_is_followed_only_where_it_can_be_trusted(
    origin: str, target: str, has_sha256: bool, is_allowed: bool
):
    source = Source(origin, has_sha256=has_sha256)
    urls = httpx2.URL(origin), httpx2.URL(target)
    if is_allowed:
        module._check_redirect(*urls, source)
    else:
        with pytest.raises(DownloadFailed, match="redirects to"):
            module._check_redirect(*urls, source)


@pytest.mark.skipif(importlib.util.find_spec("socksio") is not None, reason="SOCKS works here")
def test_a_socks_proxy_s_error_says_what_to_install_or_to_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1080")
    with pytest.raises(DownloadFailed, match=r"SOCKS proxy.*socksio.*or name an http://") as error:
        download(Source("https://zoo.example/file"), tmp_path / "file.part", fail)
    assert "httpx" not in str(error.value)


@pytest.mark.parametrize("content", [None, b"no certificate"])
def test_certificates_that_cannot_be_read_are_no_error_of_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
):
    path = tmp_path / "certificates.pem"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    with pytest.raises(DownloadFailed, match="the certificates that SSL_CERT_FILE or"):
        download(Source("https://zoo.example/file"), tmp_path / "file.part", fail)


def in_a_while(seconds: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize(
    ("text", "least_s", "most_s"),
    [
        (None, 0, 0),
        ("", 0, 0),
        ("nonsense", 0, 0),
        ("-5", 0, 0),
        ("1e3", 0, 0),
        ("0", 0, 0),
        ("7", 7, 7),
        ("9" * 5000, 60, float("inf")),
        ("Wed, 32 Nov 2026 00:00:00 GMT", 0, 0),
    ],
)
def test_a_server_asks_for_time_in_seconds_or_by_a_date(
    text: str | None, least_s: float, most_s: float
):
    headers = {} if text is None else {"Retry-After": text}
    assert least_s <= module._read_retry_after(httpx2.Response(503, headers=headers)) <= most_s


@pytest.mark.parametrize(("seconds", "least_s", "most_s"), [(40, 1, 41), (-40, -3600, 0)])
def test_a_date_is_as_far_away_as_it_is_now(seconds: float, least_s: float, most_s: float):
    headers = {"Retry-After": in_a_while(seconds)}
    assert least_s <= module._read_retry_after(httpx2.Response(503, headers=headers)) <= most_s


@pytest.mark.parametrize(
    ("length", "known", "total"),
    [("5", None, 5), (None, 5, 5), ("5", 5, 5), ("0", None, 0), (str(2**32), None, 2**32)],
)
def test_a_file_s_length_is_announced_or_known(length: str | None, known: int | None, total: int):
    headers = {} if length is None else {"Content-Length": length}
    source = Source("https://zoo.example/file", num_bytes=known)
    assert module._read_length(httpx2.Response(200, headers=headers), source) == total


@pytest.mark.parametrize(
    ("length", "known", "reason"),
    [
        (None, None, "does not say how long"),
        ("6", 5, "6 bytes instead of 5"),
        (str(2**32 + 1), None, f"{2**32 + 1} bytes, more than {2**32}"),
        ("9" * 20, None, "more than"),
    ],
)
def test_a_file_without_a_length_that_can_be_believed_is_refused(
    length: str | None, known: int | None, reason: str
):
    headers = {} if length is None else {"Content-Length": length}
    source = Source("https://zoo.example/file", num_bytes=known)
    with pytest.raises(DownloadFailed, match=reason):
        module._read_length(httpx2.Response(200, headers=headers), source)
