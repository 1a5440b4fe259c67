"""A prediction to the bytes of an answer, in steps that can each run in a thread of its own."""

import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.api.description import describe_answer
from service.api.pieces import IMAGE, Canvas, Draft, Piece
from service.datatypes import Map, Output, Prediction
from service.output.archives import write_npz, write_zip
from service.output.canvas import paint_maps
from service.output.drawing import draw
from service.output.maps import encode_map
from service.output.media import JSON, NPZ, ZIP
from service.output.presets import Style
from service.output.renders import NAME, write_render

GZIP_WINDOW_BITS = 31


def canvases_of(draft: Draft) -> list[Canvas]:
    """The maps of each instance, or each map of the whole image."""
    plan, prediction = draft.plan, draft.prediction
    if plan.is_whole_image:
        height, width = prediction.image_size_hw
        scores = tuple(instance.score for instance in prediction.instances)
        painted = paint_maps(prediction, plan.outputs)
        region = (0, 0, width, height)
        return [Canvas(IMAGE, {name: map_}, region, scores) for name, map_ in painted.items()]
    names: set[str] = {*plan.outputs}
    if Output.EMBEDDING in plan.outputs:
        names.add("coarse_logits")
    canvases = []
    for index, instance in enumerate(prediction.instances):
        # The device gave more where a render is made of it.
        shown = {name: m for name, m in instance.maps.items() if name.partition(".")[0] in names}
        canvases.append(Canvas(str(index), shown, instance.region_xywh, (instance.score,)))
    return canvases


def jobs_of(draft: Draft, canvases: Sequence[Canvas]) -> list[Callable[[], Piece]]:
    """What makes the pieces of the answer, in their order, each to be run in a thread."""
    plan = draft.plan
    if plan.media_type == NPZ:
        jobs = [partial(Piece, canvas.owner, maps=canvas.maps) for canvas in canvases]
    else:
        jobs = [partial(_encode, canvas, plan.card.id) for canvas in canvases]
    if plan.style is not None:
        jobs.append(partial(_render, draft, plan.style))
    return [*jobs]


def write_answer(draft: Draft, pieces: Sequence[Piece], timing_ms: Mapping[str, float]) -> bytes:
    """The answer in the form that was planned."""
    plan = draft.plan
    if plan.is_render_alone or plan.media_type not in {JSON, ZIP, NPZ}:
        (file,) = (file for piece in pieces for file in piece.files)
        return file.data
    result = describe_answer(draft, pieces, timing_ms)
    if plan.media_type == JSON:
        return result
    if plan.media_type == ZIP:
        members = {
            piece.name_in_archive(file): file.data for piece in pieces for file in piece.files
        }
        return write_zip({"result.json": result} | members)
    arrays = _arrays_of(draft.prediction)
    for piece in pieces:
        for name, map_ in piece.maps.items():
            arrays |= _arrays_in(piece.qualified(name), map_)
    return write_npz(arrays | {"result": np.array(result.decode())})


def compress(content: bytes) -> bytes:
    """The content in gzip, fast.

    Base64 of compressed files has no repetitions but runs; not looking for others takes a quarter
    of the time for the same bytes.
    """
    compressor = zlib.compressobj(1, zlib.DEFLATED, GZIP_WINDOW_BITS, strategy=zlib.Z_RLE)
    return compressor.compress(content) + compressor.flush()


def _encode(canvas: Canvas, model: str) -> Piece:
    files = (
        encode_map(name, map_, model=model, region_xywh=canvas.region_xywh, scores=canvas.scores)
        for name, map_ in canvas.maps.items()
    )
    return Piece(canvas.owner, tuple(files))


def _render(draft: Draft, style: Style) -> Piece:
    plan = draft.plan
    if plan.media_type == NPZ and not plan.is_render_alone:
        return Piece(maps={NAME: Map(draw(style, draft.prediction, draft.scenery))})
    file = write_render(style, draft.prediction, draft.scenery, model=plan.card.id)
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
