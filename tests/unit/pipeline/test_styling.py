import pytest

from service.errors import InvalidParameter
from service.output.palettes import Palette
from service.output.presets import PRESETS
from service.pipeline.parameters import check_parameters
from service.pipeline.styling import REFINEMENTS, style_for

VALUES = {
    "palette": "jet",
    "alpha": 0.25,
    "background": "black",
    "paint": "best-on-top",
    "people": "largest",
    "size": "30x20",
    "image_id": 7,
}


def style(*, has_atlas=False, **given):
    return style_for(check_parameters(given.items()), has_atlas=has_atlas)


def test_without_a_render_there_is_no_style():
    assert style() is None


@pytest.mark.parametrize("name", VALUES)
def test_a_refinement_without_a_render_is_refused(name):
    with pytest.raises(InvalidParameter, match=f"{name}: it goes with 'render'"):
        style(**{name: VALUES[name]})


DEFAULTS = {"paint": "later-on-top", "people": "all", "image_id": 0}


def test_a_default_needs_no_render_and_means_nothing_wrong_to_any():
    assert style(**DEFAULTS) is None
    for name in PRESETS:
        alone = style(render=name, has_atlas=name == "texture")
        assert style(render=name, has_atlas=name == "texture", **DEFAULTS) == alone


def test_what_is_not_asked_for_is_the_preset_s():
    chosen = style(render="magicanimate")
    assert (chosen.palette, chosen.alpha, chosen.background) == (Palette.VIRIDIS, 1.0, "palette")
    assert (chosen.people, chosen.is_best_on_top, chosen.size_wh) == ("all", False, None)
    assert style(render="leffa-pose").people == "all"


def test_what_is_asked_for_is_taken():
    given = {name: value for name, value in VALUES.items() if name != "image_id"}
    chosen = style(render="viton", **given)
    assert (chosen.palette, chosen.alpha, chosen.background) == (Palette.JET, 0.25, "black")
    assert (chosen.people, chosen.is_best_on_top, chosen.size_wh) == ("largest", True, (30, 20))
    assert style(render="viton", alpha=0).alpha == 0
    assert style(render="viton", people=0).people == 0
    assert style(render="coco-json", image_id=7).image_id == 7


@pytest.mark.parametrize("preset", PRESETS.values(), ids=lambda preset: preset.name)
def test_a_preset_takes_what_means_something_to_it_and_refuses_the_rest(preset):
    means = {
        "palette": preset.palette is not None,
        "alpha": preset.alpha is not None,
        "background": preset.background is not None,
        "paint": preset.has_samples,
        "people": True,
        "size": preset.has_samples,
        "image_id": preset.name == "coco-json",
    }
    assert means.keys() == REFINEMENTS
    for name, does in means.items():
        given = {"render": preset.name, "has_atlas": preset.name == "texture", name: VALUES[name]}
        if does:
            assert style(**given)
        else:
            with pytest.raises(InvalidParameter, match=f"{name}: it means nothing to"):
                style(**given)


def test_a_background_of_the_palette_needs_a_palette():
    with pytest.raises(InvalidParameter, match="palette"):
        style(render="boxes", background="palette")


def test_the_atlas_goes_with_the_texture_and_it_alone():
    with pytest.raises(InvalidParameter, match="atlas"):
        style(render="texture")
    with pytest.raises(InvalidParameter, match="atlas"):
        style(render="viton", has_atlas=True)
    with pytest.raises(InvalidParameter, match="atlas: it goes with 'render'"):
        style(has_atlas=True)
    assert style(render="texture", has_atlas=True).alpha == 1.0
