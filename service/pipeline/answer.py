"""A prediction to the bytes of an answer, in steps that can each run in a thread of its own."""

import itertools
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.datatypes import MAPS, Instance, Map, Prediction, RegionXYWH
from service.output.archives import ZipWriter, npy_of
from service.output.canvas import paint_maps
from service.output.chunks import Chunks, Count, base64_of, count_nothing
from service.output.drawing import Scenery, draw
from service.output.maps import RENDER, EncodedMap, encode_map, write_render
from service.output.measures import Hit, PartMeasures, find_hits, measure_parts
from service.output.media import JSON, NPZ, SUFFIXES, ZIP
from service.output.parts import GROUPS, PARTS
from service.output.presets import Style
from service.pipeline.capabilities import is_blank_off_body
from service.pipeline.plan import Plan
from service.pipeline.schemas import (
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

# Whose the maps of the whole image are.
IMAGE = "image"
# Where the letters of a file go. JSON escapes it, and no text of an answer has it.
PLACE = "\x01{}\x01"
# As it stands in JSON.
PLACES = re.compile(PLACE.replace("\x01", r"\\u0001").format(r"(\d+)").encode())


@dataclass(frozen=True, slots=True)
class Draft:
    """All that an answer is written from."""

    plan: Plan
    prediction: Prediction
    scenery: Scenery = field(default_factory=Scenery)


@dataclass(frozen=True, slots=True)
class Canvas:
    """Maps that are encoded together, what they show, and whose they are: an index, or IMAGE."""

    owner: str
    maps: Mapping[str, Map]
    region_xywh: RegionXYWH
    scores: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """Files of one owner or, for an answer of arrays, its maps. The render has no owner."""

    owner: str = ""
    files: tuple[EncodedMap, ...] = ()
    maps: Mapping[str, Map] = field(default_factory=dict)

    @property
    def num_bytes(self) -> int:
        """What it takes in memory."""
        files = sum(file.num_bytes for file in self.files)
        return files + sum(map_.samples.nbytes for map_ in self.maps.values())

    def qualified(self, name: str) -> str:
        """The name of a map among those of all owners."""
        return f"{self.owner}.{name}" if self.owner else name

    def name_in_archive(self, file: EncodedMap) -> str:
        """The name of a file among those of all owners."""
        return f"{self.qualified(file.name)}.{SUFFIXES[file.media_type]}"


def canvases_of(draft: Draft) -> list[Canvas]:
    """The maps of each instance, or each map of the whole image."""
    plan, prediction = draft.plan, draft.prediction
    if plan.is_whole_image:
        height, width = prediction.image_size_hw
        scores = tuple(instance.score for instance in prediction.instances)
        shared = frozenset(one for one in plan.outputs if is_blank_off_body(plan.card, one))
        painted = paint_maps(prediction, plan.outputs, shared)
        region = (0, 0, width, height)
        return [Canvas(IMAGE, {name: map_}, region, scores) for name, map_ in painted.items()]
    names = {name for output in plan.outputs for name in (output, *MAPS[output].of_instance)}
    canvases = []
    for index, instance in enumerate(prediction.instances):
        # The device gave more where a render is made of it.
        shown = {name: m for name, m in instance.maps.items() if name.partition(".")[0] in names}
        canvases.append(Canvas(str(index), shown, instance.region_xywh, (instance.score,)))
    return canvases


def jobs_of(
    draft: Draft, canvases: Sequence[Canvas], count: Count = count_nothing
) -> list[Callable[[], Piece]]:
    """What makes the pieces of the answer, in their order, each to be run in a thread.

    What they write is counted on the way.
    """
    plan = draft.plan
    if plan.media_type == NPZ:
        jobs = [partial(Piece, canvas.owner, maps=canvas.maps) for canvas in canvases]
    else:
        jobs = [partial(_encode, canvas, plan.card.id, count) for canvas in canvases]
    if plan.style is not None:
        jobs.append(partial(_render, draft, plan.style, count))
    return [*jobs]


def write_answer(
    draft: Draft,
    pieces: Sequence[Piece],
    timing_ms: Mapping[str, float],
    count: Count = count_nothing,
) -> Chunks:
    """The answer in the form that was planned; the chunks of the pieces are dropped on the way."""
    plan = draft.plan
    files = {piece.name_in_archive(file): file for piece in pieces for file in piece.files}
    if plan.is_render_alone or plan.media_type not in {JSON, ZIP, NPZ}:
        (file,) = files.values()
        return file.chunks
    result = describe_answer(draft, pieces, timing_ms)
    if plan.media_type == JSON:
        return _fill(result, [file.chunks for file in files.values()], count)
    archive = ZipWriter(count)
    if plan.media_type == ZIP:
        archive.add("result.json", deque([result]))
        for name, file in files.items():
            archive.add(name, file.chunks)
        return archive.finish()
    arrays = _arrays_of(draft.prediction)
    for piece in pieces:
        for name, map_ in piece.maps.items():
            arrays |= _arrays_in(piece.qualified(name), map_)
    arrays["result"] = np.array(result.decode())
    for name, array in arrays.items():
        archive.add(f"{name}.npy", npy_of(array))
    return archive.finish()


def _fill(result: bytes, files: Sequence[Chunks], count: Count) -> Chunks:
    """The JSON with the letters of each file in its place."""
    text, *places = PLACES.split(result)
    chunks: Chunks = deque([text])
    for index, text in zip(places[::2], places[1::2], strict=True):
        chunks.extend(base64_of(files[int(index)], count))
        chunks.append(text)
    return chunks


def _encode(canvas: Canvas, model: str, count: Count) -> Piece:
    files = (
        encode_map(
            name,
            map_,
            model=model,
            region_xywh=canvas.region_xywh,
            scores=canvas.scores,
            count=count,
        )
        for name, map_ in canvas.maps.items()
    )
    return Piece(canvas.owner, tuple(files))


def _render(draft: Draft, style: Style, count: Count) -> Piece:
    plan, prediction, scenery = draft.plan, draft.prediction, draft.scenery
    if plan.media_type == NPZ and not plan.is_render_alone:
        return Piece(maps={RENDER: Map(draw(style, prediction, scenery, count))})
    file = write_render(style, prediction, scenery, model=plan.card.id, count=count)
    return Piece(files=(file,))


def _arrays_of(prediction: Prediction) -> dict[str, NDArray[Any]]:
    instances = prediction.instances
    class_ids = [-1 if one.class_id is None else one.class_id for one in instances]
    return {
        "boxes": np.array([one.box_xyxy for one in instances], np.float64).reshape(-1, 4),
        "scores": np.array([one.score for one in instances], np.float64),
        "class_ids": np.array(class_ids, np.int64),
        "regions": np.array([one.region_xywh for one in instances], np.int64).reshape(-1, 4),
    }


def _arrays_in(name: str, map_: Map) -> dict[str, NDArray[Any]]:
    arrays = {name: map_.samples}
    if map_.scale is not None and map_.offset is not None:
        arrays |= {f"{name}.scale": np.array(map_.scale), f"{name}.offset": np.array(map_.offset)}
    return arrays


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
