"""What can be asked about an image, as a request."""

import json
import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypedDict
from urllib.parse import quote, urlencode

import numpy as np
from numpy.typing import NDArray

from service.client.exchange import Request

DENSEPOSE_PATH = "/v1/densepose"
NPZ = "application/x-npz"
# Longer queries go into a form: not every proxy takes long addresses.
MAX_QUERY_CHARACTERS = 2000
# The model stays in the query, by which a load balancer can tell models apart.
ALWAYS_IN_QUERY = ("model",)
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_TRUECOLOUR = 2

# The bytes of an image file, the path of one, or pixels: uint8 [H, W, 3], R, G, B.
Picture: TypeAlias = bytes | bytearray | memoryview | str | os.PathLike[str] | NDArray[np.uint8]


class Wishes(TypedDict, total=False):
    """The parameters of the contract; what is left out is as the server has it by default.

    `outputs`, `classes` and `parts` are comma lists or sequences; `boxes` are x0, y0, x1, y1 and
    `points` x, y, in pixels of the image; `size` is the width and height of the render; `atlas`
    is a picture for render="texture".
    """

    model: str
    min_score: float
    max_instances: int
    short_side: int
    outputs: str | Sequence[str]
    boxes: Sequence[Sequence[float]] | NDArray[Any]
    classes: str | Sequence[str | int]
    mesh: str
    box_expand: float
    layout: Literal["instance", "image"]
    points: Sequence[Sequence[float]] | NDArray[Any]
    parts: str | Sequence[str]
    render: str
    palette: str
    alpha: float
    background: str
    paint: Literal["later-on-top", "best-on-top"]
    people: str | int
    size: str | tuple[int, int]
    image_id: int
    atlas: Picture


def ask_about(image: Picture, wishes: Wishes, *, accept: str = NPZ) -> Request:
    """The request for an answer of this media type.

    Raises:
        OSError: a file cannot be read.
        ValueError, TypeError: a picture is of no kind that can be sent.
    """
    params = {name: _text(name, value) for name, value in wishes.items() if name != "atlas"}
    data = read_picture(image)
    request = Request("POST", DENSEPOSE_PATH, accept, params, data, has_timeout=True)
    if "atlas" not in wishes and len(urlencode(params)) <= MAX_QUERY_CHARACTERS:
        return request
    files = {"image": data}
    if "atlas" in wishes:
        files["atlas"] = read_picture(wishes["atlas"])
    in_query = {name: params.pop(name) for name in ALWAYS_IN_QUERY if name in params}
    return Request(
        "POST",
        DENSEPOSE_PATH,
        accept,
        in_query,
        fields=params,
        files=files,
        has_timeout=True,
    )


def change_of(name: str, what: Literal["load", "unload"]) -> Request:
    """The request to load or unload a model."""
    # Between a load and its repetition somebody may have unloaded.
    return Request("POST", f"/v1/models/{quote(name)}/{what}", is_safe=False)


def read_picture(picture: Picture) -> bytes:
    """The file of a picture: its own bytes, or a PNG of its pixels.

    Raises:
        OSError: it cannot be read.
        ValueError, TypeError: it is of no kind that can be sent.
    """
    if isinstance(picture, np.ndarray):
        return encode_rgb(picture)
    if isinstance(picture, bytes | bytearray | memoryview):
        return bytes(picture)
    return Path(picture).read_bytes()


def encode_rgb(pixels_HW3: NDArray[np.uint8]) -> bytes:
    """A PNG of uint8 [H, W, 3], R, G, B. W3C, Portable Network Graphics, third edition.

    Raises:
        ValueError: they are not such pixels.
    """
    is_rgb = pixels_HW3.ndim == 3 and pixels_HW3.shape[2] == 3 and pixels_HW3.size > 0
    if not is_rgb or pixels_HW3.dtype != np.uint8:
        raise ValueError(
            f"pixels are uint8 [H, W, 3], not {pixels_HW3.dtype} {list(pixels_HW3.shape)}"
        )
    height, width = pixels_HW3.shape[:2]
    # Before each row, its filter: none.
    rows = np.zeros((height, 1 + 3 * width), np.uint8)
    rows[:, 1:] = pixels_HW3.reshape(height, 3 * width)
    header = struct.pack(">IIBBBBB", width, height, 8, PNG_TRUECOLOUR, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 1)), (b"IEND", b""))
    return PNG_SIGNATURE + b"".join(_chunk(kind, content) for kind, content in chunks)


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(content, zlib.crc32(kind))
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def _text(name: str, value: Any) -> str:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if name == "size" and not isinstance(value, str):
        return "x".join(str(int(side)) for side in value)
    if name in {"boxes", "points"}:
        return json.dumps([[float(number) for number in one] for one in value])
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence):
        return ",".join(map(str, value))
    return str(value)
