import re

import pytest

from service.datatypes import Output, RawMap
from service.output.media import SUFFIXES
from service.output.presets import BACKGROUNDS, PEOPLE, PRESETS, Drawing

OF_CHARTS = {
    *(Output.IUV, Output.UV, Output.LABELS, Output.MASK, Output.CONFIDENCE),
    *RawMap,
}
OF_CSE = {Output.MASK, Output.VERTEX_COLOURS, Output.EMBEDDING}


def test_every_picture_of_the_contract_is_a_row():
    contract = """
        iuv iuv-dp1 labels instances viton magicanimate segm u v boxes texture vertices
        leffa-viton leffa-pose leffa-dresscode fs-vid2vid cvton
        labels-npy uv-npz uv-npy coco-json dump-npz"""
    assert set(PRESETS) == set(contract.split())


@pytest.mark.parametrize("preset", PRESETS.values(), ids=lambda preset: preset.name)
def test_a_row_is_documented_and_consistent(preset):
    assert preset.description
    assert preset.tools
    assert preset.source
    assert re.fullmatch("[a-z0-9-]+", preset.name)
    assert preset.media_type in SUFFIXES
    assert all(tool.people in PEOPLE for tool in preset.tools)
    assert preset.background is None or preset.background in BACKGROUNDS
    assert set(preset.needs) <= {"chart", "cse"}
    assert preset.needs.get("chart", frozenset()) <= OF_CHARTS
    assert preset.needs.get("cse", frozenset()) <= OF_CSE
    assert (preset.palette is not None) == (preset.drawing is Drawing.PALETTE)
    assert bool(preset.channels) == preset.has_samples


@pytest.mark.parametrize("name", ["viton", "magicanimate", "segm", "cvton", "labels"])
def test_pictures_of_labels_cost_no_u_and_v(name):
    assert PRESETS[name].needs["chart"] == {Output.LABELS}
