"""Reading a request's body: within its limits, in time, and without a second copy."""

import asyncio
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.types import Receive

from service.errors import BodyTooLarge, ClientLeft, MalformedRequest, SlowUpload


def declared_length(headers: Headers) -> int | None:
    """The body's length as its headers tell it; None where they leave it open.

    Raises:
        MalformedRequest: what they tell is not a number.
    """
    text = headers.get("content-length")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise MalformedRequest("Content-Length is not a number of bytes.")
    return int(text)


async def read_body(
    receive: Receive,
    length: int | None,
    *,
    max_bytes: int,
    timeout_s: float,
    hold: Callable[[int], None],
) -> bytearray:
    """The whole body; nothing of one that is too long is kept.

    `hold` is told the bytes to be stored before they are, and may refuse them.

    Raises:
        BodyTooLarge: at once where the length is declared, else when it has gone too far.
        SlowUpload: it did not arrive in time.
        ClientLeft: the connection was closed in the middle.
        MalformedRequest: it is not as long as declared.
    """
    if length is not None and length > max_bytes:
        raise too_large(max_bytes)
    try:
        async with asyncio.timeout(timeout_s):
            body = await _read_pieces(receive, max_bytes, hold)
    except TimeoutError:
        raise SlowUpload(
            f"The body did not arrive within {timeout_s:g} s: send a smaller image."
        ) from None
    if length is not None and len(body) != length:
        raise MalformedRequest("The body is not as long as Content-Length says.")
    return body


def too_large(max_bytes: int) -> BodyTooLarge:
    """The error for a body that is longer than this."""
    return BodyTooLarge(f"The body may have {max_bytes} bytes: send a smaller image.")


async def _read_pieces(receive: Receive, max_bytes: int, hold: Callable[[int], None]) -> bytearray:
    # Nothing is kept free for what is only announced: a few who send no more would have it all.
    body = bytearray()
    is_more = True
    while is_more:
        chunk, is_more = await _next_chunk(receive)
        if len(body) + len(chunk) > max_bytes:
            raise too_large(max_bytes)
        hold(len(body) + len(chunk))
        body += chunk
    return body


async def _next_chunk(receive: Receive) -> tuple[bytes, bool]:
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientLeft("The client left during the upload.")
    return message.get("body", b""), message.get("more_body", False)
