import asyncio
import errno
import resource
import socket
from types import SimpleNamespace

import pytest
import uvicorn

from service import server
from service.errors import InvalidSetting
from service.server import TICKS_BETWEEN_TRIMS, Server, allow_open_files, listen


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


@pytest.fixture
def listening():
    opened = []

    def open_at(host, port=0):
        opened.extend(sockets := listen(host, port))
        return sockets

    yield open_at
    for one in opened:
        one.close()


def has_ipv6():
    with socket.socket(socket.AF_INET6) as probe:
        return probe.connect_ex(("::1", 9)) == errno.ECONNREFUSED


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


def connect(host, port):
    socket.create_connection((host, port), timeout=5).close()


def test_an_address_is_listened_on(listening):
    (one,) = listening("127.0.0.1")
    connect(*one.getsockname())


def test_a_name_is_listened_on_at_each_of_its_addresses(listening):
    found = socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM)
    assert 0 < len(listening("localhost")) <= len(found)


@needs_ipv6
def test_all_of_ipv6_is_all_of_ipv4_too(listening):
    (one,) = listening("::")
    port = one.getsockname()[1]
    connect("::1", port)
    connect("127.0.0.1", port)


@needs_ipv6
def test_one_address_of_ipv6_is_no_other_one(listening):
    (one,) = listening("::1")
    with pytest.raises(ConnectionRefusedError):
        connect("127.0.0.1", one.getsockname()[1])


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_a_port_in_use_is_said_to_be_so_and_nothing_stays_open(listening, host):
    (one,) = listening("127.0.0.1")
    port = one.getsockname()[1]
    # A ResourceWarning of a socket that is left open would be an error here.
    with pytest.raises(InvalidSetting, match=f"^DENSEPOSE_PORT is in use .*{port}"):
        listen(host, port)


@pytest.mark.parametrize(
    "host",
    ["nobody.invalid", "192.0.2.1", "[::1]", "127.0.0.1:80", "a" * 70 + ".x", "no host", "%"],
)
def test_a_host_that_is_not_here_is_said_to_be_so(host):
    with pytest.raises(
        InvalidSetting, match=r"^DENSEPOSE_HOST is no address of this machine"
    ) as told:
        listen(host, 0)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EACCES, "DENSEPOSE_PORT is not open to this user: take one from 1024 on"),
        (errno.ENOBUFS, "DENSEPOSE_HOST and DENSEPOSE_PORT cannot be listened on"),
    ],
)
def test_what_else_the_system_refuses_is_one_line(monkeypatch, number, words):
    class Refused(socket.socket):
        def bind(self, address):
            raise OSError(number, "refused")

    monkeypatch.setattr(socket, "socket", Refused)
    with pytest.raises(InvalidSetting, match=f"^{words}"):
        listen("127.0.0.1", 80)
