import resource

import pytest

from service.server import allow_open_files


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
