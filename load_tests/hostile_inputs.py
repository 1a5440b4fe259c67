"""What nobody means well with: damaged pictures and bodies, and HTTP that is none, by seed."""

import base64
import io
import json
import random
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

SIDES = ((64, 48), (200, 300), (1, 1), (3, 500))
SAVED_AS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("JPEG", "RGB", {"quality": 85}),
    ("JPEG", "RGB", {"progressive": True}),
    ("JPEG", "CMYK", {}),
    ("JPEG", "L", {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0"}),
    ("PNG", "RGB", {}),
    ("PNG", "RGBA", {}),
    ("PNG", "P", {}),
    ("PNG", "I;16", {}),
    ("WEBP", "RGB", {"quality": 70}),
    ("WEBP", "RGBA", {"lossless": True}),
    ("GIF", "P", {}),
    ("BMP", "RGB", {}),
    ("BMP", "P", {}),
    ("TIFF", "RGB", {"compression": "tiff_lzw"}),
    ("TIFF", "RGB", {"compression": "tiff_adobe_deflate"}),
    ("TIFF", "L", {}),
    ("TIFF", "CMYK", {}),
)
# As large as the server takes by default, in a few kilobytes; a little of that goes a long way.
LARGEST = (8000, 5000)
SHARE_OF_LARGEST = 0.001
# What decoders multiply, add to an address, or take for a length.
NUMBERS = (
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\0\0\0\x80",
)
PARAMETERS = (
    *("boxes=[]", "boxes=[[0,0,1e308,1e308]]", "boxes=[[0,0,-1,-1]]", "boxes=" + "[" * 1200),
    *(
        "boxes=[[" + "9" * 5000 + ",0,1,1]]",
        "points=[[NaN,0]]",
        "min_score=1e-400",
        "min_score=nan",
    ),
    *("max_instances=0x10", "max_instances=" + "9" * 4400, "short_side=-1", "outputs=iuv,iuv,iuv"),
    *("model=..%2F..%2Fetc%2Fpasswd", "model=%00", "model=%ff%fe", "model=%F0%9F%92%A9", "%00=%00"),
    *("render=texture", "size=4096x4096", "size=99999x99999", "background=%23zzzzzz", "a=b&a=b"),
    *("&".join(f"a{index}=b" for index in range(3000)), "timeout_ms=1", "classes=[]", "mesh=%20"),
    *(
        "min_score=%F3%A0%81%A1",
        "image_id=1e400",
        "parts=%5B%5D",
        "model=demo;drop",
        "boxes=%5B%5B",
    ),
)
HEADERS = (
    *("Accept: */*;q=2", "Accept: " + "image/png," * 500, "Accept: image/png;" + ";" * 1000),
    *("Accept-Encoding: gzip;q=nan", "Content-Encoding: gzip", "Content-Type: image/" + "x" * 900),
    *("Content-Type: multipart/form-data; boundary=" + "b" * 300, "Content-Type: \xff"),
    *('Content-Type: multipart/form-data; boundary="', "Content-Type: application/json; charset=x"),
    *("X-Request-ID: " + "x" * 200, "X-Request-ID: a b", "traceparent: 00-" + "0" * 32 + "-x-01"),
    *("Expect: 100-continue", "Expect: 200-ok", "Range: bytes=0-", "Authorization: Bearer \xff"),
    *("X-Forwarded-For: ::1", "Cookie: " + "c=d; " * 900, "Upgrade: h2c", "Connection: close, x"),
)
TARGETS = (
    *("/", "//", "/v1/densepose", "/v1/densepose/", "/v1/models/%2e%2e/x", "/v1/models/\xe9"),
    *("/v1/models/" + "a" * 5000, "/docs/../etc/passwd", "/%", "/%zz", "/docs/%2e%2e%2f", "*"),
    *("http://elsewhere.test/v1/models", "/v1/models/demo/load", "/metrics?x=" + "y" * 9000, "/;x"),
)
METHODS = ("GET", "POST", "PUT", "OPTIONS", "DELETE", "TRACE", "PROPFIND", "get", "G\0T")
SMUGGLED = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"
FRAMINGS = (
    *(b"Content-Length: 5\r\nTransfer-Encoding: chunked", b"Transfer-Encoding: gzip, chunked"),
    *(b"Content-Length: 5\r\nContent-Length: 5", b"Content-Length: +5", b"Content-Length: -5"),
    *(b"Content-Length: 5, 5", b"Content-Length: 99999999999999999999", b"Content-Length : 5"),
    *(b"Transfer-Encoding : chunked", b"Transfer-Encoding: xchunked", b"Content-Length: 0x5"),
    *(b"Transfer-Encoding:\r\n chunked", b"Transfer-Encoding: chunked\nX: y", b"X: a\r\n folded"),
    *(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", b"Host: twice", b"X: a\0b"),
)
CHUNKS = (
    *(b"-5\r\nabcde\r\n0\r\n\r\n", b"0x5\r\nabcde\r\n0\r\n\r\n", b"5\nabcde\n0\n\n"),
    *(
        b"FFFFFFFFFFFFFFFFF\r\nabcde\r\n",
        b"7fffffffffffffff\r\nabcde",
        b"5\r\nabcdefgh\r\n0\r\n\r\n",
    ),
    *(b"5;" + b"x" * 100_000, b"1\r\na\r\n" * 20_000, b"0\r\nX: " + b"y" * 50_000, b"\r\n\r\n"),
)


@cache
def pictures() -> tuple[bytes, ...]:
    """Sound pictures in every format that is read."""
    return tuple(
        _picture(size, file_format, mode, options)
        for size in SIDES
        for file_format, mode, options in SAVED_AS
    )


@cache
def largest_pictures() -> tuple[bytes, ...]:
    """Sound pictures that are far larger in memory than on the way there."""
    files = []
    for file_format in ("PNG", "JPEG", "GIF"):
        file = io.BytesIO()
        Image.new("L", LARGEST).save(file, file_format)
        files.append(file.getvalue())
    return tuple(files)


def _picture(size: tuple[int, int], file_format: str, mode: str, options: dict[str, Any]) -> bytes:
    width, height = size
    pixels = np.arange(width * height * 3, dtype=np.uint32).reshape(height, width, 3) * 7 % 256
    image = Image.fromarray(pixels.astype(np.uint8))
    image = image.convert("L").convert("I").convert(mode) if mode == "I;16" else image.convert(mode)
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def damage(random_: random.Random, data: bytes) -> bytes:
    """The data with one to six things wrong with it."""
    damaged = bytearray(data)
    for _ in range(random_.randint(1, 6)):
        random_.choice(DAMAGES)(random_, damaged)
    return bytes(damaged)


def _change_byte(random_: random.Random, data: bytearray) -> None:
    if data:
        data[random_.randrange(len(data))] = random_.choice((0, 1, 127, 128, 255, *b'\r\n-=[{"\\'))


def _flip_bit(random_: random.Random, data: bytearray) -> None:
    if data:
        data[random_.randrange(len(data))] ^= 1 << random_.randrange(8)


def _change_number(random_: random.Random, data: bytearray) -> None:
    # Nearly all lengths stand in the first bytes of a file.
    begin = random_.randrange(min(len(data), 256) or 1)
    data[begin : begin + 4] = random_.choice(NUMBERS)


def _cut_end(random_: random.Random, data: bytearray) -> None:
    del data[random_.randint(len(data) // 2, len(data)) :]


def _cut_out(random_: random.Random, data: bytearray) -> None:
    begin = random_.randint(0, len(data))
    del data[begin : begin + random_.randint(1, 40)]


def _repeat(random_: random.Random, data: bytearray) -> None:
    begin = random_.randint(0, len(data))
    piece = data[begin : begin + random_.randint(1, 200)]
    data[begin:begin] = piece * random_.randint(1, 20)


def _insert(random_: random.Random, data: bytearray) -> None:
    begin = random_.randint(0, len(data))
    data[begin:begin] = random_.randbytes(random_.randint(1, 30))


DAMAGES: tuple[Callable[[random.Random, bytearray], None], ...] = (
    *(_change_byte, _change_byte, _flip_bit, _flip_bit),
    *(_change_number, _cut_end, _cut_out, _repeat, _insert),
)


def damaged_picture(random_: random.Random) -> bytes:
    """A picture that may still be one."""
    return damage(random_, random_.choice(pictures()))


def damaged_form(random_: random.Random) -> tuple[str, bytes]:
    """A content type, and a form with things wrong with it or with the picture in it."""
    picture = random_.choice((random_.choice(pictures()), damaged_picture(random_)))
    parts = [b'name="image"; filename="a.jpg"\r\nContent-Type: image/jpeg', picture]
    body = b"--frontier\r\nContent-Disposition: form-data; " + b"\r\n\r\n".join(parts)
    for _ in range(random_.choice((0, 1, 1, 2, 50))):
        name, _, value = random_.choice(PARAMETERS).partition("=")
        body += b'\r\n--frontier\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s' % (
            name.encode(),
            value.encode(),
        )
    body += b"\r\n--frontier--\r\n"
    body = random_.choice((body, damage(random_, body), body.replace(b"\r\n", b"\r\n" * 300)))
    return "multipart/form-data; boundary=frontier", body


def damaged_json(random_: random.Random) -> tuple[str, bytes]:
    """A content type, and JSON with things wrong with it or with the picture in it."""
    picture = random_.choice((random_.choice(pictures()), damaged_picture(random_)))
    fields: dict[str, Any] = {"image": base64.b64encode(picture).decode(), "boxes": []}
    strange: tuple[Any, ...] = (
        *(None, True, -1, 10**400, 1e308, float("nan"), "\ud800", "\0", "", {}, [], [[[]]]),
        *({"a": {"b": []}}, ["x"] * 5000, "x" * 70_000, [[0, 0, 1, float("inf")]]),
    )
    for _ in range(random_.randint(0, 3)):
        name = random_.choice(("image", "boxes", "model", "outputs", "classes", "size", "\0", "x"))
        fields[name] = random_.choice(strange)
    body = json.dumps(fields).encode()
    deep = b'{"image": ' + b"[" * random_.choice((50, 1500, 100_000))
    return "application/json", random_.choice((body, body, damage(random_, body), deep))


def hostile_request(random_: random.Random) -> bytes:
    """A request, or what should look like one."""
    if random_.random() < SHARE_OF_LARGEST:
        return request(random_.choice(largest_pictures()), query="outputs=none&max_instances=1")
    return random_.choice(REQUESTS)(random_)


def request(
    body: bytes, *, query: str = "boxes=[]", headers: tuple[str, ...] = (), path: str = ""
) -> bytes:
    """A whole request about an image."""
    lines = [
        f"POST {path or '/v1/densepose'}?{query} HTTP/1.1",
        "Host: localhost",
        f"Content-Length: {len(body)}",
        *headers,
    ]
    return "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n" + body


def _with_damaged_picture(random_: random.Random) -> bytes:
    # Some of them are still pictures, and cost what those cost; most stop before the device.
    query = "outputs=labels" if random_.random() < 1 / 32 else "boxes=[]"
    return request(damaged_picture(random_), query=query)


def _with_damaged_form(random_: random.Random) -> bytes:
    media_type, body = damaged_form(random_)
    return request(body, headers=(f"Content-Type: {media_type}",))


def _with_damaged_json(random_: random.Random) -> bytes:
    media_type, body = damaged_json(random_)
    return request(body, query="", headers=(f"Content-Type: {media_type}",))


def _with_strange_parameters(random_: random.Random) -> bytes:
    query = "&".join(random_.sample(PARAMETERS, random_.randint(1, 3)))
    return request(random_.choice(pictures()[:8]), query=query)


def _with_strange_headers(random_: random.Random) -> bytes:
    headers = tuple(random_.sample(HEADERS, random_.randint(1, 3)))
    return request(random_.choice(pictures()[:8]), headers=headers)


def _of_strange_targets(random_: random.Random) -> bytes:
    method, target = random_.choice(METHODS), random_.choice(TARGETS)
    return f"{method} {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode("latin-1")


def _too_many_headers(random_: random.Random) -> bytes:
    many = "X: y\r\n" * random_.choice((99, 200, 10_000))
    long = "X: " + "y" * random_.choice((8000, 40_000, 200_000)) + "\r\n"
    return f"GET /livez HTTP/1.1\r\nHost: localhost\r\n{random_.choice((many, long))}\r\n".encode()


def _smuggling(random_: random.Random) -> bytes:
    if random_.random() < 0.5:
        head, body = random_.choice(FRAMINGS), b"5\r\nabcde\r\n0\r\n\r\n"
    else:
        head, body = b"Transfer-Encoding: chunked", random_.choice(CHUNKS)
    start = b"POST /v1/densepose HTTP/1.1\r\nHost: localhost\r\n"
    return start + head + b"\r\n\r\n" + body + SMUGGLED


def _garbage(random_: random.Random) -> bytes:
    whole = request(random_.choice(pictures()[:8]))
    return random_.choice(
        (random_.randbytes(random_.randint(1, 3000)), damage(random_, whole[:200]))
    )


def _too_large(random_: random.Random) -> bytes:
    size = random_.choice((2**25, 2**40, 10**18))
    path = random_.choice(("/v1/densepose", "/livez", "/nowhere", "/v1/models/demo/load"))
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n".encode()


REQUESTS: tuple[Callable[[random.Random], bytes], ...] = (
    *(_with_damaged_picture,) * 8,
    *(_with_damaged_form,) * 4,
    *(_with_damaged_json,) * 4,
    *(_with_strange_parameters, _with_strange_headers, _of_strange_targets, _smuggling) * 2,
    *(_too_many_headers, _garbage, _too_large),
)
