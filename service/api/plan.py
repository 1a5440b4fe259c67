"""A client's wishes held against the model: what will be asked of the device, and answered."""

from collections.abc import Mapping
from dataclasses import dataclass

from model_store.catalogue import ModelCard, find_model
from service.api.capabilities import EMBEDDING_SAMPLES, outputs_of, samples_per_pixel
from service.api.schemas import Parameters
from service.datatypes import BoxXYXY, Output, Query, SizeHW
from service.errors import AnswerTooLarge, InvalidParameter, NotAcceptable, UnsupportedOutput

MAX_SHOWN_MODELS = 5
# Of the short side. detectron2/config/defaults.py: INPUT.MAX_SIZE_TEST over MIN_SIZE_TEST
LONG_SIDE_RATIO = 1333 / 800


@dataclass(frozen=True, slots=True)
class Plan:
    """A request that this model can answer; `outputs` are the client's, each once."""

    card: ModelCard
    parameters: Parameters
    outputs: tuple[Output, ...]
    class_ids: tuple[int | None, ...]
    is_whole_image: bool

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
    is_picture: bool,
) -> Plan:
    """The plan for these parameters; `is_picture` where the answer is one PNG and no JSON.

    Raises:
        UnknownModel: no model is called so.
        UnsupportedOutput: the model or the layout has no such map.
        NotAcceptable: the outputs are not one picture.
        InvalidParameter: the outputs, classes or mesh make no sense with this model.
    """
    name = default_model if parameters.model is None else parameters.model
    card = find_model(cards, name)
    outputs = _chosen_outputs(parameters, card)
    for output in outputs:
        _check_supported(output, card, cards)
    if is_picture:
        _check_picture(outputs)
    is_whole_image = is_picture or parameters.layout == "image"
    if is_whole_image and Output.EMBEDDING in outputs:
        raise UnsupportedOutput(
            "outputs: 'embedding' has no form with layout=image: ask for layout=instance."
        )
    _check_mesh(parameters.mesh, card)
    return Plan(card, parameters, outputs, _class_ids(parameters, card), is_whole_image)


def query_for(plan: Plan, image_size_hw: SizeHW, *, max_answer_samples: int) -> Query:
    """What to ask of the device about an image of this size.

    Raises:
        AnswerTooLarge: the answer would have more samples whatever is in the image.
        InvalidParameter: a given box lies outside the image.
    """
    parameters = plan.parameters
    boxes = None
    if parameters.boxes is not None:
        boxes = tuple(
            _clip(index, box, image_size_hw) for index, box in enumerate(parameters.boxes)
        )
    outputs = frozenset(plan.outputs)
    spare = max_answer_samples
    if plan.is_whole_image:
        height, width = image_size_hw
        spare -= samples_per_pixel(plan.card, outputs) * height * width
        # It tells which pixels of the region are the instance's own.
        outputs |= {Output.MASK} if outputs else frozenset()
    if Output.EMBEDDING in outputs:
        max_instances = parameters.max_instances if boxes is None else len(boxes)
        spare -= EMBEDDING_SAMPLES * max_instances
    if spare < 0:
        raise AnswerTooLarge(
            f"The maps of this answer would have more than {max_answer_samples} samples: ask for "
            "fewer outputs, or send a smaller image."
        )
    samples = samples_per_pixel(plan.card, outputs)
    limits = {"max_region_pixels": spare // samples} if samples else {}
    return Query(
        outputs=outputs,
        min_score=parameters.min_score,
        max_instances=parameters.max_instances,
        boxes_xyxy=boxes,
        class_ids=plan.class_ids,
        mesh=parameters.mesh,
        is_confidence_range_shared=plan.is_whole_image,
        **limits,
    )


def _chosen_outputs(parameters: Parameters, card: ModelCard) -> tuple[Output, ...]:
    if parameters.outputs is None:
        return outputs_of(card)[:1]
    names = tuple(dict.fromkeys(parameters.outputs))
    if names == ("none",):
        return ()
    if "none" in names:
        raise InvalidParameter("outputs: 'none' goes with no other output.")
    return tuple(Output(name) for name in names)


def _check_supported(output: Output, card: ModelCard, cards: Mapping[str, ModelCard]) -> None:
    if output in outputs_of(card):
        return
    ids = [other.id for other in cards.values() if output in outputs_of(other)]
    able = ", ".join(ids[:MAX_SHOWN_MODELS]) or "no model that is served here"
    more = f" and {len(ids) - MAX_SHOWN_MODELS} more" if len(ids) > MAX_SHOWN_MODELS else ""
    raise UnsupportedOutput(
        f"outputs: {card.id} has no {str(output)!r} (it has {', '.join(outputs_of(card))}); "
        f"those that have: {able}{more}."
    )


def _check_picture(outputs: tuple[Output, ...]) -> None:
    if len(outputs) != 1:
        raise NotAcceptable(
            "An answer as image/png is one map: name one output, or accept application/json."
        )
    if outputs[0] in {Output.CONFIDENCE, Output.EMBEDDING}:
        raise NotAcceptable(
            f"outputs: {str(outputs[0])!r} is more than one picture: accept application/json."
        )


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
        raise InvalidParameter(
            f"boxes[{index}] lies outside the image of {width} x {height} pixels."
        )
    return max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))
