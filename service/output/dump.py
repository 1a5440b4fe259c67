"""What detectron2's `apply_net.py dump` writes of an image, as NumPy arrays.

An entry is that of `DumpAction` there: boxes and scores and, where there are instances, the labels,
U and V and confidences of each, or the embeddings of all, as the network gives them. It tells
classes and meshes besides, which detectron2's loses.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from service.datatypes import COARSE_LOGITS, Instance, Output, RawMap

Entry: TypeAlias = dict[str, Any]

# The API's others are derived from these.
CONFIDENCES = ("sigma_2", "kappa_u", "kappa_v", "fine_segm_confidence", "coarse_segm_confidence")


def describe_image(instances: Sequence[Instance], file_name: str | None = None) -> Entry:
    """The entry of one image; its instances bring what the preset `dump-npz` needs."""
    entry: Entry = {} if file_name is None else {"file_name": file_name}
    boxes = [instance.box_xyxy for instance in instances]
    class_ids = [-1 if one.class_id is None else one.class_id for one in instances]
    entry |= {
        "scores": np.array([instance.score for instance in instances], np.float32),
        "pred_boxes_XYXY": np.array(boxes, np.float32).reshape(-1, 4),
        "pred_classes": np.array(class_ids, np.int64),
    }
    if not instances:
        return entry
    if Output.EMBEDDING not in instances[0].maps:
        return entry | {"pred_densepose": [_describe_charts(instance) for instance in instances]}
    embeddings = [instance.maps[Output.EMBEDDING].samples for instance in instances]
    coarse = [instance.maps[COARSE_LOGITS].samples for instance in instances]
    return entry | {
        "pred_meshes": [instance.mesh for instance in instances],
        "pred_densepose": {
            "embedding": np.stack(embeddings).astype(np.float32),
            "coarse_segm": np.stack(coarse).astype(np.float32),
        },
    }


def flatten_entries(entries: Sequence[Entry]) -> dict[str, NDArray[Any]]:
    """The entries as arrays without any object in them, by their place in the list.

    Names are like `0.scores` and `0.pred_densepose.2.uv`: image, key, instance, field.
    """
    return dict(_flatten("", entries))


def build_entries(arrays: Mapping[str, NDArray[Any]]) -> list[Any]:
    """The entries that `flatten_entries` made these arrays of.

    Raises:
        ValueError: it did not.
    """
    entries: dict[str, Any] = {}
    for name, array in arrays.items():
        *above, own = name.split(".")
        parent = entries
        for step in above:
            parent = parent.setdefault(step, {})
            if not isinstance(parent, dict):
                raise ValueError(f"{name} lies in an array")
        if own in parent:
            raise ValueError(f"{name} is there twice")
        parent[own] = array
    built = _build(entries)
    if not isinstance(built, list):
        raise ValueError("they are not of a list")
    return built


def _build(value: Any) -> Any:
    """Lists where the names are numbers from 0 on."""
    if not isinstance(value, dict):
        return value.tolist() if value.dtype.kind == "U" else value
    if list(value) == [str(index) for index in range(len(value))]:
        return [_build(member) for member in value.values()]
    return {name: _build(member) for name, member in value.items()}


def _flatten(path: str, value: Any) -> Iterator[tuple[str, NDArray[Any]]]:
    if isinstance(value, Mapping):
        members: Any = value.items()
    elif isinstance(value, list) and not all(isinstance(one, str) for one in value):
        members = enumerate(value)
    else:
        yield path, np.asarray(value)
        return
    for name, member in members:
        yield from _flatten(f"{path}.{name}" if path else str(name), member)


def _describe_charts(instance: Instance) -> dict[str, NDArray[Any]]:
    maps = instance.maps
    described = {"labels": maps[Output.LABELS].samples, "uv": maps[RawMap.UV].samples}
    for name in CONFIDENCES:
        if (confidence := maps.get(f"{RawMap.CONFIDENCE}.{name}")) is not None:
            described[name] = confidence.samples
    return described
