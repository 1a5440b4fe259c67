import argparse

import pytest

from service.pipeline.parameters import Parameters
from service.predict.options import PARAMETERS, add_predict_options

# What differs from image to image, or has an option of another kind.
NOT_FOR_MANY = {"boxes", "classes", "points", "image_id", "timeout_ms"}


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="densepose predict")
    add_predict_options(parser)
    return parser


def test_all_parameters_that_make_sense_for_many_images_are_options():
    assert {name for name, _, _ in PARAMETERS} == set(Parameters.model_fields) - NOT_FOR_MANY


def test_the_help_tells_of_every_option(parser: argparse.ArgumentParser):
    text = parser.format_help()
    for name, _, _ in PARAMETERS:
        assert f"--{name.replace('_', '-')} " in text
    assert "130 interrupted" in text


@pytest.mark.parametrize("number", ["0", "-1", "many"])
def test_nothing_at_a_time_is_wrong_usage(parser: argparse.ArgumentParser, number: str):
    with pytest.raises(SystemExit) as raised:
        parser.parse_args(["x.jpg", "--concurrency", number])
    assert raised.value.code == 2
