"""A client's wishes held against the model: what will be asked of the device, and answered."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from model_store.catalogue import ModelCard, find_model
from service.datatypes import MAPS, AnyMap, BoxXYXY, Output, Query, SizeHW
from service.errors import InvalidParameter, NotAcceptable, UnsupportedOutput
from service.output.media import NPZ, PNG
from service.output.presets import Style
from service.pipeline.capabilities import has_picture, maps_of, outputs_of, tells_its_mask
from service.pipeline.parameters import Parameters
from service.pipeline.styling import style_for

MAX_SHOWN_MODELS = 5
# Of the short side. detectron2/config/defaults.py: INPUT.MAX_SIZE_TEST over MIN_SIZE_TEST
LONG_SIDE_RATIO = 1333 / 800


@dataclass(frozen=True)
class Plan:
    """A request that this model can answer in this form; `outputs` are what it shows, each once."""

    card: ModelCard
    parameters: Parameters
    media_type: str
    outputs: tuple[Output, ...]
    class_ids: tuple[int | None, ...]
    style: Style | None

    @property
    def is_render_alone(self) -> bool:
        """Whether the answer is the render's own file."""
        return self.style is not None and self.media_type == self.style.preset.media_type

    @property
    def is_whole_image(self) -> bool:
        """Whether maps are painted over the image, rather than given for each instance."""
        return self.media_type == PNG or self.parameters.layout == "image"

    @property
    def is_drawn_on_photo(self) -> bool:
        """Whether the render needs the image as it was sent."""
        style = self.style
        if style is None or style.preset.background is None:
            return False
        return style.background in {"photo", "grey"}

    @cached_property
    def needed_outputs(self) -> frozenset[AnyMap]:
        """What the device has to give for all of it, and no more."""
        needed: frozenset[AnyMap] = frozenset(self.outputs)
        if self.style is not None:
            needed |= self.style.preset.needs[self.card.kind]
        if self.parameters.parts is not None:
            needed |= {Output.LABELS, Output.CONFIDENCE}
        if self.parameters.points is not None:
            is_chart = self.card.kind == "chart"
            needed |= {Output.LABELS, Output.UV} if is_chart else {Output.VERTICES}
        needed &= frozenset(maps_of(self.card))
        if self.outputs and self.is_whole_image and not self._is_mask_told(needed):
            # It tells which pixels of the region are the instance's own.
            needed |= {Output.MASK}
        return needed

    def _is_mask_told(self, needed: frozenset[AnyMap]) -> bool:
        if Output.CONFIDENCE in self.outputs:
            # The device itself needs it for the range that all instances share.
            return False
        return any(tells_its_mask(self.card, output) for output in needed)

    @property
    def short_and_long_side(self) -> tuple[int, int]:
        """What to resize to: the short side, and what the long side may be."""
        short_side = self.parameters.short_side
        if short_side is None:
            return self.card.short_side, self.card.long_side
        return short_side, round(short_side * LONG_SIDE_RATIO)


def plan_answer(
    parameters: Parameters,
    cards: Mapping[str, ModelCard],
    *,
    default_model: str,
    media_type: str,
    has_atlas: bool = False,
) -> Plan:
    """The plan for an answer of this type.

    Raises:
        UnknownModel: no model is called so.
        UnsupportedOutput: the model or the layout has no such map or render.
        NotAcceptable: what is asked for has no form of this type.
        InvalidParameter: the parameters make no sense together, or with this model.
    """
    name = default_model if parameters.model is None else parameters.model
    card = find_model(cards, name)
    outputs = _chosen_outputs(parameters, card)
    for output in outputs:
        _check_supported(output, card, cards)
    style = style_for(parameters, has_atlas=has_atlas)
    _check_mesh(parameters.mesh, card)
    plan = Plan(card, parameters, media_type, outputs, _class_ids(parameters, card), style)
    if plan.is_render_alone:
        plan = replace(plan, outputs=())
    _check_kind(plan, cards)
    _check_form(plan)
    return plan


def query_for(plan: Plan, image_size_hw: SizeHW) -> Query:
    """What to ask of the device about an image of this size.

    Raises:
        InvalidParameter: a given box or point lies outside the image.
    """
    parameters = plan.parameters
    boxes = None
    if parameters.boxes is not None:
        boxes = tuple(
            _clip(index, box, image_size_hw) for index, box in enumerate(parameters.boxes)
        )
    for index, (x, y) in enumerate(parameters.points or ()):
        if not (0 <= x < image_size_hw[1] and 0 <= y < image_size_hw[0]):
            raise _outside(f"points[{index}]", image_size_hw)
    return Query(
        outputs=plan.needed_outputs,
        min_score=parameters.min_score,
        max_instances=parameters.max_instances,
        boxes_xyxy=boxes,
        class_ids=plan.class_ids,
        mesh=parameters.mesh,
        box_expand=parameters.box_expand,
        is_confidence_range_shared=plan.is_whole_image and Output.CONFIDENCE in plan.outputs,
    )


def _chosen_outputs(parameters: Parameters, card: ModelCard) -> tuple[Output, ...]:
    if parameters.outputs is None:
        return outputs_of(card)[:1] if parameters.render is None else ()
    names = tuple(dict.fromkeys(parameters.outputs))
    if names == ("none",):
        return ()
    if "none" in names:
        raise InvalidParameter("outputs: 'none' goes with no other output.")
    return tuple(Output(name) for name in names)


def _check_supported(output: Output, card: ModelCard, cards: Mapping[str, ModelCard]) -> None:
    if output in outputs_of(card):
        return
    able = _listed(other.id for other in cards.values() if output in outputs_of(other))
    raise UnsupportedOutput(
        f"outputs: {card.id} has no {str(output)!r} (it has {', '.join(outputs_of(card))}); "
        f"those that have: {able}."
    )


def _check_kind(plan: Plan, cards: Mapping[str, ModelCard]) -> None:
    """Charts and vertices are those of different models."""
    card, style = plan.card, plan.style
    if style is not None and card.kind not in style.preset.needs:
        what, kinds = f"render: {style.preset.name!r}", tuple(style.preset.needs)
    elif plan.parameters.parts is not None and card.kind != "chart":
        what, kinds = "parts: they", ("chart",)
    else:
        return
    able = _listed(other.id for other in cards.values() if other.kind in kinds)
    raise UnsupportedOutput(
        f"{what} cannot be had of {card.id}, a {card.kind} model; those that can: {able}."
    )


def _check_form(plan: Plan) -> None:
    """Not every form has room for everything."""
    if plan.is_render_alone or plan.media_type == PNG:
        for name in ("points", "parts"):
            if getattr(plan.parameters, name) is not None:
                raise NotAcceptable(
                    f"{name}: they have no form as {plan.media_type}: accept application/json."
                )
    if plan.style is not None:
        if plan.media_type == NPZ and not (plan.is_render_alone or plan.style.preset.has_samples):
            raise NotAcceptable(
                f"render: {plan.style.preset.name} is no array: accept application/json, "
                f"application/zip or {plan.style.preset.media_type}."
            )
    elif plan.media_type == PNG:
        _check_picture(plan.outputs)
    if plan.is_whole_image:
        for output in plan.outputs:
            if MAPS[output].of_instance:
                raise UnsupportedOutput(
                    f"outputs: {str(output)!r} has no form with layout=image: ask for "
                    "layout=instance."
                )


def _check_picture(outputs: tuple[Output, ...]) -> None:
    if len(outputs) != 1:
        raise NotAcceptable(
            "An answer as image/png is one map: name one output, or accept application/json."
        )
    if not has_picture(outputs[0]):
        raise NotAcceptable(
            f"outputs: {str(outputs[0])!r} is not one picture of the image: accept "
            "application/json."
        )


def _listed(ids: Iterable[str]) -> str:
    shown = list(ids)
    more = f" and {len(shown) - MAX_SHOWN_MODELS} more" if len(shown) > MAX_SHOWN_MODELS else ""
    return (", ".join(shown[:MAX_SHOWN_MODELS]) or "no model that is served here") + more


def _check_mesh(mesh: str | None, card: ModelCard) -> None:
    if mesh is None:
        return
    if card.kind == "chart":
        raise InvalidParameter(f"mesh: {card.id} is a chart model and has no meshes: leave it out.")
    meshes = card.architecture.meshes
    if mesh not in meshes:
        raise InvalidParameter(f"mesh: {card.id} has no mesh {mesh!a}; it has {', '.join(meshes)}.")


def _class_ids(parameters: Parameters, card: ModelCard) -> tuple[int | None, ...]:
    """The class of each given box; None where a mesh stands for it."""
    if parameters.boxes is None:
        if parameters.classes is not None:
            raise InvalidParameter("classes: they go with 'boxes', one class for each box.")
        return ()
    num_boxes = len(parameters.boxes)
    if parameters.classes is not None:
        if len(parameters.classes) != num_boxes:
            raise InvalidParameter(
                f"classes: {len(parameters.classes)} for {num_boxes} boxes: give one for each."
            )
        return tuple(_class_id(name, card) for name in parameters.classes)
    if parameters.mesh is not None:
        return (None,) * num_boxes
    if len(card.class_names) > 1:
        raise InvalidParameter(
            f"classes: {card.id} has several classes: with 'boxes', give 'classes' or 'mesh'."
        )
    return (0,) * num_boxes


def _class_id(name: int | str, card: ModelCard) -> int:
    names = [class_name.casefold() for class_name in card.class_names]
    text = str(name).casefold()
    if text in names:
        return names.index(text)
    if text.isdecimal() and int(text) < len(names):
        return int(text)
    known = ", ".join(f"{index} {known}" for index, known in enumerate(card.class_names))
    raise InvalidParameter(f"classes: {card.id} has no class {name!a:.80}; it has {known}.")


def _clip(index: int, box_xyxy: BoxXYXY, image_size_hw: SizeHW) -> BoxXYXY:
    x0, y0, x1, y1 = box_xyxy
    height, width = image_size_hw
    if not (x0 < width and y0 < height and x1 > 0 and y1 > 0):
        raise _outside(f"boxes[{index}]", image_size_hw)
    return max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))


def _outside(what: str, image_size_hw: SizeHW) -> InvalidParameter:
    height, width = image_size_hw
    return InvalidParameter(f"{what} lies outside the image of {width} x {height} pixels.")
