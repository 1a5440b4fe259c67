"""The parts of a `multipart/form-data` body, found in place, without copying them."""

from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.errors import MalformedRequest

MAX_PARTS = 32
MAX_PART_HEADERS = 8
MAX_PART_HEADER_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Part:
    """One part: its name, and its bytes as a view into the body."""

    name: str
    data: memoryview


def split_parts(body: bytearray, boundary: bytes) -> list[Part]:
    """The body's parts in their order.

    Raises:
        MalformedRequest: it is not multipart, was cut off, or has too many or nameless parts.
    """
    collector = _Collector(memoryview(body))
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": collector.begin_part,
                "on_header_field": collector.take_header_name,
                "on_header_value": collector.take_header_value,
                "on_part_data": collector.take_data,
                "on_part_end": collector.end_part,
                "on_end": collector.end,
            },
            max_header_count=MAX_PART_HEADERS,
            max_header_size=MAX_PART_HEADER_BYTES,
        )
        parser.write(body)  # type: ignore[arg-type]  # any buffer with find() will do
    except FormParserError:
        raise MalformedRequest("The multipart body is not well-formed.") from None
    if not collector.has_ended:
        raise MalformedRequest("The multipart body has no end: its last boundary is missing.")
    return collector.parts


class _Collector:
    """Notes where each part lies; the parser is given the whole body in one piece."""

    def __init__(self, body: memoryview) -> None:
        self.parts: list[Part] = []
        self.has_ended = False
        self._body = body
        self._header_name = b""
        self._name: str | None = None
        self._data = body[:0]

    def begin_part(self) -> None:
        if len(self.parts) == MAX_PARTS:
            raise MalformedRequest(f"A multipart body may have {MAX_PARTS} parts.")
        self._name = None
        self._data = self._body[:0]

    def take_header_name(self, data: bytes, begin: int, end: int) -> None:
        self._header_name = bytes(data[begin:end]).lower()

    def take_header_value(self, data: bytes, begin: int, end: int) -> None:
        if self._header_name == b"content-disposition":
            options = parse_options_header(bytes(data[begin:end]))[1]
            name = options.get(b"name")
            self._name = None if name is None else name.decode("utf-8", "replace")

    def take_data(self, _data: bytes, begin: int, end: int) -> None:
        self._data = self._body[begin:end]

    def end_part(self) -> None:
        if self._name is None:
            raise MalformedRequest("A part of the multipart body has no name.")
        self.parts.append(Part(self._name, self._data))

    def end(self) -> None:
        self.has_ended = True
