"""An answer from the bytes that a server sent, of which nothing is believed."""

import re
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from service.client.answers import (
    NO_PICTURES,
    Answer,
    Hit,
    Instance,
    Map,
    PartMeasures,
    Point,
    channels_last,
)
from service.client.arrays import read_arrays
from service.client.errors import UnreadableAnswer
from service.client.fields import Fields, parse_fields

# Of a name in the archive: whose map it is, and which.
OWNED = re.compile(r"(\d{1,6}|image)\.(.+)")
QUANTIZATION = (".scale", ".offset")
# Sides of an image; the formats that are read have no larger ones.
MAX_SIDE = 2**31


def read_answer(content: bytes, *, max_bytes: int) -> Answer:
    """The answer in an archive of arrays.

    Raises:
        UnreadableAnswer: it is none.
    """
    arrays = read_arrays(content, max_bytes=max_bytes)
    told = arrays.get("result")
    if told is None or told.dtype.kind != "U" or told.ndim:
        raise UnreadableAnswer("The answer does not tell what it is.")
    result = parse_fields(str(told))
    image = result.inner("image")
    size_hw = (_side(image, "height"), _side(image, "width"))
    maps = _maps_by_owner(arrays)
    instances = tuple(
        _instance(fields, maps.get(str(index), {}))
        for index, fields in enumerate(result.objects("instances"))
    )
    whole = maps.get("image", {})
    for name, map_ in whole.items():
        _check_size(name, map_, size_hw)
    return Answer(
        model=result.text("model"),
        size_hw=size_hw,
        instances=instances,
        maps=whole,
        render=arrays.get("render"),
        points=tuple(_point(fields) for fields in result.objects("points")),
        timing_ms=result.numbers_by_name("timing_ms"),
        notice=result.text_or_none("notice"),
    )


def _maps_by_owner(arrays: Mapping[str, NDArray[Any]]) -> dict[str, dict[str, Map]]:
    owned: dict[str, dict[str, Map]] = {}
    for name, samples in arrays.items():
        match = OWNED.fullmatch(name)
        if match is None or name.endswith(QUANTIZATION):
            continue
        scale, offset = (_scalar(arrays.get(name + suffix)) for suffix in QUANTIZATION)
        owned.setdefault(match[1], {})[match[2]] = Map(samples, scale, offset)
    return owned


def _scalar(array: NDArray[Any] | None) -> float | None:
    if array is None:
        return None
    if array.shape or array.dtype.kind not in "iuf":
        raise UnreadableAnswer("The answer's quantization is not a number.")
    return float(array)


def _instance(fields: Fields, maps: Mapping[str, Map]) -> Instance:
    x0, y0, x1, y1 = fields.numbers("box", 4)
    x, y, width, height = (int(number) for number in fields.numbers("region", 4))
    for name, map_ in maps.items():
        _check_size(name, map_, (height, width))
    return Instance(
        score=fields.number("score"),
        class_id=fields.integer_or_none("class_id"),
        class_name=fields.text_or_none("class_name"),
        box_xyxy=(x0, y0, x1, y1),
        region_xywh=(x, y, width, height),
        mesh=fields.text_or_none("mesh"),
        maps=maps,
        parts={
            grouping: tuple(_part(part) for part in parts)
            for grouping, parts in fields.objects_by_name("parts").items()
        },
    )


def _part(fields: Fields) -> PartMeasures:
    def numbers_or_none(name: str, count: int) -> tuple[float, ...] | None:
        return None if fields.values.get(name) is None else fields.numbers(name, count)

    charts = fields.values.get("charts")
    return PartMeasures(
        name=fields.text("name"),
        charts=tuple(
            int(n) for n in fields.numbers("charts", len(charts) if isinstance(charts, list) else 0)
        ),
        pixels=fields.integer("pixels"),
        box_xyxy=numbers_or_none("box", 4),
        centroid_xy=numbers_or_none("centroid", 2),
        share=fields.number("share"),
        confidence=fields.numbers_by_name("confidence"),
    )


def _point(fields: Fields) -> Point:
    hits = tuple(
        Hit(
            instance=hit.integer("instance"),
            chart=hit.integer_or_none("chart"),
            name=hit.text_or_none("name"),
            u=hit.number_or_none("u"),
            v=hit.number_or_none("v"),
            vertex=hit.integer_or_none("vertex"),
        )
        for hit in fields.objects("hits")
    )
    return Point(fields.numbers("point", 2), hits)


def _side(image: Fields, name: str) -> int:
    side = image.integer(name)
    if not 0 < side < MAX_SIDE:
        raise UnreadableAnswer("The answer's image has no size.")
    return side


def _check_size(name: str, map_: Map, size_hw: tuple[int, int]) -> None:
    if name in NO_PICTURES:
        return
    samples = map_.samples
    if samples.ndim not in {2, 3} or channels_last(name, samples).shape[:2] != size_hw:
        raise UnreadableAnswer(f"The map {name!a} is not of the size of what it shows.")
