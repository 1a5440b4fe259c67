import asyncio
import resource
from types import SimpleNamespace

import pytest
import uvicorn

from service import server
from service.server import TICKS_BETWEEN_TRIMS, Server, allow_open_files


@pytest.fixture
def limits(monkeypatch):
    """The process' limits, which are not really changed."""
    limits = {"soft": 1024, "hard": 4096}

    def set_limits(_, pair):
        limits["soft"], limits["hard"] = pair

    monkeypatch.setattr(resource, "getrlimit", lambda _: (limits["soft"], limits["hard"]))
    monkeypatch.setattr(resource, "setrlimit", set_limits)
    return limits


@pytest.mark.parametrize(
    ("wanted", "soft", "is_warned"), [(100, 1024, False), (2000, 2000, False), (9000, 4096, True)]
)
def test_as_many_files_may_be_open_as_are_needed_and_the_system_allows(
    limits, caplog, wanted, soft, is_warned
):
    allow_open_files(wanted)
    assert limits == {"soft": soft, "hard": 4096}
    assert bool(caplog.records) is is_warned


def test_where_there_is_no_limit_nothing_is_changed(limits):
    limits |= {"soft": resource.RLIM_INFINITY, "hard": resource.RLIM_INFINITY}
    allow_open_files(9000)
    assert limits["soft"] == resource.RLIM_INFINITY


def test_what_was_freed_is_given_back_twice_a_minute_and_not_more_often(monkeypatch):
    given_back = []
    monkeypatch.setattr(server, "give_back_freed_memory", lambda: given_back.append(True))

    async def tick():
        config = uvicorn.Config(lambda: None, log_config=None)
        served = Server(config, SimpleNamespace(failure=None), drain_delay_s=0, limit_s=1)
        for counter in range(2 * TICKS_BETWEEN_TRIMS):
            assert not await served.on_tick(counter)
            if served._trimming is not None:
                await served._trimming

    asyncio.run(tick())
    assert len(given_back) == 2
