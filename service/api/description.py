"""The JSON that tells what was found."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from service.api.pieces import IMAGE, Draft, Piece
from service.api.plan import Plan
from service.api.schemas import (
    Answer,
    AnswerHit,
    AnswerImage,
    AnswerInstance,
    AnswerMap,
    AnswerMaps,
    AnswerPart,
    AnswerPoint,
    Timing,
)
from service.datatypes import Instance, Prediction
from service.output.maps import EncodedMap
from service.output.measures import Hit, PartMeasures, find_hits, measure_parts
from service.output.media import JSON
from service.output.parts import GROUPS, PARTS

# Where the letters of a file go. JSON escapes it, and no text of an answer has it.
PLACE = "\x01{}\x01"


def describe_answer(draft: Draft, pieces: Sequence[Piece], timing_ms: Mapping[str, float]) -> bytes:
    """The answer in JSON: its files by their names in the archive or, without one, by `PLACE`.

    That has the number of the file among those of all pieces.
    """
    number = itertools.count()
    plan, prediction = draft.plan, draft.prediction
    described: dict[str, dict[str, AnswerMap]] = {}
    for piece in pieces:
        for file in piece.files:
            if plan.media_type == JSON:
                where = {"data": PLACE.format(next(number))}
            else:
                where = {"file": piece.name_in_archive(file)}
            described.setdefault(piece.owner, {})[file.name] = _describe_file(file, where)
    height, width = prediction.image_size_hw
    optional: dict[str, Any] = {}
    if plan.card.notice is not None:
        optional["notice"] = plan.card.notice
    for render in described.get("", {}).values():
        optional["render"] = render
    if plan.parameters.points is not None:
        optional["points"] = [
            _describe_point(prediction, point) for point in plan.parameters.points
        ]
    answer = Answer(
        model=plan.card.id,
        image=AnswerImage(width=width, height=height),
        instances=[
            _describe_instance(plan, instance, described.get(str(index), {}))
            for index, instance in enumerate(prediction.instances)
        ],
        maps=_by_output(described.get(IMAGE, {})),
        timing_ms=Timing(**timing_ms),
        **optional,
    )
    # What was not set does not apply here; null says that something has no value.
    return answer.model_dump_json(exclude_unset=True).encode()


def _describe_instance(
    plan: Plan, instance: Instance, maps: Mapping[str, AnswerMap]
) -> AnswerInstance:
    optional: dict[str, Any] = {} if instance.mesh is None else {"mesh": instance.mesh}
    if plan.parameters.parts is not None:
        groupings = plan.parameters.parts
        measured = measure_parts(instance, [GROUPS[grouping] for grouping in groupings])
        optional["parts"] = {
            grouping: [_describe_part(part) for part in parts]
            for grouping, parts in zip(groupings, measured, strict=True)
        }
    class_id = instance.class_id
    return AnswerInstance(
        score=instance.score,
        class_id=class_id,
        class_name=None if class_id is None else plan.card.class_names[class_id],
        box=instance.box_xyxy,
        region=instance.region_xywh,
        maps=_by_output(maps),
        **optional,
    )


def _by_output(maps: Mapping[str, AnswerMap]) -> AnswerMaps:
    """The maps by output; the fields of one output stand together."""
    alone: dict[str, AnswerMap] = {}
    grouped: dict[str, dict[str, AnswerMap]] = {}
    for name, map_ in maps.items():
        output, _, field = name.partition(".")
        if field:
            grouped.setdefault(output, {})[field] = map_
        else:
            alone[output] = map_
    return {**alone, **grouped}


def _describe_file(file: EncodedMap, where: Mapping[str, str]) -> AnswerMap:
    optional: dict[str, Any] = {**where}
    if file.scale is not None and file.offset is not None:
        optional |= {"scale": file.scale, "offset": file.offset}
    return AnswerMap(media_type=file.media_type, width=file.width, height=file.height, **optional)


def _describe_part(part: PartMeasures) -> AnswerPart:
    optional = {"confidence": dict(part.confidence)} if part.confidence else {}
    return AnswerPart(
        name=part.name,
        charts=part.charts,
        pixels=part.pixels,
        box=part.box_xyxy,
        centroid=part.centroid_xy,
        share=part.share,
        **optional,
    )


def _describe_point(prediction: Prediction, point: tuple[float, float]) -> AnswerPoint:
    hits = find_hits(prediction.instances, point)
    return AnswerPoint(point=point, hits=[_describe_hit(hit) for hit in hits])


def _describe_hit(hit: Hit) -> AnswerHit:
    if hit.chart is None:
        return AnswerHit(instance=hit.index, vertex=hit.vertex)
    name = PARTS[hit.chart - 1].name
    return AnswerHit(instance=hit.index, chart=hit.chart, name=name, u=hit.u, v=hit.v)
