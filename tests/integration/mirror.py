"""A mirror of the model zoo on loopback, which misbehaves as it is told."""

import hashlib
import pickle
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

from model_store.catalogue import ModelCard, parse_catalogue

MODEL = "a_model"
CHUNK_BYTES = 2**16


class Exchange(BaseHTTPRequestHandler):
    """One request, and what can be done with it."""

    protocol_version = "HTTP/1.1"
    mirror: "Mirror"

    def do_GET(self) -> None:
        mirror = self.mirror
        mirror.requests.append(dict(self.headers))
        answer = mirror.script.popleft() if mirror.script else Exchange.serve
        answer(self)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        pass

    def serve(
        self,
        *,
        content: bytes | None = None,
        share: float = 1.0,
        obeys_ranges: bool = True,
        obeys_if_range: bool = True,
        stalls: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Send the file, or its `share`, and then cut the connection or stall."""
        content = self.mirror.files.get(self.path) if content is None else content
        if content is None:
            return self.refuse(404)
        etag = f'"{hashlib.md5(content).hexdigest()}"'
        is_same = self.headers.get("If-Range") == etag or not obeys_if_range
        first = 0
        if obeys_ranges and is_same and (wanted := self.headers.get("Range")):
            first = int(wanted.removeprefix("bytes=").removesuffix("-"))
        self.send_response(206 if first else 200)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        fields = {
            "Content-Length": str(len(content) - first),
            "Content-Type": "application/octet-stream",
            "ETag": etag,
        }
        for name, value in (fields | dict(headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        self.send_slowly(content[first : int(share * len(content))])
        if stalls:
            self.mirror.is_closing.wait()
        if share < 1:
            self.close_connection = True
        return None

    def send_slowly(self, content: bytes) -> None:
        for start in range(0, len(content), CHUNK_BYTES):
            chunk = content[start : start + CHUNK_BYTES]
            if self.mirror.is_closing.wait(self.mirror.delay_s):
                return
            self.wfile.write(chunk)
            self.mirror.num_bytes_sent += len(chunk)

    def refuse(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def redirect(self, address: str) -> None:
        self.send_response(302)
        self.send_header("Location", address)
        self.send_header("Content-Length", "0")
        self.end_headers()


@dataclass
class Mirror:
    """Files by path; `script` has an answer for each of the next requests, then all is well."""

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    script: deque[Callable[[Exchange], None]] = field(default_factory=deque)
    requests: list[dict[str, str]] = field(default_factory=list)
    num_bytes_sent: int = 0
    delay_s: float = 0.0
    is_closing: threading.Event = field(default_factory=threading.Event)


@contextmanager
def running_mirror() -> Iterator[Mirror]:
    """A mirror without files."""

    class Handler(Exchange):
        pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # a client that left
    Handler.mirror = mirror = Mirror(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield mirror
    finally:
        mirror.is_closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


def make_checkpoint(num_elements: int = 1_000_000, seed: int = 0) -> bytes:
    """A checkpoint of one array."""
    array = np.random.default_rng(seed).standard_normal(num_elements).astype(np.float32)
    return pickle.dumps({"model": {"a.weight": array}}, 4)


def read_array(content: bytes) -> np.ndarray:
    return pickle.loads(content)["model"]["a.weight"]


def describe(content: bytes, *, digests: str = "md5") -> str:
    """A catalogue of one row; `digests` is what it knows: `md5`, `sha256` (and all) or `none`."""
    md5 = hashlib.md5(content).hexdigest()[:6]
    folder = "" if digests == "none" else "a_configuration/123456/"
    file = "a_checkpoint.pkl" if digests == "none" else f"model_final_{md5}.pkl"
    lines = ["[[model]]", f'id = "{MODEL}"', 'group = "test"', f'path = "{folder}{file}"']
    if digests == "sha256":
        lines += [f'sha256 = "{hashlib.sha256(content).hexdigest()}"']
        lines += [f"num_bytes = {len(content)}"]
    return "\n".join(lines)


def publish(mirror: Mirror, content: bytes, *, digests: str = "md5") -> ModelCard:
    """Put a checkpoint on the mirror; its row."""
    card = parse_catalogue(describe(content, digests=digests), mirror.url)[MODEL]
    assert card.url is not None
    mirror.files[card.url.removeprefix(mirror.url)] = content
    return card
