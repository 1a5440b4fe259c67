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
