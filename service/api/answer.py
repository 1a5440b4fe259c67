"""A prediction to the bytes of an answer, in steps that can each run in a thread of its own."""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from service.api.plan import Plan
from service.api.schemas import (
    Answer,
    AnswerImage,
    AnswerInstance,
    AnswerMap,
    AnswerMaps,
    Timing,
)
from service.datatypes import Instance, Map, Prediction, RegionXYWH
from service.output.canvas import paint_maps
from service.output.maps import EncodedMap, encode_map

GZIP_WINDOW_BITS = 31


@dataclass(frozen=True, slots=True)
class Canvas:
    """Maps that are encoded together, and what they show."""

    maps: Mapping[str, Map]
    region_xywh: RegionXYWH
    scores: tuple[float, ...]


def canvases_of(plan: Plan, prediction: Prediction) -> list[Canvas]:
    """The maps of each instance, or each map of the whole image."""
    if not plan.is_whole_image:
        return [
            Canvas(instance.maps, instance.region_xywh, (instance.score,))
            for instance in prediction.instances
        ]
    height, width = prediction.image_size_hw
    scores = tuple(instance.score for instance in prediction.instances)
    painted = paint_maps(prediction, plan.outputs)
    return [Canvas({name: map_}, (0, 0, width, height), scores) for name, map_ in painted.items()]


def encode_canvas(canvas: Canvas, *, model: str) -> list[EncodedMap]:
    """The files of its maps."""
    return [
        encode_map(name, map_, model=model, region_xywh=canvas.region_xywh, scores=canvas.scores)
        for name, map_ in canvas.maps.items()
    ]


def render_json(
    plan: Plan,
    prediction: Prediction,
    encoded: Sequence[Sequence[EncodedMap]],
    timing_ms: Mapping[str, float],
) -> bytes:
    """The answer in JSON; `encoded` has the files of each canvas."""
    height, width = prediction.image_size_hw
    of_image: Iterable[EncodedMap] = ()
    of_instances: Sequence[Iterable[EncodedMap]] = encoded
    if plan.is_whole_image:
        of_image, of_instances = chain.from_iterable(encoded), [()] * len(prediction.instances)
    notice = {} if plan.card.notice is None else {"notice": plan.card.notice}
    answer = Answer(
        model=plan.card.id,
        **notice,
        image=AnswerImage(width=width, height=height),
        instances=[
            _describe(instance, plan.card.class_names, files)
            for instance, files in zip(prediction.instances, of_instances, strict=True)
        ],
        maps=_by_output(of_image),
        timing_ms=Timing(**timing_ms),
    )
    # What was not set does not apply here; null says that something has no value.
    return answer.model_dump_json(exclude_unset=True).encode()


def compress(content: bytes) -> bytes:
    """The content in gzip, fast.

    Base64 of compressed files has no repetitions but runs; not looking for others takes a quarter
    of the time for the same bytes.
    """
    compressor = zlib.compressobj(1, zlib.DEFLATED, GZIP_WINDOW_BITS, strategy=zlib.Z_RLE)
    return compressor.compress(content) + compressor.flush()


def _describe(
    instance: Instance, class_names: Sequence[str], files: Iterable[EncodedMap]
) -> AnswerInstance:
    class_id = instance.class_id
    mesh = {} if instance.mesh is None else {"mesh": instance.mesh}
    return AnswerInstance(
        score=instance.score,
        class_id=class_id,
        class_name=None if class_id is None else class_names[class_id],
        box=instance.box_xyxy,
        region=instance.region_xywh,
        **mesh,
        maps=_by_output(files),
    )


def _by_output(files: Iterable[EncodedMap]) -> AnswerMaps:
    alone: dict[str, AnswerMap] = {}
    grouped: dict[str, dict[str, AnswerMap]] = {}
    for file in files:
        output, _, field = file.name.partition(".")
        if field:
            grouped.setdefault(output, {})[field] = _describe_file(file)
        else:
            alone[output] = _describe_file(file)
    return {**alone, **grouped}


def _describe_file(file: EncodedMap) -> AnswerMap:
    quantization = {}
    if file.scale is not None and file.offset is not None:
        quantization = {"scale": file.scale, "offset": file.offset}
    return AnswerMap(
        media_type=file.media_type,
        width=file.width,
        height=file.height,
        data=file.base64_text(),
        **quantization,
    )
