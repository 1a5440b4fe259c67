import base64
import json

import pytest
from starlette.datastructures import Headers

from service.api.submission import parser_for
from service.errors import InvalidParameter, MalformedRequest, UnsupportedMediaType
from service.pipeline.bounded_json import MAX_BRACKETS, MAX_COMMAS

ATLAS_TOO = {"image": b"pixels", "atlas": b"texels"}
FORM = "multipart/form-data; boundary=frontier"


def parse(content_type, body, **headers):
    if content_type is not None:
        headers["content-type"] = content_type
    return parser_for(Headers(headers))(bytearray(body))


def in_json(**fields):
    return json.dumps(fields).encode()


def in_form(*fields):
    parts = (
        b'--frontier\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % field
        for field in fields
    )
    return b"".join(parts) + b"--frontier--\r\n"


@pytest.mark.parametrize(
    "content_type",
    ["image/jpeg", "IMAGE/PNG", "image/anything", "application/octet-stream; x=y", None, ""],
)
def test_a_raw_body_is_the_image_and_is_not_copied(content_type):
    headers = Headers({} if content_type is None else {"content-type": content_type})
    body = bytearray(b"pixels")
    assert parser_for(headers)(body).pictures.image is body


def test_json_carries_the_image_in_base64_and_parameters_as_they_are():
    body = in_json(image=base64.b64encode(b"pixels").decode(), boxes=[[1, 2, 3, 4]])
    submission = parse("application/json; charset=utf-8", body)
    assert submission.pictures.image == b"pixels"
    assert submission.parameters == (("boxes", [[1, 2, 3, 4]]),)


def test_a_form_carries_the_image_as_a_part_and_parameters_as_text():
    body = in_form((b"min_score", b"0.5"), (b"image", b"pixels"), (b"model", b"demo"))
    submission = parse(FORM, body)
    assert bytes(submission.pictures.image) == b"pixels"
    assert submission.parameters == (("min_score", "0.5"), ("model", "demo"))


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/x-www-form-urlencoded", "video/mp4", "application/xml", "image"],
)
def test_another_type_of_body_is_refused_with_what_to_send(content_type):
    with pytest.raises(UnsupportedMediaType, match="application/octet-stream"):
        parser_for(Headers({"content-type": content_type}))


@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip", ""])
def test_an_encoded_body_is_refused(encoding):
    headers = Headers({"content-type": "image/png", "content-encoding": encoding})
    with pytest.raises(UnsupportedMediaType, match="Content-Encoding"):
        parser_for(headers)


def test_identity_is_no_encoding():
    assert (
        parse("image/png", b"pixels", **{"content-encoding": "Identity"}).pictures.image
        == b"pixels"
    )


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("image/jpeg", b""),
        ("application/json", b""),
        ("application/json", b"{"),
        ("application/json", b"\xff\xfe\x00"),
        ("application/json", b"[]"),
        ("application/json", b'"image"'),
        ("application/json", in_json(model="demo")),
        ("application/json", in_json(image="")),
        ("application/json", in_json(image=None)),
        ("application/json", in_json(image=5)),
        ("application/json", in_json(image="a")),
        ("application/json", in_json(image="cGl4ZWxzA")),
        ("application/json", in_json(image="cGl4ZWxz=")),
        ("application/json", in_json(image="cGl4ZWxz====")),
        ("application/json", in_json(image="cGl4ZWw===")),
        ("application/json", in_json(image="cGl4=ZWxz")),
        ("application/json", in_json(image="cGl4!ZWxz")),
        ("application/json", in_json(image="data:image/png,cGl4ZWxz")),
        ("application/json", in_json(image="data:image/png;base64;cGl4ZWxz")),
        ("application/json", in_json(image="x" * 300 + ",cGl4ZWxz")),
        ("application/json", in_json(image="https://example.org/a.jpg")),
        ("application/json", in_json(image="größe")),
        ("application/json", b"[" * 100_000),
        ("application/json", b'{"image": ' + b"[" * MAX_BRACKETS),
        ("application/json", b'{"a": [' + b"1," * MAX_COMMAS + b"1, 1]}"),
        ("application/json", b'{"a": ' + b"9" * 5000 + b"}"),
        (FORM, b""),
        (FORM, b"not a form"),
        (FORM, in_form((b"model", b"demo"))),
        (FORM, in_form((b"image", b""))),
        (FORM, in_form((b"image", b"pixels"), (b"model", b"d" * 100_000))),
    ],
)
def test_a_body_without_a_readable_image_is_malformed(content_type, body):
    with pytest.raises(MalformedRequest):
        parse(content_type, body)


def test_a_form_without_its_boundary_is_malformed():
    with pytest.raises(MalformedRequest, match="boundary"):
        parser_for(Headers({"content-type": "multipart/form-data"}))


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (FORM, in_form((b"image", b"a"), (b"image", b"b"))),
        ("application/json", b'{"image": "cGl4ZWxz", "model": "demo", "model": "demo"}'),
        ("application/json", b'{"image": "cGl4ZWxz", "image": "cGl4ZWxz"}'),
    ],
)
def test_what_is_given_twice_in_a_body_is_refused(content_type, body):
    with pytest.raises(InvalidParameter, match="given twice"):
        parse(content_type, body)


BYTES = bytes(range(256)) + b"\xfb\xff"


@pytest.mark.parametrize(
    "text",
    [
        base64.b64encode(BYTES).decode(),
        base64.urlsafe_b64encode(BYTES).decode(),
        base64.b64encode(BYTES).decode().rstrip("="),
        # Python's encodebytes, Java's MIME encoder, a shell's echo.
        base64.encodebytes(BYTES).decode(),
        base64.encodebytes(BYTES).decode().replace("\n", "\r\n"),
        " " + base64.b64encode(BYTES).decode() + "\n",
        "data:image/jpeg;base64," + base64.b64encode(BYTES).decode(),
        "data:;base64," + base64.urlsafe_b64encode(BYTES).decode().rstrip("="),
        "DATA:image/png;name=a.png;BASE64," + base64.encodebytes(BYTES).decode(),
    ],
)
def test_base64_is_taken_as_people_write_it(text):
    assert parse("application/json", in_json(image=text)).pictures.image == BYTES


def test_what_nobody_has_filled_in_of_a_form_is_not_there():
    body = in_form((b"image", b"pixels"), (b"model", b""), (b"min_score", b"0.7"), (b"atlas", b""))
    submission = parse(FORM, body)
    assert submission.parameters == (("min_score", "0.7"),)
    assert submission.pictures.atlas is None


def test_an_atlas_comes_as_a_part_or_in_base64():
    body = in_form((b"image", b"pixels"), (b"atlas", b"texels"))
    assert bytes(parse(FORM, body).pictures.atlas) == b"texels"
    fields = {name: base64.b64encode(data).decode() for name, data in ATLAS_TOO.items()}
    submission = parse("application/json", in_json(**fields))
    assert (submission.pictures.image, submission.pictures.atlas) == (b"pixels", b"texels")
    assert submission.parameters == ()
    assert parse(FORM, in_form((b"image", b"pixels"))).pictures.atlas is None


def test_an_atlas_that_is_none_is_told_by_its_name():
    with pytest.raises(InvalidParameter, match="'atlas' is given twice"):
        parse(FORM, in_form((b"image", b"pixels"), (b"atlas", b"a"), (b"atlas", b"b")))
    image = base64.b64encode(b"pixels").decode()
    for atlas in (None, 5, "!", "data:image/png,AAAA"):
        with pytest.raises(MalformedRequest, match="'atlas'"):
            parse("application/json", in_json(image=image, atlas=atlas))


@pytest.mark.parametrize(
    "boundary", ['"\r"', '"\r\n"', '"a\0b"', '"a "', '" "', "a" * 71, '"\xe9"', '""', '"a\tb"']
)
def test_a_boundary_that_is_none_is_malformed(boundary):
    headers = Headers({"content-type": f"multipart/form-data; boundary={boundary}"})
    with pytest.raises(MalformedRequest):
        parser_for(headers)


@pytest.mark.parametrize(
    "boundary", ["a" * 70, "----WebKitFormBoundary7MA4YWxk", '"a b\'()+_,-./:=?"']
)
def test_a_boundary_may_be_what_its_standard_allows(boundary):
    parser_for(Headers({"content-type": f"multipart/form-data; boundary={boundary}"}))
