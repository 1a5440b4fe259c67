"""The client against a real server, and against one that does what no good server does."""

import asyncio
import doctest
import hashlib
import http.server
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from load_tests.server import Server, running_server
from service.client import (
    AsyncDensePose,
    DensePose,
    InvalidParameter,
    OutOfTime,
    Overloaded,
    ServerUnreachable,
    Unauthorized,
    UndecodableImage,
    UnknownModel,
    UnreadableAnswer,
    UnsupportedOutput,
)
from service.output.archives import write_npz

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "tests" / "parity" / "data" / "demo" / "test4_3fig.png"
ADMIN_KEY = "s3cret"
ADDRESS = "http://127.0.0.1:8000"
# What the client needs, and what that needs.
NEEDED = ("numpy", "httpx2", "httpcore2", "h11", "anyio", "idna", "truststore", "typing_extensions")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("server") / "server.log"
    digest = hashlib.sha256(ADMIN_KEY.encode()).hexdigest()
    with running_server({"DEFAULT_MODEL": "demo", "ADMIN_KEY": digest}, log) as server:
        yield server


@pytest.fixture(scope="module")
def densepose(server: Server) -> Iterator[DensePose]:
    with DensePose(server.url) as densepose:
        yield densepose


def test_pasted_maps_are_those_that_the_server_paints(densepose: DensePose) -> None:
    apart = densepose.describe(PICTURE, outputs="iuv,labels,mask,uv")
    painted = densepose.describe(PICTURE, outputs=["iuv", "labels", "uv"], layout="image")
    assert len(apart.instances) > 2
    assert np.array_equal(apart.iuv(), painted.iuv())
    assert np.array_equal(apart.labels(), painted.labels())
    assert np.array_equal(apart.paste("uv"), painted.paste("uv"))
    assert apart.iuv().any()


def test_pasted_people_are_those_that_the_server_draws(densepose: DensePose) -> None:
    for paint in ("later-on-top", "best-on-top"):
        drawn = densepose.describe(PICTURE, outputs="mask", render="instances", paint=paint)
        people = drawn.people(is_best_on_top=paint == "best-on-top")
        assert np.array_equal(people, drawn.render)


def test_all_that_can_be_told_of_an_image_is_told(densepose: DensePose) -> None:
    box = densepose.describe(PICTURE, outputs="none").instances[0].box_xyxy
    middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    told = densepose.describe(PICTURE, boxes=[box], points=[middle], parts=["24", "sides"])
    (instance,) = told.instances
    assert told.model == "demo"
    assert told.notice is not None
    assert set(instance.parts) == {"24", "sides"}
    assert {part.charts[0] for part in instance.parts["24"]} <= set(range(1, 25))
    assert told.points[0].xy == pytest.approx(middle)
    assert told.timing_ms["total"] > 0


def test_pixels_are_described_as_the_file_they_came_from(densepose: DensePose) -> None:
    pixels = np.asarray(densepose.describe(PICTURE, render="segm", alpha=0).render)
    grey = densepose.describe(pixels)
    assert grey.size_hw == pixels.shape[:2]


def test_a_hundred_boxes_and_an_atlas_arrive(densepose: DensePose) -> None:
    boxes = np.random.default_rng(0).uniform(1, 200, (100, 4))
    boxes[:, 2:] += boxes[:, :2]
    assert len(densepose.describe(PICTURE, boxes=boxes, outputs="none").instances) == 100
    atlas = np.full((600, 400, 3), 200, np.uint8)
    painted = densepose.describe(PICTURE, render="texture", atlas=atlas).render
    assert painted is not None
    assert (painted == 200).all(axis=-1).any()


def test_the_server_tells_of_itself(densepose: DensePose) -> None:
    models = densepose.models()
    assert models.default == "demo"
    assert models["DEMO"] == densepose.model("demo")
    assert len(models) == len(list(models)) == 44
    assert len(densepose.parts()) == 24
    assert {"viton", "segm"} <= {render.name for render in densepose.renders()}
    assert densepose.readiness().is_well
    assert densepose.liveness().is_well


def test_errors_are_of_their_class(densepose: DensePose) -> None:
    with pytest.raises(UndecodableImage) as raised:
        densepose.describe(b"none")
    assert raised.value.status == 422
    assert raised.value.request_id
    with pytest.raises(UnknownModel):
        densepose.describe(PICTURE, model="nobody")
    with pytest.raises(UnsupportedOutput):
        densepose.describe(PICTURE, outputs="vertices")
    with pytest.raises(InvalidParameter):
        densepose.describe(PICTURE, min_score=2)
    with pytest.raises(Unauthorized):
        densepose.load("demo")


def test_with_the_admin_s_key_models_are_loaded(server: Server) -> None:
    with DensePose(server.url, api_key=ADMIN_KEY) as admin:
        assert admin.load("demo").id == "demo"
        assert admin.unload("DEMO").id == "demo"
        assert len(admin.describe(PICTURE).instances) > 0


def test_many_tasks_share_one_asynchronous_client(server: Server, densepose: DensePose) -> None:
    async def ask() -> list[int]:
        async with AsyncDensePose(server.url) as shared:
            assert (await shared.readiness()).is_well
            answers = await asyncio.gather(*(shared.describe(PICTURE) for _ in range(12)))
            return [len(answer.instances) for answer in answers]

    assert set(asyncio.run(ask())) == {len(densepose.describe(PICTURE).instances)}


@pytest.mark.parametrize("kind", [DensePose, AsyncDensePose])
def test_the_examples_work(
    kind: type, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(PICTURE, tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    examples = [
        test
        for test in doctest.DocTestFinder().find(kind, globs={kind.__name__: kind})
        if test.examples
    ]
    assert examples
    for test in examples:
        for example in test.examples:
            example.source = example.source.replace(ADDRESS, server.url)
        results = doctest.DocTestRunner().run(test)
        assert (results.failed, results.attempted) == (0, len(test.examples))


@pytest.fixture(scope="module")
def lonely_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with this distribution's wheel, without what it depends on."""
    folder = tmp_path_factory.mktemp("lonely")
    source = folder / "source"
    for package in ("service", "model_store"):
        shutil.copytree(
            ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(folder)]
    subprocess.run([*build, str(source)], check=True, capture_output=True)
    environment = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    (site,) = environment.glob("lib/python*/site-packages")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    for name in NEEDED:
        _link_distribution(name, site)
    return environment / "bin" / "python"


def _link_distribution(name: str, site: Path) -> None:
    """What an index would give is here already."""
    distribution = metadata.distribution(name)
    tops = {Path(str(file)).parts[0] for file in distribution.files or ()}
    for top in tops - {"..", "__pycache__"}:
        (site / top).symlink_to(Path(str(distribution.locate_file(top))))


ALONE = """
import importlib.util, sys
assert not any(importlib.util.find_spec(name) for name in ("torch", "fastapi", "pydantic", "PIL"))
from service.client import DensePose
with DensePose(sys.argv[1]) as densepose:
    answer = densepose.describe(sys.argv[2], outputs="iuv,mask")
    print(len(answer.instances), int(answer.iuv().any()), len(densepose.models()))
"""


def test_the_client_works_where_nothing_else_is_installed(
    lonely_python: Path, server: Server, densepose: DensePose, tmp_path: Path
) -> None:
    command = [str(lonely_python), "-I", "-c", ALONE, server.url, str(PICTURE)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert run.returncode == 0, run.stderr
    expected = len(densepose.describe(PICTURE).instances)
    assert run.stdout.split() == [str(expected), "1", "44"]


def test_the_wheel_says_that_it_is_typed(lonely_python: Path) -> None:
    (marker,) = lonely_python.parents[1].glob("lib/python*/site-packages/service/py.typed")
    assert marker.is_file()


# What a bad server does with a request; it has answered when this returns.
Act = Callable[["_Handler"], None]


@dataclass
class BadServer:
    """Does what it is told, in turn; the last again and again."""

    acts: list[Act] = field(default_factory=list)
    num_asked: int = 0
    num_connections: int = 0
    asked: list[str] = field(default_factory=list)
    url: str = ""

    def next_act(self) -> Act:
        self.num_asked += 1
        return self.acts.pop(0) if len(self.acts) > 1 else self.acts[0]


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    bad: BadServer

    def setup(self) -> None:
        super().setup()
        self.bad.num_connections += 1

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.bad.asked.append(self.path)
        self.bad.next_act()(self)

    do_GET = do_POST

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def bad_server() -> Iterator[BadServer]:
    bad = BadServer()
    handler = type("Handler", (_Handler,), {"bad": bad})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        listening.daemon_threads = True
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        bad.url = f"http://127.0.0.1:{listening.server_address[1]}"
        yield bad
        listening.shutdown()
        thread.join()


RESULT = {"model": "m", "image": {"width": 2, "height": 1}, "instances": [], "timing_ms": {}}
GOOD = write_npz({"result": np.array(json.dumps(RESULT))})


def send(
    content: bytes = GOOD, status: int = 200, media_type: str = "application/x-npz", **headers: str
) -> Act:
    def act(handler: _Handler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Type", media_type)
        handler.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(content)

    return act


def refuse(code: str, status: int, **headers: str) -> Act:
    told = {"code": code, "detail": "no", "request_id": "r"}
    return send(json.dumps(told).encode(), status, "application/problem+json", **headers)


def hang_up(handler: _Handler) -> None:
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


def cut_short(handler: _Handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "application/x-npz")
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b"half")
    handler.close_connection = True


def trickle(handler: _Handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "application/x-npz")
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    try:
        for _ in range(2000):
            handler.wfile.write(b"x")
            time.sleep(0.02)
    except OSError:
        handler.close_connection = True


class Both:
    """Either client, asked alike."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def describe(self, url: str, **options: object) -> str:
        """The model that the answer tells."""
        if self.kind == "sync":
            with DensePose(url, **options) as densepose:
                return densepose.describe(b"image").model

        async def ask() -> str:
            async with AsyncDensePose(url, **options) as densepose:
                return (await densepose.describe(b"image")).model

        return asyncio.run(ask())

    def load(self, url: str, **options: object) -> None:
        if self.kind == "sync":
            with DensePose(url, **options) as densepose:
                densepose.load("m")
            return

        async def ask() -> None:
            async with AsyncDensePose(url, **options) as densepose:
                await densepose.load("m")

        asyncio.run(ask())


@pytest.fixture(params=["sync", "async"])
def both(request: pytest.FixtureRequest) -> Both:
    return Both(request.param)


@pytest.mark.parametrize(
    "trouble",
    [
        refuse("overloaded", 429, Retry_After="0"),
        refuse("loading", 503),
        refuse("draining", 503),
        refuse("unhealthy", 503),
        send(b"<html>", 502, "text/html"),
        send(b"<html>", 503, "text/html"),
        hang_up,
        cut_short,
    ],
    ids=["429", "loading", "draining", "unhealthy", "502", "503", "hang-up", "cut-short"],
)
def test_what_passes_is_waited_for(both: Both, bad_server: BadServer, trouble: Act) -> None:
    bad_server.acts = [trouble, send()]
    assert both.describe(bad_server.url) == "m"
    assert bad_server.num_asked == 2


def test_nobody_comes_back_before_the_server_wants(both: Both, bad_server: BadServer) -> None:
    bad_server.acts = [refuse("overloaded", 429, Retry_After="1"), send()]
    begun_s = time.monotonic()
    both.describe(bad_server.url)
    assert time.monotonic() - begun_s >= 1.0


def test_nobody_waits_longer_than_the_call_may_take(both: Both, bad_server: BadServer) -> None:
    bad_server.acts = [refuse("overloaded", 429, Retry_After="3600")]
    with pytest.raises(Overloaded) as raised:
        both.describe(bad_server.url, timeout_s=30)
    assert raised.value.retry_after_s == 3600
    assert bad_server.num_asked == 1


def test_what_may_have_been_done_is_not_done_twice(both: Both, bad_server: BadServer) -> None:
    bad_server.acts = [hang_up]
    with pytest.raises(ServerUnreachable):
        both.load(bad_server.url)
    assert bad_server.num_asked == 1


def test_an_answer_that_never_ends_is_given_up_in_time(both: Both, bad_server: BadServer) -> None:
    bad_server.acts = [trickle]
    with pytest.raises(OutOfTime):
        both.describe(bad_server.url, timeout_s=0.5)


def test_a_server_that_says_nothing_is_given_up_in_time(both: Both) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(OutOfTime):
            both.describe(url, timeout_s=0.3)


@pytest.mark.parametrize(
    "hostile",
    [
        send(b"<html>hello</html>", media_type="text/html"),
        send(b"no archive"),
        send(bytes(2000)),
        send(GOOD, Content_Encoding="gzip"),
        send(write_npz({"result": np.zeros(10**6)})),
    ],
    ids=["page", "rubbish", "long", "packed", "bomb"],
)
def test_what_is_no_answer_is_told_and_not_repeated(
    both: Both, bad_server: BadServer, hostile: Act
) -> None:
    bad_server.acts = [hostile]
    with pytest.raises(UnreadableAnswer):
        both.describe(bad_server.url, max_answer_bytes=20_000)
    assert bad_server.num_asked == 1


def test_calls_share_connections(bad_server: BadServer) -> None:
    bad_server.acts = [send()]
    with DensePose(bad_server.url) as densepose:
        for _ in range(5):
            densepose.describe(b"image")
    assert (bad_server.num_asked, bad_server.num_connections) == (5, 1)


def test_a_path_before_the_server_s_own_is_kept(bad_server: BadServer) -> None:
    bad_server.acts = [send()]
    with DensePose(f"{bad_server.url}/poses/") as densepose:
        densepose.describe(b"image", model="m")
    assert bad_server.asked[0].startswith("/poses/v1/densepose?model=m&timeout_ms=")


def test_an_ill_server_is_told_to_be_so(bad_server: BadServer) -> None:
    ill = json.dumps({"status": "unavailable", "reason": "draining"}).encode()
    bad_server.acts = [send(ill, 503, "application/json", Retry_After="1")]
    with DensePose(bad_server.url) as densepose:
        health = densepose.readiness()
    assert (health.is_well, health.reason) == (False, "draining")
    assert bad_server.num_asked == 1
