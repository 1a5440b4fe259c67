import json
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import InvalidParameter
from service.pipeline.parameters import Parameters, check_parameters


def test_without_any_parameter_the_defaults_are_those_of_the_contract():
    parameters = check_parameters([])
    assert parameters.model is None
    assert (parameters.min_score, parameters.max_instances) == (0.5, 20)
    assert parameters.outputs is None
    assert parameters.boxes is None
    assert parameters.layout == "instance"


@pytest.mark.parametrize(
    ("name", "text", "native"),
    [
        ("min_score", "0.25", 0.25),
        ("max_instances", "7", 7),
        ("short_side", "640", 640),
        ("timeout_ms", "1500", 1500),
        ("outputs", "iuv, mask", ["iuv", "mask"]),
        ("outputs", '["iuv", "mask"]', ["iuv", "mask"]),
        ("outputs", "none", ["none"]),
        ("boxes", "[[1, 2.5, 3, 4]]", [[1, 2.5, 3, 4]]),
        ("boxes", "[]", []),
        ("classes", "cat,dog", ["cat", "dog"]),
        ("classes", '["cat", 3]', ["cat", 3]),
        ("model", "demo", "demo"),
        ("mesh", "smpl_27554", "smpl_27554"),
        ("layout", "image", "image"),
        ("box_expand", "0.25", 0.25),
        ("points", "[[1, 2.5]]", [[1, 2.5]]),
        ("parts", "24, sides", ["24", "sides"]),
        ("alpha", "0.5", 0.5),
        ("people", "3", 3),
        ("people", "largest", "largest"),
        ("image_id", "785", 785),
    ],
)
def test_text_and_native_values_mean_the_same(name, text, native):
    from_text, from_json = check_parameters([(name, text)]), check_parameters([(name, native)])
    assert from_text == from_json
    assert from_text.model_fields_set == {name}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("min_score", "nan"),
        ("min_score", "inf"),
        ("min_score", float("nan")),
        ("min_score", "-0.01"),
        ("min_score", 1.01),
        ("min_score", ""),
        ("min_score", "high"),
        ("min_score", True),
        ("min_score", [0.5]),
        ("max_instances", 0),
        ("max_instances", 101),
        ("max_instances", "1.5"),
        ("max_instances", False),
        ("max_instances", "9" * 5000),
        ("short_side", 127),
        ("short_side", 1334),
        ("short_side", 10**400),
        ("timeout_ms", 0),
        ("timeout_ms", -1),
        ("timeout_ms", "soon"),
        ("outputs", ""),
        ("outputs", []),
        ("outputs", "iuv,"),
        ("outputs", "iuv,depth"),
        ("outputs", {"iuv": True}),
        ("outputs", ["iuv"] * 1000),
        ("outputs", "iuv," * 1000),
        ("boxes", "1,2,3,4"),
        ("boxes", "[[1,2,3]]"),
        ("boxes", "[[1,2,3,4,5]]"),
        ("boxes", "[1,2,3,4]"),
        ("boxes", "[[1,2,3,NaN]]"),
        ("boxes", "[[1,2,3,1e999]]"),
        ("boxes", [[1, 2, 3, float("inf")]]),
        ("boxes", "[[3,2,1,4]]"),
        ("boxes", "[[1,4,3,4]]"),
        ("boxes", [[0, 0, True, 4]]),
        ("boxes", [[0, 0, None, 4]]),
        ("boxes", [[0, 0, 1, 1]] * 101),
        ("boxes", "[" * 10_000),
        ("boxes", "[[0,0,1,1]," * 10_000),
        ("classes", [True]),
        ("classes", [1.5]),
        ("classes", ["a" * 300]),
        ("classes", [0] * 101),
        ("classes", "0," * 100_000),
        ("model", 5),
        ("model", "m" * 300),
        ("model", "\ud800"),
        ("mesh", ["smpl_27554"]),
        ("layout", "mosaic"),
        ("box_expand", -0.1),
        ("box_expand", "nan"),
        ("box_expand", 2.5),
        ("points", [[1, 2]] * 1001),
        ("points", "[[1, NaN]]"),
        ("points", "[[1, 2, 3]]"),
        ("points", "[1, 2]"),
        ("parts", "25"),
        ("parts", ""),
        ("render", "picasso"),
        ("render", ["viton"]),
        ("palette", "sepia"),
        ("alpha", 1.5),
        ("alpha", "nan"),
        ("background", "#12345"),
        ("background", "blue"),
        ("paint", "worst-on-top"),
        ("people", -1),
        ("people", 100),
        ("people", True),
        ("people", "nobody"),
        ("size", "0x0"),
        ("size", "0x10"),
        ("size", "4097x10"),
        ("size", "10"),
        ("size", "-3x5"),
        ("size", [768, 1024]),
        ("image_id", -1),
        ("image_id", 1.5),
        ("layout", None),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_the_parameters_name(name, value):
    with pytest.raises(InvalidParameter) as caught:
        check_parameters([(name, value)])
    detail = str(caught.value)
    assert name in detail
    assert len(detail) < 500
    assert "\n" not in detail


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("outputs", "", "outputs: should not be empty."),
        ("outputs", [], "outputs: should not be empty."),
        ("outputs", {"iuv": True}, "outputs: should be a list."),
        ("outputs", ["iuv"] * 23, "outputs: should have 22 items at most."),
        ("parts", "", "parts: should not be empty."),
        ("parts", "25", "parts[0]: should be one of 24, 14, sides, limbs."),
        ("classes", ["cat", 1.5], "classes[1]: should be a class, by its id or name."),
        ("classes", ["a" * 201], "classes[0]: should be a class, by its id or name."),
        ("boxes", "5", "boxes: should be a list."),
        ("boxes", "[[1,2,3]]", "boxes[0][3]: is missing."),
        ("boxes", "[[1,2,3,4,5]]", "boxes[0]: should have 4 items at most."),
        ("boxes", '[[1,2,3,"4_0"]]', "boxes[0][3]: should be a number."),
        ("boxes", [[1, 2, None, 4]], "boxes[0][2]: should be a number."),
        ("points", "[[1, NaN]]", "points[0][1]: should be a finite number."),
        ("min_score", "high", "min_score: should be a number."),
        ("min_score", True, "min_score: should be a number."),
        ("min_score", "1.5", "min_score: should be at most 1."),
        ("box_expand", -1, "box_expand: should be at least 0."),
        ("max_instances", "1.5", "max_instances: should be a whole number."),
        ("max_instances", 1.5, "max_instances: should be a whole number."),
        ("max_instances", "9" * 5000, "max_instances: has too many digits."),
        ("short_side", "100", "short_side: should be at least 128."),
        ("model", 5, "model: should be text."),
        ("model", "m" * 201, "model: should have 200 characters at most."),
        ("model", "\ud800", "model: should be text in valid Unicode."),
        ("layout", "mosaic", "layout: should be 'instance' or 'image'."),
        ("palette", "sepia", "palette: should be 'parula', 'viridis', 'jet', 'turbo' or 'cvton'."),
        ("people", 100, "people: should be one of all, best, largest, or an index of 0 to 99."),
    ],
)
def test_what_is_wrong_is_said_in_plain_words(name, value, words):
    with pytest.raises(InvalidParameter, match=f"^{re.escape(words)}$"):
        check_parameters([(name, value)])


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.sampled_from(["a" * 201])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)
OF_PYTHON = re.compile(
    r"tuple|integer|string|float|bool|\bint\b|input|valid (?!Unicode)|validat|pars|literal",
    re.IGNORECASE,
)


@given(name=st.sampled_from(list(Parameters.model_fields)), value=VALUES)
@settings(max_examples=1000, deadline=None, derandomize=True)
def test_whatever_is_wrong_is_said_without_words_of_python(name, value):
    said = ""
    try:
        check_parameters([(name, value)])
    except InvalidParameter as refusal:
        said = str(refusal)
    assert not OF_PYTHON.search(said), said


@pytest.mark.parametrize(
    "text", ["1_0", "+5", "\u0665", "\uff15", "0x5", "5.0", "5e0", "1 0", "--5", "\u00a05", "5\x1f"]
)
def test_a_whole_number_is_written_in_decimal_digits(text):
    for name in ("max_instances", "timeout_ms", "image_id"):
        with pytest.raises(InvalidParameter, match=f"{name}: should be a whole number"):
            check_parameters([(name, text)])


@pytest.mark.parametrize(
    "text", ["0_1", "+0.5", "\u0660.5", "0x1", ".", "e-1", "1e", "0,5", "nan", "-inf", "\u20090.5"]
)
def test_a_number_is_written_in_decimals(text):
    for name in ("min_score", "alpha", "box_expand"):
        with pytest.raises(InvalidParameter, match=f"{name}: should be a number"):
            check_parameters([(name, text)])


@pytest.mark.parametrize(
    ("text", "number"),
    [("0.5", 0.5), (".5", 0.5), ("1.", 1), ("5e-1", 0.5), ("-0", 0), ("0.5\r\n", 0.5)],
)
def test_a_number_may_be_written_as_a_form_or_a_program_does(text, number):
    assert check_parameters([("min_score", text)]).min_score == number


def test_long_text_that_is_no_number_is_refused_quickly():
    begin_s = time.process_time()
    for text in ("1" * 65_000 + "x", "1." + "1" * 65_000 + "x", "." * 65_000, "1e" * 32_000):
        with pytest.raises(InvalidParameter):
            check_parameters([("min_score", text)])
    assert time.process_time() - begin_s < 0.5


def test_the_box_that_is_wrong_is_named_by_its_index():
    with pytest.raises(InvalidParameter, match=r"boxes\[1\]"):
        check_parameters([("boxes", [[0, 0, 1, 1], [5, 0, 1, 1]])])


@pytest.mark.parametrize("name", ["confidence", "image", "", "Model", "model ", "fo\ud800o", "é"])
def test_an_unknown_parameter_is_refused_with_those_that_there_are(name):
    with pytest.raises(InvalidParameter, match="min_score") as caught:
        check_parameters([(name, "1")])
    assert json.loads(json.dumps(str(caught.value))).isascii()


def test_a_parameter_that_is_given_twice_with_different_values_is_refused():
    with pytest.raises(InvalidParameter, match="model is given twice"):
        check_parameters([("model", "demo"), ("min_score", "0.5"), ("model", "other")])
    with pytest.raises(InvalidParameter, match="comma list"):
        check_parameters([("outputs", "iuv"), ("outputs", "mask")])
    with pytest.raises(InvalidParameter, match="min_score"):
        check_parameters([("min_score", "0.5"), ("min_score", "half")])


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("model", "demo", "demo"),
        ("min_score", "0.50", 0.5),
        ("outputs", "iuv,mask", ["iuv", "mask"]),
        ("boxes", "[[1, 2, 3, 4]]", [[1, 2, 3, 4]]),
        ("size", "30x20", "30x20"),
    ],
)
def test_a_parameter_may_be_given_twice_with_one_value(name, first, second):
    assert check_parameters([(name, first), (name, second)]) == check_parameters([(name, first)])


def test_a_default_in_one_place_gives_way_to_a_value_in_the_other():
    defaults = [("min_score", "0.5"), ("layout", "instance"), ("people", "all")]
    wishes = [("min_score", 0.9), ("layout", "image")]
    for parameters in (check_parameters(defaults, wishes), check_parameters(wishes, defaults)):
        assert (parameters.min_score, parameters.layout) == (0.9, "image")
        assert parameters.people == "all"


def test_different_values_in_two_places_are_refused():
    with pytest.raises(InvalidParameter, match="min_score is given twice"):
        check_parameters([("min_score", "0.4")], [("min_score", 0.9)])
    with pytest.raises(InvalidParameter, match="comma list"):
        check_parameters([("outputs", "iuv")], [("outputs", ["mask"])])
    with pytest.raises(InvalidParameter, match="min_score is given twice"):
        check_parameters([("min_score", "0.5"), ("min_score", "0.9")])
    same = check_parameters([("outputs", "iuv,mask")], [("outputs", ["iuv", "mask"])])
    assert same.outputs == ("iuv", "mask")


def test_what_has_its_default_was_not_asked_for():
    given = check_parameters([("people", "all"), ("image_id", "0"), ("paint", "best-on-top")])
    assert [name for name in Parameters.model_fields if given.has(name)] == ["paint"]
