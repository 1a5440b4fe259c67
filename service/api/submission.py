"""A request's body, in any of its forms, to the image's bytes and the parameters beside it."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import pybase64
from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers

from service.api.multipart import split_parts
from service.errors import InvalidParameter, MalformedRequest, UnsupportedMediaType
from service.pipeline.bounded_json import RepeatedNameError, parse_json
from service.pipeline.preparation import Pictures

MAX_FIELD_BYTES = 64 * 1024
# With others, a carriage return for one, a body can take the parser seconds. RFC 2046, 5.1.1
BOUNDARY = re.compile(rb"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
# What browsers put before base64. RFC 2397; the media type is for the bytes to tell.
DATA_URL = re.compile(r"\s*data:[^,]*;base64", re.IGNORECASE)
MAX_DATA_URL_HEAD = 256
# RFC 4648, section 5, to section 4.
STANDARD_ALPHABET = bytes.maketrans(b"-_", b"+/")
WHITE_SPACE = b" \t\r\n\f\v"
NO_IMAGE = "There is no image in the body: "


@dataclass(frozen=True, slots=True)
class Submission:
    """What came in the body: encoded pictures, and parameters as text or as values of JSON."""

    pictures: Pictures
    parameters: tuple[tuple[str, Any], ...] = ()


Parser: TypeAlias = Callable[[bytearray], Submission]


def parser_for(headers: Headers) -> Parser:
    """What reads a body of the announced type.

    Raises:
        UnsupportedMediaType: the type or the content encoding is none that is read here.
        MalformedRequest: a multipart type without a boundary as it should be.
    """
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise UnsupportedMediaType("A body with a Content-Encoding is not read: send it as it is.")
    media_type, options = parse_options_header(headers.get("content-type"))
    match media_type.split(b"/"):
        case [b""] | [b"image", _] | [b"application", b"octet-stream"]:
            return _parse_raw
        case [b"application", b"json"]:
            return _parse_json
        case [b"multipart", b"form-data"]:
            boundary = options.get(b"boundary")
            if not boundary or not BOUNDARY.fullmatch(boundary):
                raise MalformedRequest(
                    "The multipart Content-Type has no boundary, or no valid one."
                )
            return lambda body: _parse_multipart(body, boundary)
    raise UnsupportedMediaType(
        "Send the image as the raw body (Content-Type: image/jpeg, or any other image/*, or "
        "application/octet-stream), as the part 'image' of multipart/form-data, or as base64 in "
        "the field 'image' of application/json."
    )


def _parse_raw(body: bytearray) -> Submission:
    if not body:
        raise MalformedRequest(NO_IMAGE + "it is empty.")
    return Submission(Pictures(body))


def _parse_json(body: bytearray) -> Submission:
    try:
        fields = parse_json(body)
    except RepeatedNameError as error:
        raise InvalidParameter(f"{str(error)!a:.80} is given twice.") from None
    except ValueError:
        raise MalformedRequest("The body is not valid JSON, or has too many values.") from None
    if not isinstance(fields, dict):
        raise MalformedRequest("The JSON body is not an object.")
    image = fields.pop("image", None)
    if not isinstance(image, str) or not image:
        raise MalformedRequest(NO_IMAGE + "its field 'image' should be the image in base64.")
    atlas = _decode_base64("atlas", fields.pop("atlas")) if "atlas" in fields else None
    return Submission(Pictures(_decode_base64("image", image), atlas), tuple(fields.items()))


def _decode_base64(name: str, text: Any) -> bytes:
    if not isinstance(text, str):
        raise MalformedRequest(f"The field '{name}' should be a picture in base64.")
    try:
        return decode_base64(text)
    except ValueError:
        raise MalformedRequest(f"The field '{name}' is not valid base64.") from None


def decode_base64(text: str) -> bytes:
    """The bytes in base64 of either alphabet, as people send it.

    It may have white space anywhere, no padding, and `data:...;base64,` before it.

    Raises:
        ValueError: it is none.
    """
    head, comma, tail = text[:MAX_DATA_URL_HEAD].partition(",")
    if comma and DATA_URL.fullmatch(head):
        text = tail + text[MAX_DATA_URL_HEAD:]
    given = text.encode("ascii").translate(STANDARD_ALPHABET, WHITE_SPACE)
    letters = given.rstrip(b"=")
    padded = letters.ljust(-(-len(letters) // 4) * 4, b"=")
    if len(given) not in {len(letters), len(padded)}:
        raise ValueError("neither padded nor without padding")
    return pybase64.b64decode(padded, validate=True)


def _parse_multipart(body: bytearray, boundary: bytes) -> Submission:
    files: dict[str, memoryview] = {}
    parameters = []
    for part in split_parts(body, boundary):
        if part.name in {"image", "atlas"}:
            if part.name in files:
                raise InvalidParameter(f"'{part.name}' is given twice.")
            # A form's choice of a file that nobody has made.
            if part.data or part.name == "image":
                files[part.name] = part.data
        elif len(part.data) > MAX_FIELD_BYTES:
            raise MalformedRequest(f"The part {part.name!a:.80} is too long.")
        elif part.data:
            # A field that nobody has filled in comes empty.
            parameters.append((part.name, str(part.data, "utf-8", "replace")))
    image = files.get("image")
    if not image:
        raise MalformedRequest(NO_IMAGE + "it should be the part 'image'.")
    return Submission(Pictures(image, files.get("atlas")), tuple(parameters))
