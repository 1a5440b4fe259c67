import pytest

from model_store.errors import ModelStoreError, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain words, é and 猫", "plain words, é and 猫"),
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("one\nline\r\x07\x00", r"one\nline\r\x07\x00"),
        ("\x9b31m", r"\x9b31m"),
        ("turned \u202eround", r"turned \u202eround"),
        ("no text \udc80", r"no text \udc80"),
    ],
)
def test_nothing_that_is_shown_acts_on_a_terminal(text: str, shown: str):
    assert printable(text) == shown
    assert str(ModelStoreError(text)) == shown
