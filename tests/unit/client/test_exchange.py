import json
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx2
import pytest

from service.client import exchange
from service.client.errors import (
    OutOfTime,
    Overloaded,
    Refused,
    UnknownModel,
    UnreadableAnswer,
)
from service.client.exchange import (
    Collector,
    check_address,
    key_headers,
    parse_retry_after,
    refusal_in,
)

SOON_S = 60.0


def collector(status=200, accept="application/json", max_bytes=100, deadline_s=None, **headers):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    request = httpx2.Request("GET", "http://test/", headers={"accept": accept})
    response = httpx2.Response(status, headers=headers, request=request)
    deadline_s = time.monotonic() + SOON_S if deadline_s is None else deadline_s
    return Collector(response, max_bytes=max_bytes, deadline_s=deadline_s)


def problem(**fields):
    told = {"code": "overloaded", "detail": "later", "request_id": "abc"} | fields
    return json.dumps(told).encode()


def test_an_answer_is_put_together_from_its_pieces():
    one = collector(content_type="application/json; charset=utf-8")
    one.add(b"[1,")
    one.add(b"2]")
    assert one.content() == b"[1,2]"


def test_an_answer_beyond_the_limit_is_not_read_to_its_end():
    one = collector(max_bytes=3, content_type="application/json")
    one.add(b"123")
    with pytest.raises(UnreadableAnswer, match="more than 3 bytes"):
        one.add(b"4")


def test_an_error_may_not_be_long():
    one = collector(status=500, max_bytes=2**40)
    with pytest.raises(UnreadableAnswer):
        one.add(bytes(exchange.MAX_ERROR_BYTES + 1))


def test_an_answer_that_trickles_is_cut_off_at_the_deadline():
    with pytest.raises(OutOfTime):
        collector(deadline_s=time.monotonic() - 1).add(b"1")


def test_an_answer_packed_as_nobody_asked_is_not_unpacked():
    with pytest.raises(UnreadableAnswer, match="gzip"):
        collector(content_encoding="gzip")


@pytest.mark.parametrize("content_type", ["text/html", ""])
def test_an_answer_of_another_kind_is_none(content_type):
    one = collector(content_type=content_type)
    one.add(b"<html>")
    with pytest.raises(UnreadableAnswer, match="DensePose server"):
        one.content()


def test_an_error_is_told_with_all_that_is_known_of_it():
    error = refusal_in(429, {"retry-after": "7"}, problem())
    assert type(error) is Overloaded
    assert (error.status, error.code, error.request_id) == (429, "overloaded", "abc")
    assert (str(error), error.retry_after_s) == ("later", 7.0)


def test_a_code_of_a_later_version_is_an_error_still():
    error = refusal_in(418, {}, problem(code="teapot"))
    assert (type(error), error.code) == (Refused, "teapot")


@pytest.mark.parametrize(
    "content", [b"", b"<html>", b"[]", b'{"code": 5, "detail": "x"}', b"[" * 10**5, b"\xff"]
)
def test_an_error_of_somebody_between_has_no_code(content):
    error = refusal_in(502, {"retry-after": "3"}, content)
    assert (type(error), error.code, error.status, error.retry_after_s) == (Refused, None, 502, 3.0)


def test_what_a_server_says_cannot_act_on_a_terminal():
    error = refusal_in(404, {}, problem(code="unknown_model", detail="\x1b[2J\r\nx" + "y" * 10**5))
    assert type(error) is UnknownModel
    assert str(error).startswith("\\x1b[2J\\r\\nxy")
    assert len(str(error)) < 5000


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *((None, None), ("5", 5.0), ("0", 0.0), ("-3", 0.0), ("1.5", 1.5)),
        *(("soon", None), ("nan", None), ("inf", None), ("", None)),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("Wed, 99 Oct 2015 07:28:00 GMT", None),
    ],
)
def test_a_retry_after_is_seconds_or_nothing(text, seconds):
    assert parse_retry_after(text) == seconds


def test_a_retry_after_may_be_a_date():
    in_a_minute = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    seconds = parse_retry_after(in_a_minute)
    assert seconds is not None
    assert 30 < seconds <= 60


@pytest.mark.parametrize("url", ["http://host:8000", "https://host/prefix/", "http://[::1]:80"])
def test_an_address_may_have_a_path(url):
    assert check_address(url) == url.rstrip("/") + "/"


@pytest.mark.parametrize(
    "url", ["host:8000", "", "ftp://host", "http://", "http://a?b=c", "http://["]
)
def test_what_is_no_address_is_refused_at_once(url):
    with pytest.raises(ValueError, match="no address"):
        check_address(url)


def test_a_key_goes_into_a_header():
    assert key_headers("s3cret") == {"Authorization": "Bearer s3cret"}
    assert key_headers(None) == {}


@pytest.mark.parametrize("key", ["", "two words", "lïne", "a\r\nHost: b"])
def test_a_key_that_no_header_can_carry_is_refused_without_being_shown(key):
    with pytest.raises(ValueError, match="key") as raised:
        key_headers(key)
    assert not key or key not in str(raised.value)
