import errno
import socket

import pytest

from service.errors import InvalidSetting
from service.listening import listen


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
