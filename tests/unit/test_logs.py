import json
import logging
import sys

import pytest

from service.logs import JsonFormatter, TextFormatter, configure_logging


def record_with(fields, message="request", exc_info=None):
    record = logging.LogRecord("service.test", logging.INFO, "", 0, message, (), exc_info)
    record.fields = fields
    return record


def test_a_json_line_is_one_object_with_the_fields_in_it():
    line = JsonFormatter().format(record_with({"status": 200, "path": "/a\nb", "model": None}))
    assert "\n" not in line
    event = json.loads(line)
    assert event["message"] == "request"
    assert event["level"] == "info"
    assert (event["status"], event["path"]) == (200, "/a\nb")
    assert "model" not in event


def test_a_traceback_stays_in_its_line():
    try:
        raise ValueError("why")
    except ValueError:
        line = JsonFormatter().format(record_with({}, exc_info=sys.exc_info()))
    assert "\n" not in line
    assert "ValueError: why" in json.loads(line)["traceback"]


def test_a_client_cannot_begin_a_line_of_the_text_log():
    text = TextFormatter().format(
        record_with({"path": "/x\n12:00:00 INFO    forged", "timing_ms": {"total": 1.5}})
    )
    assert "\n" not in text
    assert "timing_ms=total:1.5" in text


def test_words_from_outside_do_nothing_to_a_terminal():
    text = TextFormatter().format(record_with({}, message="a card says \x1b[31mred\nand more"))
    assert text.endswith(r"a card says \x1b[31mred\nand more")
    assert text.isprintable()


@pytest.fixture
def root_logger():
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield root
    root.handlers[:] = handlers
    root.setLevel(level)


def test_what_is_below_the_level_is_not_logged(root_logger, capsys):
    configure_logging(level="warning", log_format="json")
    logging.getLogger("service.test").info("quiet")
    logging.getLogger("service.test").warning("loud")
    lines = capsys.readouterr().err.splitlines()
    assert [json.loads(line)["message"] for line in lines] == ["loud"]
