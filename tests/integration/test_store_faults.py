"""What the network, the disk and other processes can do to the model store."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from model_store import download
from model_store.catalogue import ModelCard
from model_store.errors import CheckpointRejected, CheckpointUnavailable
from model_store.locking import is_locked
from model_store.store import ModelStore
from tests.integration.mirror import (
    MODEL,
    Exchange,
    Mirror,
    describe,
    make_checkpoint,
    publish,
    read_array,
    running_mirror,
)

CONTENT = make_checkpoint()
OTHER = make_checkpoint(seed=1)
WEB_PAGE = b"<html><title>Welcome to the hotel</title>" + b" " * len(CONTENT)
SUM = f"sum {read_array(CONTENT).sum()!s}"
CUT = partial(Exchange.serve, share=0.3)
# A process with a store of one model: what to do with it, the folder, the mirror, the catalogue.
PROGRAM = """
import sys
from pathlib import Path
from model_store.catalogue import parse_catalogue
from model_store.errors import ModelStoreError
from model_store.store import ModelStore
verb, folder, url, catalogue = sys.argv[1:]
cards = parse_catalogue(catalogue, url)
store = ModelStore(Path(folder), cards)
try:
    result = getattr(store, verb)(cards["a_model"])
except ModelStoreError as error:
    sys.exit(f"{type(error).__name__}: {error}")
print("sum", result["a.weight"].sum() if verb == "load_arrays" else None)
"""
# Mounts of one's own, where the system allows them without being asked for a password.
UNSHARE = ["unshare", "--user", "--map-root-user", "--mount"]
needs_mounts = pytest.mark.skipif(
    not shutil.which("unshare")
    or subprocess.run([*UNSHARE, "true"], check=False, capture_output=True).returncode != 0,
    reason="mounting is not allowed here",
)


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    # A single byte is enough to be waited for.
    monkeypatch.setattr(download, "PIECE_BYTES", 1)
    monkeypatch.setattr(download, "TIMEOUT_S", 0.2)
    monkeypatch.setattr(download, "BACKOFFS_S", (0.01,) * 4)


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with running_mirror() as mirror:
        yield mirror


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def card(mirror: Mirror) -> ModelCard:
    return publish(mirror, CONTENT)


@pytest.fixture
def store(folder: Path, card: ModelCard) -> ModelStore:
    return ModelStore(folder, {MODEL: card})


def file_of(folder: Path, card: ModelCard) -> Path:
    assert card.url is not None
    return folder / MODEL / card.url.rpartition("/")[2]


def put(folder: Path, card: ModelCard) -> Path:
    """The checkpoint, laid into its folder by hand."""
    file = file_of(folder, card)
    file.parent.mkdir(parents=True)
    file.write_bytes(CONTENT)
    return file


def names(folder: Path) -> set[str]:
    return {path.name.removeprefix("model_final_") for path in (folder / MODEL).glob("*")}


def is_whole(store: ModelStore, card: ModelCard, content: bytes = CONTENT) -> bool:
    arrays = store.load_arrays(card)
    store.verify(card)
    return set(arrays) == {"a.weight"} and bool((arrays["a.weight"] == read_array(content)).all())


def edit(path: Path, *, keep_time: bool = False) -> None:
    """Change a byte in the middle."""
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    later_s = 0 if keep_time else 10
    os.utime(path, (status.st_atime, status.st_mtime + later_s))


# The network.


@pytest.mark.parametrize(
    ("script", "num_resumed"),
    [
        ([], 0),
        ([CUT], 1),
        ([CUT, CUT, CUT], 3),
        ([CUT, partial(Exchange.serve, share=0.6), partial(Exchange.serve, share=0.9)], 3),
        ([partial(Exchange.serve, share=0.3, stalls=True)], 1),
        ([partial(Exchange.serve, share=0, stalls=True)], 0),
        ([partial(Exchange.refuse, status=500), partial(Exchange.refuse, status=429)], 0),
        ([CUT, partial(Exchange.refuse, status=503), CUT, partial(Exchange.refuse, status=408)], 4),
        ([CUT, partial(Exchange.refuse, status=416)], 1),
        ([CUT, partial(Exchange.serve, obeys_ranges=False)], 1),
        ([partial(Exchange.serve, content=OTHER, share=0.3)], 1),
        ([partial(Exchange.serve, content=OTHER, share=0.9), CUT], 2),
        ([CUT, partial(Exchange.serve, content=OTHER, share=0.4, obeys_if_range=False)], 1),
        ([partial(Exchange.serve, share=0.3, headers={"ETag": 'W/"weak"'})], 0),
    ],
    ids=[
        "well",
        "cut",
        "cut at the same byte again",
        "cut again and again",
        "stalled",
        "silent",
        "busy",
        "cut and busy",
        "out of range",
        "ignores ranges",
        "changed between ranges",
        "changed and cut",
        "changes the file within ranges",
        "cut and without a name that tells bytes apart",
    ],
)
def test_a_fault_that_passes_ends_in_the_file(
    store: ModelStore, mirror: Mirror, card: ModelCard, folder: Path, script, num_resumed: int
):
    mirror.script.extend(script)
    store.pull(card)
    assert is_whole(store, card)
    assert sum("Range" in request for request in mirror.requests) == num_resumed
    assert len(names(folder)) == 3


def test_what_has_arrived_is_not_sent_again(store: ModelStore, mirror: Mirror, card: ModelCard):
    mirror.script.extend([CUT, partial(Exchange.serve, share=0.7)])
    store.pull(card)
    assert mirror.num_bytes_sent == len(CONTENT)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (partial(Exchange.serve, stalls=True, share=0), "timed out"),
        (partial(Exchange.serve, share=0.3, obeys_ranges=False), "peer closed connection"),
        (partial(Exchange.refuse, status=403), "answered 403 Forbidden"),
        (partial(Exchange.refuse, status=404), "answered 404 Not Found"),
        (partial(Exchange.refuse, status=500), "answered 500 Internal Server Error"),
        (
            partial(Exchange.serve, content=WEB_PAGE, headers={"Content-Type": "text/html"}),
            "ask for a login",
        ),
        (partial(Exchange.serve, headers={"Content-Encoding": "gzip"}), "compressed"),
        (partial(Exchange.redirect, address="/a_loop"), "more than 5 times"),
        (partial(Exchange.redirect, address="http://example.org/file"), "not https"),
        (partial(Exchange.redirect, address="https://example.org/file"), r"another host \(example"),
    ],
)
def test_a_fault_that_stays_is_an_error_that_says_what_to_do(
    store: ModelStore, mirror: Mirror, card: ModelCard, answer, reason: str
):
    mirror.script.extend([answer] * 20)
    with pytest.raises(CheckpointUnavailable, match=reason) as error:
        store.pull(card)
    assert str(error.value).startswith(f"{MODEL} could not be had from {mirror.url}/a_config")
    assert "put model_final_" in str(error.value)
    assert store.state(card).state == "absent"
    mirror.script.clear()
    store.pull(card)
    assert is_whole(store, card)


def test_a_server_that_is_not_there_is_an_error_that_says_what_to_do(folder: Path):
    with running_mirror() as mirror:
        card = publish(mirror, CONTENT)
    with pytest.raises(CheckpointUnavailable, match=r"refused.*put model_final"):
        ModelStore(folder, {MODEL: card}).pull(card)


def test_an_incomplete_file_waits_for_the_next_time(
    store: ModelStore, mirror: Mirror, card: ModelCard, folder: Path
):
    mirror.script.extend([CUT, *[partial(Exchange.refuse, status=500)] * 5])
    with pytest.raises(CheckpointUnavailable):
        store.pull(card)
    file = file_of(folder, card)
    assert file.with_name(f"{file.name}.part").stat().st_size == int(0.3 * len(CONTENT))
    store.pull(card)
    assert mirror.num_bytes_sent == len(CONTENT)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (OTHER, "MD5"),
        (CONTENT[:-1] + b"!", "MD5"),
        (WEB_PAGE, "asks for a login"),
        (b"", "is no checkpoint"),
    ],
    ids=["another file", "damaged", "web page", "empty"],
)
def test_a_wrong_file_is_refused_and_not_kept(
    store: ModelStore, mirror: Mirror, card: ModelCard, folder: Path, content: bytes, reason: str
):
    mirror.script.append(partial(Exchange.serve, content=content))
    with pytest.raises(CheckpointRejected, match=reason):
        store.pull(card)
    assert names(folder) == set()
    store.pull(card)
    assert is_whole(store, card)


def test_a_file_of_another_size_is_refused_before_it_is_fetched(folder: Path, mirror: Mirror):
    card = publish(mirror, CONTENT, digests="sha256")
    mirror.script.append(partial(Exchange.serve, content=CONTENT + b"!"))
    with pytest.raises(CheckpointUnavailable, match=f"bytes instead of {len(CONTENT)}"):
        ModelStore(folder, {MODEL: card}).pull(card)
    assert names(folder) == set()


def test_another_host_is_trusted_only_where_the_sha256_is_known(folder: Path, mirror: Mirror):
    for digests, error in (("md5", CheckpointUnavailable), ("sha256", None)):
        card = publish(mirror, CONTENT, digests=digests)
        other_host = card.url.replace("127.0.0.1", "localhost")
        mirror.script.append(partial(Exchange.redirect, address=other_host))
        store = ModelStore(folder / digests, {MODEL: card})
        if error:
            with pytest.raises(error, match=r"another host \(localhost\)"):
                store.pull(card)
        else:
            store.pull(card)
            assert is_whole(store, card)


def test_the_same_host_may_redirect(store: ModelStore, mirror: Mirror, card: ModelCard):
    mirror.files["/elsewhere"] = CONTENT
    redirect = partial(Exchange.redirect, address="/elsewhere")
    mirror.script.extend([redirect, CUT, redirect])
    store.pull(card)
    assert is_whole(store, card)
    assert mirror.num_bytes_sent == len(CONTENT)


def test_the_first_download_s_digest_is_compared_with_every_later_one(folder: Path, mirror: Mirror):
    card = publish(mirror, CONTENT, digests="none")
    store = ModelStore(folder, {MODEL: card})
    store.pull(card)
    store.remove(MODEL)
    assert store.state(card).state == "absent"
    mirror.files = dict.fromkeys(mirror.files, OTHER)
    with pytest.raises(CheckpointRejected, match=r"first seen.*delete a_checkpoint\.pkl\.json"):
        store.pull(card)
    file_of(folder, card).with_name("a_checkpoint.pkl.json").unlink()
    store.pull(card)
    assert is_whole(store, card, OTHER)


def test_a_web_page_is_no_checkpoint_even_where_no_digest_is_known(folder: Path, mirror: Mirror):
    card = publish(mirror, WEB_PAGE, digests="none")
    with pytest.raises(CheckpointRejected, match="asks for a login"):
        ModelStore(folder, {MODEL: card}).pull(card)
    assert names(folder) == set()


def test_offline_the_network_is_not_touched(folder: Path, mirror: Mirror, card: ModelCard):
    store = ModelStore(folder, {MODEL: card}, is_offline=True)
    with pytest.raises(CheckpointUnavailable, match=r"DENSEPOSE_OFFLINE.*put model_final_"):
        store.pull(card)
    put(folder, card)
    store.pull(card)
    assert is_whole(store, card)
    assert mirror.requests == []


def test_progress_is_reported_and_can_end_the_download(
    store: ModelStore, mirror: Mirror, card: ModelCard
):
    class Enough(Exception):
        pass

    def give_up(num_bytes: int, total: int | None) -> None:
        if num_bytes > len(CONTENT) / 2:
            raise Enough

    with pytest.raises(Enough):
        store.pull(card, give_up)
    assert store.state(card).state == "absent"
    reports: list[tuple[int, int | None]] = []
    store.pull(card, lambda *report: reports.append(report))
    assert len(CONTENT) / 2 < reports[0][0] < reports[-1][0]
    assert reports[-1] == (len(CONTENT), len(CONTENT))


def test_the_environment_s_proxy_is_asked(
    folder: Path, mirror: Mirror, card: ModelCard, monkeypatch: pytest.MonkeyPatch
):
    far = replace(card, url="http://zoo.invalid/model_final.pkl")
    mirror.files[far.url] = CONTENT
    monkeypatch.setenv("HTTP_PROXY", mirror.url)
    store = ModelStore(folder, {MODEL: far})
    store.pull(far)
    assert is_whole(store, far)


# A server that means harm, or does not care.


def send(*pieces: bytes, repeated: bytes = b"", pause_s: float = 0.0) -> Callable[[Exchange], None]:
    """Send these bytes, and then one piece again and again, as long as there is who takes it."""

    def answer(exchange: Exchange) -> None:
        exchange.close_connection = True
        with suppress(OSError):
            exchange.wfile.write(b"".join(pieces))
            while repeated and not exchange.mirror.is_closing.wait(pause_s):
                exchange.wfile.write(repeated)
                exchange.mirror.num_bytes_sent += len(repeated)

    return answer


OK = b"HTTP/1.1 200 OK\r\n"
LENGTH = b"Content-Length: 1000\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CHUNK = b"1000\r\n" + b"\x80" * 0x1000 + b"\r\n"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (send(OK, LENGTH, CHUNKED, b"\r\n", repeated=CHUNK), "more than the 1000 bytes"),
        (send(OK, CHUNKED, b"\r\n", repeated=CHUNK), "does not say how long"),
        (send(OK, b"\r\n", repeated=CHUNK), "does not say how long"),
        (send(OK, b"Content-Length: -5\r\n\r\n", repeated=CHUNK), "bad Content-Length"),
        (send(OK, LENGTH, b"Content-Length: 2000\r\n\r\n", repeated=CHUNK), "conflicting"),
        (send(OK, b"Content-Length: 4294967297\r\n\r\n"), "more than 4294967296"),
        (send(OK, repeated=b"X-Header: endless\r\n"), "Receive buffer too long"),
        (send(b"HTTP/1.1 200 ", repeated=b"OK" * 100), "Receive buffer too long"),
        (send(repeated=b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"), "timed out"),
    ],
    ids=[
        "a length and endless chunks",
        "endless chunks",
        "endless",
        "negative",
        "two lengths",
        "huge",
        "endless headers",
        "endless reason",
        "endless hints",
    ],
)
def test_a_server_is_taken_no_more_from_than_it_announced(
    store: ModelStore, folder: Path, mirror: Mirror, card: ModelCard, answer, reason: str
):
    mirror.script.extend([answer] * 5)
    reports = []
    with pytest.raises(CheckpointUnavailable, match=reason):
        store.pull(card, lambda num_bytes, total: reports.append(num_bytes))
    assert max(reports, default=0) <= 1000
    assert sum(path.stat().st_size for path in (folder / MODEL).glob("*.part")) <= 1000
    mirror.script.clear()
    store.pull(card)
    assert is_whole(store, card)


def test_what_follows_an_answer_is_not_read(store: ModelStore, mirror: Mirror, card: ModelCard):
    mirror.script.append(send(OK, LENGTH, b"\r\n", repeated=b"\x80" * 1000))
    with pytest.raises(CheckpointRejected, match="MD5"):
        store.pull(card)
    assert len(mirror.requests) == 1


@pytest.mark.parametrize(
    "answer",
    [
        send(OK, LENGTH, b"\r\n", repeated=b"\x80", pause_s=0.01),
        send(OK, repeated=b"X: a\r\n", pause_s=0.01),
        send(repeated=b"HTTP/1.1 100 Continue\r\n\r\n", pause_s=0.01),
        send(OK, LENGTH, CHUNKED, b"\r\n1;", repeated=b"x", pause_s=0.01),
    ],
    ids=["body", "head", "hints", "a chunk's extension"],
)
def test_a_server_that_only_drips_is_given_up(
    store: ModelStore,
    mirror: Mirror,
    card: ModelCard,
    answer,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(download, "PIECE_BYTES", 10_000)
    mirror.script.extend([answer] * 100)
    with pytest.raises(CheckpointUnavailable, match="timed out: fewer than 10000 bytes came in"):
        store.pull(card)
    assert len(mirror.requests) == 1 + len(download.BACKOFFS_S)
    assert mirror.num_bytes_sent < 10_000


def test_a_server_that_cuts_every_answer_short_is_given_up(
    store: ModelStore, mirror: Mirror, card: ModelCard, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(download, "PIECE_BYTES", 10_000)
    mirror.script.extend(partial(Exchange.serve, share=0.0001 * n) for n in range(1, 1000))
    with pytest.raises(CheckpointUnavailable):
        store.pull(card)
    # A piece more than before is worth another go; 400 bytes are not.
    assert len(mirror.requests) < 10


def test_a_part_that_was_not_asked_for_is_not_taken(
    store: ModelStore, folder: Path, mirror: Mirror, card: ModelCard
):
    mirror.script.append(CUT)
    mirror.script.extend([partial(Exchange.refuse, status=500)] * 5)
    with pytest.raises(CheckpointUnavailable):
        store.pull(card)
    part = file_of(folder, card).with_name(f"{file_of(folder, card).name}.part")
    part.write_bytes(b"\x80" * (len(CONTENT) + 1))
    head = b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 0-%d/%d\r\n\r\n"
    mirror.script.clear()
    mirror.script.append(send(head % (len(CONTENT) - 1, len(CONTENT)), repeated=CHUNK))
    with pytest.raises(CheckpointUnavailable, match="answered 206"):
        store.pull(card)
    assert part.stat().st_size == len(CONTENT) + 1
    store.pull(card)
    assert is_whole(store, card)


def test_chunks_are_taken_where_the_catalogue_knows_the_size(folder: Path, mirror: Mirror):
    card = publish(mirror, CONTENT, digests="sha256")
    chunk = b"%x\r\n%b\r\n0\r\n\r\n" % (len(CONTENT), CONTENT)
    mirror.script.append(send(OK, CHUNKED, b"\r\n", chunk))
    store = ModelStore(folder, {MODEL: card})
    store.pull(card)
    assert is_whole(store, card)
    assert len(mirror.requests) == 1


@pytest.mark.parametrize(
    ("status", "retry_after", "wait_s"),
    [
        (503, "7", 7),
        (429, "7", 7),
        (503, "3600", 60),
        (429, "Fri, 31 Dec 9999 23:59:59 GMT", 60),
        (503, "Fri, 31 Dec 1999 23:59:59 GMT", 0.01),
        (503, "soon", 0.01),
    ],
)
def test_a_busy_server_is_given_the_time_that_it_asks_for(
    store: ModelStore,
    mirror: Mirror,
    card: ModelCard,
    status: int,
    retry_after: str,
    wait_s: float,
    monkeypatch: pytest.MonkeyPatch,
):
    waits = []

    async def wait(seconds: float, report: Callable[[], None]) -> None:
        waits.append(seconds)

    monkeypatch.setattr(download, "_wait", wait)
    busy = f"HTTP/1.1 {status} Busy\r\nRetry-After: {retry_after}\r\nContent-Length: 0\r\n\r\n"
    mirror.script.append(send(busy.encode()))
    store.pull(card)
    assert is_whole(store, card)
    assert waits == [wait_s]


def test_who_no_longer_wants_the_file_does_not_wait_for_a_busy_server(
    store: ModelStore, mirror: Mirror, card: ModelCard
):
    class Enough(Exception):
        pass

    def give_up(num_bytes: int, total: int | None) -> None:
        raise Enough

    mirror.script.append(send(b"HTTP/1.1 503 Busy\r\nRetry-After: 60\r\nContent-Length: 0\r\n\r\n"))
    with pytest.raises(Enough):
        store.pull(card, give_up)
    assert len(mirror.requests) == 1


@pytest.mark.parametrize(
    "answer",
    [
        send(b"HTTP/1.1 404 \x1b[31mEVIL\x1b[0m\r\nContent-Length: 0\r\n\r\n"),
        partial(Exchange.redirect, address="http://\x1b[31mevil/"),
        partial(Exchange.redirect, address="https://ev\x9b31m.example/"),
    ],
)
def test_a_server_s_words_do_nothing_to_a_terminal(
    store: ModelStore, mirror: Mirror, card: ModelCard, answer
):
    mirror.script.extend([answer] * 5)
    with pytest.raises(CheckpointUnavailable) as error:
        store.pull(card)
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    "address", ["file:///etc/passwd", "http://127.0.0.1@169.254.169.254/x", "ftp://127.0.0.1/x"]
)
def test_a_redirect_to_what_is_no_mirror_is_refused(
    store: ModelStore, mirror: Mirror, card: ModelCard, address: str
):
    mirror.script.append(partial(Exchange.redirect, address=address))
    with pytest.raises(CheckpointUnavailable, match=r"not https|Unsupported"):
        store.pull(card)


# Who else may write in the folder.

PARTS = (".part", ".part.json", ".json.part", ".safetensors.part", ".json")


@pytest.mark.parametrize("plant", [Path.symlink_to, Path.hardlink_to])
@pytest.mark.parametrize("suffix", PARTS)
def test_nothing_is_written_through_a_link_that_was_planted(
    store: ModelStore, folder: Path, card: ModelCard, tmp_path: Path, suffix: str, plant
):
    victim = tmp_path / "victim"
    victim.write_bytes(b"\x80" * 100)
    file = file_of(folder, card)
    file.parent.mkdir(parents=True)
    if suffix == ".part":
        etag = f'"{hashlib.md5(CONTENT).hexdigest()}"'
        version = {"url": card.url, "etag": etag, "num_bytes": len(CONTENT)}
        file.with_name(f"{file.name}.part.json").write_text(json.dumps(version))
    plant(file.with_name(f"{file.name}{suffix}"), victim)
    store.pull(card)
    assert is_whole(store, card)
    assert victim.read_bytes() == b"\x80" * 100
    assert not any(path.is_symlink() for path in file.parent.iterdir())


@pytest.mark.parametrize("name", [MODEL, ".locks"])
@pytest.mark.parametrize("act", [ModelStore.pull, ModelStore.verify, "remove"])
def test_nothing_is_written_or_deleted_in_a_folder_that_is_a_link(
    store: ModelStore, folder: Path, card: ModelCard, tmp_path: Path, name: str, act
):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    file = file_of(folder, card)
    if name == MODEL:
        (elsewhere / file.name).write_bytes(CONTENT)
        folder.mkdir()
    else:
        put(folder, card)
    (folder / name).symlink_to(elsewhere)
    before = list(elsewhere.iterdir())
    with pytest.raises(CheckpointUnavailable, match=rf"{name} is a symbolic link, and nothing is"):
        store.remove(MODEL) if act == "remove" else act(store, card)
    assert list(elsewhere.iterdir()) == before


def test_the_store_s_own_folder_may_be_a_link(tmp_path: Path, card: ModelCard):
    (tmp_path / "large disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "large disk")
    store = ModelStore(tmp_path / "link", {MODEL: card})
    store.pull(card)
    assert is_whole(store, card)


def test_a_checkpoint_may_be_a_link(store: ModelStore, folder: Path, card: ModelCard):
    file = put(folder, card)
    file.rename(folder / "kept elsewhere")
    file.symlink_to(folder / "kept elsewhere")
    assert is_whole(store, card)


@pytest.mark.parametrize("suffix", ["", *PARTS])
def test_a_pipe_that_was_planted_keeps_nobody_waiting(
    store: ModelStore, folder: Path, card: ModelCard, suffix: str
):
    file = file_of(folder, card)
    file.parent.mkdir(parents=True)
    os.mkfifo(file.with_name(f"{file.name}{suffix}"))
    store.pull(card)
    assert is_whole(store, card)


# The disk.


def test_a_download_that_would_fill_the_disk_is_not_begun(
    store: ModelStore, card: ModelCard, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    usage = namedtuple("usage", "total used free")(10**12, 10**12 - 10**6, 10**6)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(CheckpointUnavailable, match=f"takes {2 * len(CONTENT)} bytes.*1000000"):
        store.pull(card)
    assert sum(path.stat().st_size for path in (folder / MODEL).iterdir()) < 1000


def run_mounted(mount: str, verb: str, folder: Path, mirror: Mirror) -> tuple[int, str]:
    """Mount something for this process alone, and run the program; its status, and what it says."""
    folder.mkdir(exist_ok=True)
    script = f'set -e; F="{folder}"; {mount}; "$@"'
    program = [sys.executable, "-c", PROGRAM, verb, folder, mirror.url, describe(CONTENT)]
    result = subprocess.run(
        [*UNSHARE, "sh", "-c", script, "sh", *program], check=False, capture_output=True, text=True
    )
    return result.returncode, result.stdout + result.stderr


@needs_mounts
def test_a_disk_that_fills_up_is_an_error_and_what_arrived_stays(
    folder: Path, mirror: Mirror, card: ModelCard
):
    mount = "mount -t tmpfs -o size=3m tmpfs $F"
    status, output = run_mounted(mount, "pull", folder, mirror)
    assert status == 1
    assert "bytes on the disk" in output
    # Another process fills it meanwhile: there seemed to be enough.
    lie = (
        "import shutil; shutil.disk_usage = lambda path: shutil._ntuple_diskusage(9**20, 0, 9**20)"
    )
    (folder.parent / "sitecustomize.py").write_text(lie)
    mount += f"; export PYTHONPATH={folder.parent}; trap 'du -b $F/*/*.part' EXIT"
    status, output = run_mounted(mount, "pull", folder, mirror)
    assert status == 1
    assert "the model store cannot be written: No space left on device" in output
    num_bytes = int(output.partition("\t")[0])
    assert 2e6 < num_bytes < len(CONTENT)


@needs_mounts
def test_a_file_that_cannot_be_converted_for_want_of_space_is_read_as_it_is(
    folder: Path, mirror: Mirror, card: ModelCard
):
    source = folder.parent / "source"
    source.write_bytes(CONTENT)
    file = file_of(folder, card)
    mount = f"mount -t tmpfs -o size=5m tmpfs $F; mkdir $F/{MODEL}; cp {source} {file}"
    status, output = run_mounted(mount, "load_arrays", folder, mirror)
    assert status == 0
    assert "cannot be converted, and is read as it is: No space left" in output
    assert SUM in output


@needs_mounts
@pytest.mark.parametrize("is_converted", [True, False])
def test_a_folder_that_cannot_be_written_serves_what_is_in_it(
    folder: Path, store: ModelStore, mirror: Mirror, card: ModelCard, is_converted: bool
):
    mount = "mount --bind $F $F; mount -o remount,ro,bind $F"
    status, output = run_mounted(mount, "pull", folder, mirror)
    assert status == 1
    assert "the model store cannot be written: Read-only file system" in output
    put(folder, card)
    if is_converted:
        store.load_arrays(card)
        status, output = run_mounted(mount, "verify", folder, mirror)
        assert status == 0
    status, output = run_mounted(mount, "load_arrays", folder, mirror)
    assert status == 0
    assert ("read as it is" in output) != is_converted
    assert SUM in output
    edit(file_of(folder, card))
    status, output = run_mounted(mount, "load_arrays", folder, mirror)
    assert status == 1
    assert "CheckpointRejected" in output


# Other processes.


def start(verb: str, folder: Path, mirror: Mirror) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, verb, str(folder), mirror.url, describe(CONTENT)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_until(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def converter_of(process: subprocess.Popen[str]) -> int | None:
    """The process that converts for this one, once it runs its own program."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for child in children:
        if "model_store.convert" in Path(f"/proc/{child}/cmdline").read_text():
            return int(child)
    return None


def test_a_download_goes_on_where_a_killed_process_left_it(
    store: ModelStore, folder: Path, mirror: Mirror, card: ModelCard
):
    mirror.delay_s = 0.01
    file = file_of(folder, card)
    partial_file = file.with_name(f"{file.name}.part")
    process = start("pull", folder, mirror)
    wait_until(lambda: download.count_bytes(partial_file) > 5e5)
    assert store.state(card).state == "downloading"
    assert 5e5 < store.state(card).num_bytes < len(CONTENT)
    process.kill()
    process.communicate()
    assert store.state(card).state == "absent"
    num_bytes = partial_file.stat().st_size
    mirror.delay_s = 0
    store.pull(card)
    assert is_whole(store, card)
    assert mirror.requests[-1]["Range"] == f"bytes={num_bytes}-"


def test_processes_that_pull_at_once_fetch_once(
    store: ModelStore, folder: Path, mirror: Mirror, card: ModelCard
):
    mirror.delay_s = 0.01
    processes = [start("pull", folder, mirror) for _ in range(3)]
    outputs = [process.communicate()[0] for process in processes]
    assert outputs == ["sum None\n"] * 3
    assert len(mirror.requests) == 1
    assert mirror.num_bytes_sent == len(CONTENT)
    assert is_whole(store, card)


def test_who_waits_for_another_process_sees_its_progress(
    store: ModelStore, folder: Path, mirror: Mirror, card: ModelCard
):
    mirror.delay_s = 0.01
    process = start("pull", folder, mirror)
    wait_until(lambda: store.state(card).state == "downloading")
    reports: list[tuple[int, int | None]] = []
    store.pull(card, lambda *report: reports.append(report))
    assert {total for _, total in reports} == {None}
    assert reports == sorted(reports)
    assert len(mirror.requests) == 1
    assert process.communicate()[0] == "sum None\n"


def test_a_process_killed_in_a_conversion_leaves_nothing_half(
    store: ModelStore, folder: Path, mirror: Mirror, card: ModelCard
):
    put(folder, card)
    first = start("load_arrays", folder, mirror)
    wait_until(lambda: converter_of(first))
    converting = converter_of(first)
    assert converting is not None
    os.kill(converting, signal.SIGSTOP)
    first.kill()
    first.communicate()
    # Who converts may still write, so nobody else may.
    assert is_locked(folder / ".locks" / MODEL)
    second = start("load_arrays", folder, mirror)
    time.sleep(1)
    assert second.poll() is None
    os.kill(converting, signal.SIGKILL)
    assert second.communicate()[0] == f"{SUM}\n"
    assert is_whole(store, card)
    assert len(names(folder)) == 3


def test_a_conversion_that_is_killed_is_an_error_and_is_done_the_next_time(
    store: ModelStore, folder: Path, mirror: Mirror, card: ModelCard
):
    put(folder, card)
    process = start("load_arrays", folder, mirror)
    wait_until(lambda: converter_of(process))
    converting = converter_of(process)
    assert converting is not None
    os.kill(converting, signal.SIGKILL)
    output, _ = process.communicate()
    assert output.startswith("CheckpointUnavailable: the conversion of model_final_")
    assert "ended by SIGKILL" in output
    assert is_whole(store, card)


# What lies in the folder.


def test_a_store_of_an_older_version_works(store: ModelStore, folder: Path, card: ModelCard):
    put(folder, card)
    assert store.state(card).state == "stored"
    assert is_whole(store, card)


def test_a_second_load_reads_no_pickle(store: ModelStore, folder: Path, card: ModelCard):
    store.pull(card)
    status = file_of(folder, card).stat()
    file_of(folder, card).write_bytes(b"\x80" * len(CONTENT))
    os.utime(file_of(folder, card), (status.st_atime, status.st_mtime))
    assert (store.load_arrays(card)["a.weight"] == read_array(CONTENT)).all()


def test_a_checkpoint_edited_by_hand_is_refused_until_it_is_pulled_again(
    store: ModelStore, folder: Path, mirror: Mirror, card: ModelCard
):
    store.pull(card)
    edit(file_of(folder, card))
    with pytest.raises(CheckpointRejected, match="MD5"):
        store.load_arrays(card)
    with pytest.raises(CheckpointRejected, match="MD5"):
        store.verify(card)
    store.pull(card)
    assert is_whole(store, card)
    assert len(mirror.requests) == 2


def test_an_edited_checkpoint_stays_when_no_better_one_can_be_had(
    store: ModelStore, folder: Path, mirror: Mirror, card: ModelCard
):
    store.pull(card)
    edit(file_of(folder, card))
    mirror.script.append(partial(Exchange.refuse, status=404))
    with pytest.raises(CheckpointUnavailable, match="404"):
        store.pull(card)
    assert file_of(folder, card).stat().st_size == len(CONTENT)


@pytest.mark.parametrize("digests", ["sha256", "none"])
def test_damage_that_leaves_size_and_time_alone_is_found_by_verify(
    folder: Path, mirror: Mirror, digests: str
):
    card = publish(mirror, CONTENT, digests=digests)
    store = ModelStore(folder, {MODEL: card})
    store.pull(card)
    edit(file_of(folder, card), keep_time=True)
    with pytest.raises(CheckpointRejected, match="SHA-256"):
        store.verify(card)
    store.pull(card)
    assert is_whole(store, card)


@pytest.mark.parametrize("notices", [ModelStore.load_arrays, ModelStore.verify])
@pytest.mark.parametrize(
    "damage",
    [
        edit,
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(b""),
        lambda path: path.unlink(),
    ],
    ids=["edited", "cut", "empty", "gone"],
)
def test_a_damaged_converted_file_is_made_anew(
    store: ModelStore, folder: Path, card: ModelCard, damage, notices
):
    store.pull(card)
    file = file_of(folder, card)
    converted = file.with_name(f"{file.name}.safetensors")
    good = converted.read_bytes()
    damage(converted)
    notices(store, card)
    assert converted.read_bytes() == good
    assert is_whole(store, card)


def test_damage_of_a_converted_file_that_leaves_size_and_time_alone_is_found_by_verify(
    store: ModelStore, folder: Path, card: ModelCard
):
    store.pull(card)
    file = file_of(folder, card)
    converted = file.with_name(f"{file.name}.safetensors")
    good = converted.read_bytes()
    edit(converted, keep_time=True)
    store.verify(card)
    assert converted.read_bytes() == good


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"checkpoint": {}, "converted": {}}'])
def test_a_damaged_record_is_written_anew(
    store: ModelStore, folder: Path, card: ModelCard, content: str
):
    store.pull(card)
    file = file_of(folder, card)
    record = file.with_name(f"{file.name}.json")
    good = record.read_text()
    record.write_text(content)
    assert np.isfinite(store.load_arrays(card)["a.weight"]).all()
    assert is_whole(store, card)
    assert record.read_text().splitlines()[:4] == good.splitlines()[:4]
