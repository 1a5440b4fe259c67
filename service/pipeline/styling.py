"""A client's wishes for a render held against its preset."""

from service.errors import InvalidParameter
from service.output.palettes import Palette
from service.output.presets import PRESETS, Drawing, Preset, Style
from service.pipeline.parameters import Parameters

REFINEMENTS = frozenset({"palette", "alpha", "background", "paint", "people", "size", "image_id"})


def style_for(parameters: Parameters, *, has_atlas: bool) -> Style | None:
    """How the render is to be made; None where none is asked for.

    Raises:
        InvalidParameter: a wish means nothing to this preset, or there is no preset to refine.
    """
    if parameters.render is None:
        if given := _refinements(parameters, has_atlas=has_atlas):
            raise InvalidParameter(f"{given[0]}: it goes with 'render', which is not given.")
        return None
    return style_with(PRESETS[parameters.render], parameters, has_atlas=has_atlas)


def style_with(preset: Preset, parameters: Parameters, *, has_atlas: bool = False) -> Style:
    """How this preset is to be made.

    Raises:
        InvalidParameter: a wish means nothing to it.
    """
    given = _refinements(parameters, has_atlas=has_atlas)
    meant = _meant_for(preset)
    for name in given:
        if name not in meant:
            raise InvalidParameter(
                f"{name}: it means nothing to render={preset.name}, which takes "
                f"{', '.join(sorted(meant))}."
            )
    if "atlas" in meant and not has_atlas:
        raise InvalidParameter(
            f"render: {preset.name} needs 'atlas', a picture, as a part of multipart/form-data or "
            "in base64 as a field of application/json."
        )
    background = parameters.background or preset.background or "black"
    if background == "palette" and preset.palette is None:
        raise InvalidParameter(f"background: render={preset.name} has no palette: choose another.")
    return Style(
        preset,
        palette=parameters.palette or preset.palette or Palette.PARULA,
        alpha=_first(parameters.alpha, preset.alpha, 1.0),
        background=background,
        is_best_on_top=parameters.paint == "best-on-top",
        people=parameters.people,
        size_wh=parameters.size,
        image_id=parameters.image_id,
    )


def _refinements(parameters: Parameters, *, has_atlas: bool) -> list[str]:
    given = sorted(name for name in REFINEMENTS if parameters.has(name))
    return [*given, "atlas"] if has_atlas else given


def _meant_for(preset: Preset) -> set[str]:
    """The parameters that mean something to a preset."""
    applies = {
        "palette": preset.palette is not None,
        "alpha": preset.alpha is not None,
        "background": preset.background is not None,
        "paint": preset.has_samples,
        "size": preset.has_samples,
        "people": True,
        "image_id": preset.drawing is Drawing.COCO,
        "atlas": preset.drawing is Drawing.TEXTURE,
    }
    return {name for name, does in applies.items() if does}


def _first(*values: float | None) -> float:
    return next(value for value in values if value is not None)
