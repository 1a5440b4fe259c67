"""One line per event: JSON for machines, or text for a terminal."""

import json
import logging
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from model_store.errors import printable

PLAIN = re.compile(r"[\w./:+-]+")


class JsonFormatter(logging.Formatter):
    """A record as one JSON object; what was logged as `extra={"fields": {...}}` stands in it."""

    def format(self, record: logging.LogRecord) -> str:
        """The record's line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= _fields(record)
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    """A record as a line for people, with its traceback below."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # the library's name
        """The record's line, without its traceback."""
        fields = " ".join(f"{name}={_text(value)}" for name, value in _fields(record).items())
        # A line break could begin a line that nobody logged.
        return printable(f"{super().formatMessage(record)} {fields}".rstrip())


def configure_logging(*, level: str, log_format: Literal["json", "text"]) -> None:
    """Sends what this process logs to standard error, from this level up."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # It warns of every malformed body; the answer and the request's line say that already.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)


def _fields(record: logging.LogRecord) -> Mapping[str, Any]:
    fields: Mapping[str, Any] = getattr(record, "fields", {})
    return {name: value for name, value in fields.items() if value is not None}


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ",".join(f"{name}:{item}" for name, item in value.items())
    text = str(value)
    # Quoted, a line break cannot begin a line that nobody logged.
    return text if PLAIN.fullmatch(text) else json.dumps(text)
