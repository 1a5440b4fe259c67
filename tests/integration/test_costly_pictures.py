"""A real server and pictures that cost much: what they cost it, and who else notices."""

import asyncio
import io
import re
import signal
import sys
from pathlib import Path

import httpx2
import pytest
from PIL import Image

from load_tests.server import running_server
from tests.integration.conftest import picture
from tests.unit.imaging.test_costs import progressive

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

STAND_IN = ("-m", "load_tests.stand_in", "--image-ms", "1", "--batch-ms", "1")
SIZE = (5164, 7745)


@pytest.fixture
def server(tmp_path):
    settings = {"DEFAULT_MODEL": "demo", "MODEL_STORE": str(tmp_path)}
    with running_server(settings, tmp_path / "log", STAND_IN) as server:
        yield server


def save(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def descendants(pid):
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [each for child in children for each in (int(child), *descendants(child))]


def num_decoding(server):
    """Processes that decode a picture; one makes them."""
    try:
        return len(descendants(server.process.pid)) - 1
    except FileNotFoundError:
        return num_decoding(server)


async def until(condition):
    while not condition():  # noqa: ASYNC110 - of another process
        await asyncio.sleep(0.01)


def ask(server, content, **params):
    client = httpx2.AsyncClient(base_url=server.url, timeout=120)

    async def post():
        async with client:
            return await client.post("/v1/densepose", content=content, params=params)

    return post()


def test_a_costly_picture_is_ended_at_its_deadline_and_others_are_answered(server):
    costly = progressive(SIZE, 16, save)

    async def run():
        requests = [ask(server, costly, timeout_ms=150) for _ in range(4)]
        good = [ask(server, picture()) for _ in range(4)]
        return await asyncio.gather(*requests), await asyncio.gather(*good)

    costly_answers, good_answers = asyncio.run(run())
    assert {answer.json()["code"] for answer in costly_answers} == {"deadline_exceeded"}
    assert {answer.status_code for answer in good_answers} == {200}
    asyncio.run(until(lambda: num_decoding(server) == 0))
    metrics = httpx2.get(f"{server.url}/metrics").text
    (count,) = re.findall(r'decoder_overruns_total{kind="deadline"} (\S+)', metrics)
    assert float(count) >= 1


def test_a_costly_picture_whose_client_leaves_is_ended(server):
    async def run():
        asking = asyncio.create_task(ask(server, progressive(SIZE, 16, save)))
        await until(lambda: num_decoding(server) == 1)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await until(lambda: num_decoding(server) == 0)
        assert (await ask(server, picture())).status_code == 200

    asyncio.run(run())


def test_a_server_that_ends_leaves_no_decoder_behind(server):
    async def run():
        asking = asyncio.create_task(ask(server, progressive(SIZE, 16, save), timeout_ms=1000))
        await until(lambda: num_decoding(server) == 1)
        processes = descendants(server.process.pid)
        server.process.send_signal(signal.SIGTERM)
        await until(lambda: server.process.poll() is not None)
        assert server.process.returncode == 0
        await until(lambda: not any(Path(f"/proc/{each}").exists() for each in processes))
        assert (await asking).status_code in {200, 504}

    asyncio.run(run())


def test_what_decoders_print_does_not_reach_the_log(server):
    # Each row has a code that is none, and libtiff has a line to say of each.
    rows = b"\0\x1f" * 200_000
    tags = (
        *((256, 16), (257, 200_000), (258, 1), (259, 3), (262, 0), (273, 8), (277, 1)),
        *((278, 200_000), (279, len(rows)), (292, 0)),
    )
    table = b"".join(
        tag.to_bytes(2, "little") + b"\4\0\1\0\0\0" + value.to_bytes(4, "little")
        for tag, value in tags
    )
    start = (8 + len(rows)).to_bytes(4, "little")
    flood = b"II*\0" + start + rows + len(tags).to_bytes(2, "little") + table + bytes(4)
    before = server.log.stat().st_size
    answer = asyncio.run(ask(server, flood, short_side=128))
    assert answer.status_code in {200, 422}
    assert server.log.stat().st_size - before < 4096


def test_an_honest_picture_of_40_million_pixels_is_answered(server):
    picture = Image.new("RGB", (7745, 5164), "teal")
    for kind, options in (("JPEG", {"progressive": True, "subsampling": 0}), ("PNG", {})):
        answer = asyncio.run(ask(server, save(picture, kind, **options)))
        assert answer.status_code == 200
        assert answer.json()["image"] == {"width": 7745, "height": 5164}
