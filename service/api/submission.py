"""A request's body, in any of its forms, to the image's bytes and the parameters beside it."""

import binascii
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import pybase64
from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers

from service.api.bounded_json import RepeatedNameError, parse_json
from service.api.multipart import split_parts
from service.errors import InvalidParameter, MalformedRequest, UnsupportedMediaType

MAX_FIELD_BYTES = 64 * 1024
NO_IMAGE = "There is no image in the body: "


@dataclass(frozen=True, slots=True)
class Submission:
    """The encoded image, and the parameters that came in the body: text, or values of JSON."""

    image: bytes | bytearray | memoryview
    parameters: tuple[tuple[str, Any], ...] = ()


Parser: TypeAlias = Callable[[bytearray], Submission]


def parser_for(headers: Headers) -> Parser:
    """What reads a body of the announced type.

    Raises:
        UnsupportedMediaType: the type or the content encoding is none that is read here.
        MalformedRequest: a multipart type without its boundary.
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
            if not boundary:
                raise MalformedRequest("The multipart Content-Type has no boundary.")
            return lambda body: _parse_multipart(body, boundary)
    raise UnsupportedMediaType(
        "Send the image as the raw body (Content-Type: image/jpeg, or any other image/*, or "
        "application/octet-stream), as the part 'image' of multipart/form-data, or as base64 in "
        "the field 'image' of application/json."
    )


def _parse_raw(body: bytearray) -> Submission:
    if not body:
        raise MalformedRequest(NO_IMAGE + "it is empty.")
    return Submission(body)


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
    if image.startswith("data:"):
        raise MalformedRequest("The field 'image' should be base64 alone, without 'data:...,'.")
    try:
        data = pybase64.b64decode(image, validate=True)
    except (binascii.Error, ValueError):
        raise MalformedRequest("The field 'image' is not valid base64.") from None
    return Submission(data, tuple(fields.items()))


def _parse_multipart(body: bytearray, boundary: bytes) -> Submission:
    images = []
    parameters = []
    for part in split_parts(body, boundary):
        if part.name == "image":
            images.append(part.data)
        elif len(part.data) > MAX_FIELD_BYTES:
            raise MalformedRequest(f"The part {part.name!a:.80} is too long.")
        else:
            parameters.append((part.name, str(part.data, "utf-8", "replace")))
    if len(images) > 1:
        raise InvalidParameter("'image' is given twice.")
    if not images or not images[0]:
        raise MalformedRequest(NO_IMAGE + "it should be the part 'image'.")
    return Submission(images[0], tuple(parameters))
