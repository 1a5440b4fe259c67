"""What answers cost, measured in processes of their own."""

from dataclasses import replace

import pytest

from load_tests.costly_answers import (
    MAX_CPU_S,
    MAX_UNCOUNTED_BYTES,
    Case,
    all_cases,
    is_answered,
    measure,
    processes_apart,
)
from service.output.media import COCO, JSON, NPZ, PNG, ZIP
from service.output.presets import PRESETS

CHART = ("model", "R_50_FPN_WC2M_s1x")
# The worst that the search finds, and one of each form.
CASES = {
    "png of 16 bits": Case(PNG, False, (CHART, ("outputs", "iuv16")), "noise", 3),
    "png of 8 bits": Case(PNG, False, (CHART, ("outputs", "iuv")), "few", 3),
    "gzip": Case(JSON, True, (CHART, ("outputs", "iuv16")), "noise", 3),
    "floats in gzip": Case(JSON, True, (CHART, ("outputs", "uv")), "noise", 3),
    "floats in a zip": Case(ZIP, False, (CHART, ("outputs", "uv")), "noise", 3),
    "arrays": Case(NPZ, False, (CHART, ("outputs", "confidence")), "noise", 3),
    "dump": Case(NPZ, False, (CHART, ("render", "dump-npz")), "noise", 3),
    "coco": Case(COCO, False, (CHART, ("render", "coco-json")), "noise", 3),
    "a transparent render": Case(
        PNG, False, (CHART, ("render", "segm"), ("background", "transparent")), "noise", 3
    ),
}
# Pictures of 40 million pixels that have to be answered whatever they show.
LARGE = {
    "iuv": (CHART, ("outputs", "iuv")),
    "iuv16": (CHART, ("outputs", "iuv16")),
    "transparent": (CHART, ("render", "segm"), ("background", "transparent")),
}


@pytest.fixture(scope="module")
def processes():
    with processes_apart() as pool:
        yield pool


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_an_answer_costs_no_more_time_and_memory_than_is_said(processes, case):
    cost = processes.apply(measure, (case,))
    assert cost.uncounted_bytes <= MAX_UNCOUNTED_BYTES
    assert cost.rate <= MAX_CPU_S


@pytest.mark.slow
@pytest.mark.parametrize("content", ["noise", "few", "nothing"])
@pytest.mark.parametrize("wishes", LARGE.values(), ids=LARGE)
def test_the_largest_picture_is_answered_within_its_memory(processes, wishes, content):
    cost = processes.apply(measure, (Case(PNG, False, wishes, content, 40),))
    assert cost is not None
    assert cost.uncounted_bytes <= MAX_UNCOUNTED_BYTES
    assert cost.rate <= MAX_CPU_S


def test_the_search_has_every_output_and_every_render():
    asked = [dict(case.wishes) for case in all_cases(1) if is_answered(replace(case))]
    assert {"iuv", "iuv16", "uv", "confidence", "texture", "embedding", "vertices"} <= {
        wishes.get("outputs") for wishes in asked
    }
    # One needs an atlas.
    assert {wishes["render"] for wishes in asked if "render" in wishes} == {*PRESETS} - {"texture"}
