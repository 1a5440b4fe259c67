"""An answer from the bytes that a server sent, of which nothing is believed."""

import re
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from service.client.answers import NO_PICTURES, Answer, Instance, Map, channels_last
from service.client.arrays import read_arrays
from service.client.errors import UnreadableAnswer
from service.client.fields import parse_fields, read_object, read_value

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
    image = read_value(dict, result.get("image"), "image")
    size_hw = (_side(image, "height"), _side(image, "width"))
    maps = _maps_by_owner(arrays)
    listed = read_value(list, result.get("instances", []), "instances")
    whole = maps.get("image", {})
    _check_sizes(whole, size_hw)
    return read_object(
        Answer,
        result,
        size_hw=size_hw,
        instances=tuple(
            _instance(one, maps.get(str(index), {})) for index, one in enumerate(listed)
        ),
        maps=whole,
        render=arrays.get("render"),
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


def _instance(told: Any, maps: Mapping[str, Map]) -> Instance:
    instance = read_object(Instance, read_value(dict, told, "instances"), maps=maps)
    _check_sizes(maps, instance.region_xywh[:1:-1])
    return instance


def _side(image: Mapping[str, Any], name: str) -> int:
    side: int = read_value(int, image.get(name), name)
    if not 0 < side < MAX_SIDE:
        raise UnreadableAnswer("The answer's image has no size.")
    return side


def _check_sizes(maps: Mapping[str, Map], size_hw: tuple[int, ...]) -> None:
    for name, map_ in maps.items():
        if name in NO_PICTURES:
            continue
        samples = map_.samples
        if samples.ndim not in {2, 3} or channels_last(name, samples).shape[:2] != size_hw:
            raise UnreadableAnswer(f"The map {name!a} is not of the size of what it shows.")
