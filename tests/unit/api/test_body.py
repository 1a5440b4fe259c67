import asyncio

import pytest
from starlette.datastructures import Headers

from service.api.body import declared_length, read_body
from service.errors import BodyTooLarge, ClientLeft, MalformedRequest, Overloaded, SlowUpload


def arriving(*chunks, then=None):
    """The server's side of an upload: these chunks, then this message, else the end."""
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    messages.append(then or {"type": "http.request", "body": b"", "more_body": False})

    async def receive():
        return messages.pop(0)

    return receive, messages


def read(receive, length, max_bytes=100, timeout_s=5.0, hold=lambda num_bytes: None):
    return asyncio.run(
        read_body(receive, length, max_bytes=max_bytes, timeout_s=timeout_s, hold=hold)
    )


@pytest.mark.parametrize("length", [6, None])
def test_a_body_in_pieces_is_put_together(length):
    receive, _ = arriving(b"ab", b"", b"cdef")
    assert read(receive, length) == b"abcdef"


def test_a_body_that_announces_too_much_is_refused_before_it_is_read_or_held():
    receive, messages = arriving(b"a" * 101)
    held = []
    with pytest.raises(BodyTooLarge, match="100"):
        read(receive, 101, hold=held.append)
    assert len(messages) == 2
    assert held == []


def test_a_body_of_unknown_length_is_cut_at_the_limit():
    receive, messages = arriving(*[b"a" * 60] * 50)
    with pytest.raises(BodyTooLarge):
        read(receive, None)
    assert len(messages) == 49


@pytest.mark.parametrize("length", [100, None])
def test_a_body_at_the_limit_is_read(length):
    receive, _ = arriving(b"a" * 100)
    assert len(read(receive, length)) == 100


@pytest.mark.parametrize("chunks", [(b"abc",), (b"abc", b"defg")])
def test_a_body_of_another_length_than_announced_is_malformed(chunks):
    receive, _ = arriving(*chunks)
    with pytest.raises(MalformedRequest):
        read(receive, 5)


@pytest.mark.parametrize("length", [5, None])
def test_a_client_that_leaves_in_the_middle_is_noticed(length):
    receive, _ = arriving(b"ab", then={"type": "http.disconnect"})
    with pytest.raises(ClientLeft):
        read(receive, length)


@pytest.mark.parametrize("length", [5, None])
def test_a_body_that_takes_too_long_is_given_up(length):
    async def receive():
        await asyncio.sleep(0.01)
        return {"type": "http.request", "body": b"", "more_body": True}

    with pytest.raises(SlowUpload):
        read(receive, length, timeout_s=0.05)


def test_nothing_is_stored_before_it_is_held():
    def refuse(num_bytes):
        raise Overloaded("full")

    for length in (3, None):
        receive, messages = arriving(b"ab", b"c")
        with pytest.raises(Overloaded):
            read(receive, length, hold=refuse)
        assert len(messages) == 2


def test_what_is_announced_and_does_not_come_is_not_held():
    held = []
    receive, _ = arriving(b"ab", b"cd", then={"type": "http.disconnect"})
    with pytest.raises(ClientLeft):
        read(receive, 100, hold=held.append)
    assert held == [2, 4]


@pytest.mark.parametrize("text", ["-1", "1e3", "five", "\u0661", "9" * 30, ""])
def test_a_content_length_that_is_no_number_is_malformed(text):
    headers = Headers(raw=[(b"content-length", text.encode("utf-8"))])
    with pytest.raises(MalformedRequest):
        declared_length(headers)


def test_a_content_length_may_be_missing():
    assert declared_length(Headers({})) is None
    assert declared_length(Headers({"Content-Length": "12"})) == 12
