import pytest

from service.output.parts import COARSE_NAMES, GROUPS, PARTS

LEFT = {4, 5, 8, 10, 12, 14, 15, 17, 19, 21, 24}
RIGHT = {3, 6, 7, 9, 11, 13, 16, 18, 20, 22, 23}
# densepose/structures/transform_data.py: POINT_LABEL_SYMMETRIES, MASK_LABEL_SYMMETRIES
MIRRORS = [1, 2, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15, 18, 17, 20, 19, 22, 21, 24, 23]
COARSE_MIRRORS = [0, 1, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 14]


def test_the_charts_are_numbered_in_their_order():
    assert [part.number for part in PARTS] == list(range(1, 25))
    assert len({part.name for part in PARTS}) == 24


def test_sides_are_the_person_s_own():
    assert {part.number for part in PARTS if part.side == "left"} == LEFT
    assert {part.number for part in PARTS if part.side == "right"} == RIGHT
    for part in PARTS:
        assert part.side is None or part.side in part.name


@pytest.mark.parametrize(
    ("number", "name"), [(5, "left foot"), (6, "right foot"), (3, "right hand")]
)
def test_hands_and_feet_are_those_of_the_surface_s_vertices(number, name):
    assert PARTS[number - 1].name == name


def test_mirrored_charts_are_detectron2_s():
    assert [part.mirror for part in PARTS] == MIRRORS
    for part in PARTS:
        assert COARSE_MIRRORS[part.coarse] == PARTS[part.mirror - 1].coarse
        assert PARTS[part.mirror - 1].limb == part.limb


@pytest.mark.parametrize("grouping", ["24", "14", "limbs"])
def test_every_chart_is_in_one_group(grouping):
    charts = [chart for group in GROUPS[grouping].values() for chart in group]
    assert sorted(charts) == list(range(1, 25))


def test_the_torso_is_on_neither_side():
    assert set(GROUPS["sides"]["left"]) == LEFT
    assert set(GROUPS["sides"]["right"]) == RIGHT


def test_there_are_fourteen_coarse_parts_with_the_sides_of_their_charts():
    assert len(GROUPS["14"]) == len(COARSE_NAMES) == 14
    for name, charts in GROUPS["14"].items():
        for chart in charts:
            side = PARTS[chart - 1].side
            assert name in {"torso", "head"} or name.startswith(str(side))
