"""The lists that detectron2's `apply_net.py dump` writes; for the command line alone.

To read a pickle may run code, so the service never sends one.
"""

import io
import pickle
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

import numpy as np
import torch

from service.output.dump import CONFIDENCES, Entry


class DumpForm(StrEnum):
    """How a dump is written."""

    # detectron2's classes in torch.save's archive, as `apply_net.py dump` writes them.
    TORCH = "torch"
    # The same for readers that call `pickle.load`, as the dumps of 2020 were written.
    PICKLE = "pickle"
    # Dictionaries of tensors, which `torch.load(file, weights_only=True)` reads.
    PLAIN = "plain"


def write_dump(entries: Sequence[Entry], form: DumpForm) -> bytes:
    """The file of the entries of `service.output.dump.describe_image`; labels become int64."""
    file = io.BytesIO()
    match form:
        case DumpForm.PLAIN:
            torch.save([_as_tensors(entry) for entry in entries], file)
        case DumpForm.TORCH:
            # It takes the class Pickler of this module.
            torch.save(_as_objects(entries), file, pickle_module=sys.modules[__name__])
        case DumpForm.PICKLE:
            Pickler(file, protocol=2).dump(_as_objects(entries))
    return file.getvalue()


class _ChartResult:
    """densepose/structures/chart_result.py: DensePoseChartResultWithConfidences."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self.labels, self.uv = fields["labels"], fields["uv"]
        # detectron2's networks never give the first.
        for name in ("sigma_1", *CONFIDENCES):
            setattr(self, name, fields.get(name))


class _EmbeddingOutput:
    """densepose/structures/cse.py: DensePoseEmbeddingPredictorOutput."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self.embedding, self.coarse_segm = fields["embedding"], fields["coarse_segm"]


_NAMES: Mapping[type, bytes] = {
    _ChartResult: b"cdensepose.structures.chart_result\nDensePoseChartResultWithConfidences\n",
    _EmbeddingOutput: b"cdensepose.structures.cse\nDensePoseEmbeddingPredictorOutput\n",
}


# The one in C, of which the types speak, does not ask how a class is to be written.
class Pickler(pickle._Pickler):  # noqa: SLF001
    """Writes these objects under the names of detectron2's classes, which need not be here."""

    def save_global(self, obj: Any, name: str | None = None) -> None:
        """Write a class by its name."""
        if obj in _NAMES:
            self.write(_NAMES[obj])  # type: ignore[attr-defined]
            self.memoize(obj)  # type: ignore[attr-defined]
        else:
            super().save_global(obj, name)  # type: ignore[misc]


def _as_objects(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    objects = []
    for entry in entries:
        tensors = _as_tensors(entry)
        described = tensors.get("pred_densepose")
        if isinstance(described, list):
            tensors["pred_densepose"] = [_ChartResult(fields) for fields in described]
        elif described is not None:
            tensors["pred_densepose"] = _EmbeddingOutput(described)
        objects.append(tensors)
    return objects


def _as_tensors(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        tensor = torch.from_numpy(np.ascontiguousarray(value))
        return tensor.long() if value.dtype == np.uint8 else tensor
    if isinstance(value, Mapping):
        return {name: _as_tensors(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_as_tensors(member) for member in value]
    return value
