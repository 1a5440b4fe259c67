"""The list that detectron2's `apply_net.py dump` writes; for the command line alone.

To read a pickle may run code, so the service never sends one. This one holds lists, dictionaries,
text and tensors in host memory, and `torch.load(file, weights_only=True)` reads it.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from service.output.dump import Entry


def write_dump(entries: Sequence[Entry]) -> bytes:
    """The file of the entries of `service.output.dump.describe_image`; labels become int64."""
    file = io.BytesIO()
    torch.save([_as_tensors(entry) for entry in entries], file)
    return file.getvalue()


def _as_tensors(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        tensor = torch.from_numpy(np.ascontiguousarray(value))
        return tensor.long() if value.dtype == np.uint8 else tensor
    if isinstance(value, Mapping):
        return {name: _as_tensors(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_as_tensors(member) for member in value]
    return value
