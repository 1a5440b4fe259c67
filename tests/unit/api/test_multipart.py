import pytest

from service.api.multipart import MAX_PARTS, split_parts
from service.errors import MalformedRequest

BOUNDARY = b"frontier"


def form(*parts, end=b"--frontier--\r\n"):
    body = b"".join(
        b"--frontier\r\n" + headers + b"\r\n\r\n" + data + b"\r\n" for headers, data in parts
    )
    return bytearray(body + end)


def named(name, more=b""):
    return b'Content-Disposition: form-data; name="' + name + b'"' + more


def parts_of(body):
    return [(part.name, bytes(part.data)) for part in split_parts(body, BOUNDARY)]


def test_parts_come_in_their_order_with_their_bytes():
    data = b"\x00\r\n--front\r\n--frontie\xff"
    body = form((named(b"image", b'; filename="a.jpg"'), data), (named(b"model"), b"demo"))
    assert parts_of(body) == [("image", data), ("model", b"demo")]


def test_a_part_is_a_view_into_the_body():
    body = form((named(b"image"), b"abc"))
    (part,) = split_parts(body, BOUNDARY)
    begin = bytes(body).index(b"abc")
    body[begin] = ord("x")
    assert bytes(part.data) == b"xbc"


def test_a_part_may_be_empty():
    assert parts_of(form((named(b"image"), b""))) == [("image", b"")]


def test_names_are_utf_8():
    assert parts_of(form((named("größe".encode()), b"1"))) == [("größe", b"1")]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not multipart",
        b"--frontier",
        form((named(b"image"), b"abc"), end=b""),
        form((named(b"image"), b"abc"), end=b"--frontier"),
        form((named(b"image"), b"abc"), end=b"--frontier\r\n"),
        form((b"Content-Type: text/plain", b"abc")),
        form((b"Content-Disposition: form-data", b"abc")),
        form((b"no header at all", b"abc")),
        form((named(b"n" * 5000), b"abc")),
        form((b"\r\n".join([named(b"a")] + [b"X-A: b"] * 20), b"abc")),
        form(*[(named(b"a"), b"b")] * (MAX_PARTS + 1)),
    ],
)
def test_what_is_not_a_whole_form_is_malformed(body):
    with pytest.raises(MalformedRequest):
        split_parts(bytearray(body), BOUNDARY)


def test_a_boundary_beyond_all_bounds_is_malformed():
    with pytest.raises(MalformedRequest):
        split_parts(form(), b"b" * 5000)
