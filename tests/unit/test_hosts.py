import pytest

from service.hosts import Authority, is_loopback, parse_authority


@pytest.mark.parametrize(
    ("text", "name", "port"),
    [
        ("a.example", "a.example", None),
        ("A.Example.:8000", "a.example", 8000),
        ("a.example:", "a.example", None),
        ("dense_pose:80", "dense_pose", 80),
        ("127.0.0.1:8000", "127.0.0.1", 8000),
        ("[::1]:8000", "[::1]", 8000),
        ("[0:0::0:1]", "[::1]", None),
        ("[FE80::1]", "[fe80::1]", None),
        ("", "", None),
    ],
)
def test_a_host_is_its_name_and_perhaps_a_port(text, name, port):
    assert parse_authority(text) == Authority(name, port)


@pytest.mark.parametrize(
    "text",
    [
        *("user@a.example", "user:word@a.example:80", "a.example/", "a.example/path"),
        *("a.example:http", "a.example:80:80", "a.example:-1", "a.example:123456"),
        *("::1", "[::1", "[::1]x", "[::g]", "[1.2.3.4]", "[]", "a b", "a.example, b.example"),
        *("a.example\n", "a\0.example", "é.example", "http://a.example", "?", "#", "a\\b"),
    ],
)
def test_what_is_no_host_is_none(text):
    assert parse_authority(text) is None


@pytest.mark.parametrize(
    "name", ["localhost", "a.localhost", "127.0.0.1", "127.255.0.9", "[::1]", "::1"]
)
def test_the_machine_s_names_for_itself_are_known(name):
    assert is_loopback(name)


@pytest.mark.parametrize(
    "name",
    [
        *("", "localhost.example", "xlocalhost", "127.0.0.1.example", "127.1", "2130706433"),
        *("0.0.0.0", "[::]", "[::ffff:10.0.0.1]", "10.0.0.1", "128.0.0.1", "[::2]"),
    ],
)
def test_no_other_name_is_taken_for_one_of_them(name):
    assert not is_loopback(name)
