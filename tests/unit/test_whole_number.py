import pytest

from service.whole_number import positive, whole_number


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("10", 10), ("-3", -3), ("0800", 800)])
def test_decimal_digits_are_a_number(text, number):
    assert whole_number(text) == number


@pytest.mark.parametrize(
    "text", ["", "-", "1_0", "+5", " 5", "5 ", "5\n", "5.0", "\u0665", "9" * 13]
)
def test_what_only_python_reads_as_a_number_is_none(text):
    with pytest.raises(ValueError, match="is not a whole number"):
        whole_number(text)


@pytest.mark.parametrize("text", ["0", "-1", "1_0"])
def test_what_is_not_positive_is_refused(text):
    with pytest.raises(ValueError, match="is "):
        positive(text)
