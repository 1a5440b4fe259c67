from dataclasses import replace

import numpy as np
import pytest

from service.datatypes import Map
from service.output.figures import Figure, choose_figures
from tests.unit.output.scenes import BOXES, make_instance, make_prediction

INSTANCES = make_prediction().instances


@pytest.mark.parametrize(
    ("people", "numbers"),
    [("all", [1, 2, 3, 4]), ("best", [1]), ("largest", [1]), (2, [3]), (99, [])],
)
def test_people_are_chosen_and_keep_their_numbers(people, numbers):
    figures = choose_figures(INSTANCES, people, is_best_on_top=False)
    assert [figure.number for figure in figures] == numbers


def test_the_largest_has_the_largest_box_wherever_it_stands():
    figures = choose_figures(INSTANCES[::-1], "largest", is_best_on_top=False)
    assert [figure.instance.box_xyxy for figure in figures] == [BOXES[0]]


def test_the_best_is_the_one_that_scores_most_wherever_it_stands():
    figures = choose_figures(INSTANCES[::-1], "best", is_best_on_top=False)
    assert [figure.instance.score for figure in figures] == [0.9]


def test_of_equal_ones_the_first_is_the_best():
    given = [replace(instance, score=1.0) for instance in INSTANCES]
    assert choose_figures(given, "best", is_best_on_top=False)[0].number == 1


def test_the_best_on_top_is_painted_last():
    figures = choose_figures(INSTANCES, "all", is_best_on_top=True)
    assert [figure.number for figure in figures] == [4, 3, 2, 1]


@pytest.mark.parametrize("people", ["all", "best", "largest", 0])
def test_where_nobody_is_nobody_is_chosen(people):
    assert choose_figures((), people, is_best_on_top=False) == []


@pytest.mark.parametrize("kept", ["mask", "labels", "iuv"])
def test_labels_or_a_mask_tell_what_is_body(kept):
    whole = make_instance(BOXES[0], 1)
    figure = Figure(1, replace(whole, maps={kept: whole.maps[kept]}))
    assert np.array_equal(figure.mask(), whole.maps["mask"].samples)


def test_channels_are_those_of_the_maps():
    figure = Figure(3, make_instance(BOXES[0], 1))
    maps = figure.instance.maps
    for index, name in enumerate("IUV"):
        assert np.array_equal(figure.channel(name), maps["iuv"].samples[..., index])
    labels = maps["labels"].samples
    assert np.array_equal(figure.channel("255 I / 24"), (labels * 10.625).astype(np.uint8))
    assert (figure.channel("instance") == 3).all()
    with pytest.raises(ValueError, match="W"):
        figure.channel("W")


def test_u_and_v_are_stretched_by_one_range():
    uv = np.array([[[-0.25, 0.0]], [[0.25, -0.25]]], np.float32)
    whole = make_instance((0.0, 0.0, 2.0, 1.0), 1)
    figure = Figure(1, replace(whole, maps={"raw_uv": Map(uv)}))
    assert figure.channel("U stretched").tolist() == [[0, 127]]
    assert figure.channel("V stretched").tolist() == [[255, 0]]
    flat = Figure(1, replace(whole, maps={"raw_uv": Map(np.full((2, 1, 2), 0.5, np.float32))}))
    assert not flat.channel("U stretched").any()
