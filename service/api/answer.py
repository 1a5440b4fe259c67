"""A prediction to the bytes of an answer, in steps that can each run in a thread of its own."""

import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.api.capabilities import is_blank_off_body
from service.api.description import PLACE, describe_answer
from service.api.pieces import IMAGE, Canvas, Draft, Piece
from service.datatypes import MAPS, Map, Prediction
from service.output.archives import ZipWriter, npy_of
from service.output.canvas import paint_maps
from service.output.chunks import Chunks, Count, base64_of, count_nothing
from service.output.drawing import draw
from service.output.maps import RENDER, encode_map, write_render
from service.output.media import JSON, NPZ, ZIP
from service.output.presets import Style

# As it stands in JSON.
PLACES = re.compile(PLACE.replace("\x01", r"\\u0001").format(r"(\d+)").encode())


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
