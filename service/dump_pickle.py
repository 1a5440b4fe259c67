"""The list that detectron2's `apply_net.py dump` writes, as a file; for the command line alone.

To read a pickle may run code, so the service never sends one. This one holds lists, dictionaries,
text and tensors in host memory, and `torch.load(path, weights_only=True)` reads it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from service.output.dump import Entry


def write_dump(entries: Sequence[Entry], path: Path) -> None:
    """Write the entries of `service.output.dump.describe_image`; labels become int64."""
    torch.save([_as_tensors(entry) for entry in entries], path)


def _as_tensors(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        tensor = torch.from_numpy(np.ascontiguousarray(value))
        return tensor.long() if value.dtype == np.uint8 else tensor
    if isinstance(value, Mapping):
        return {name: _as_tensors(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_as_tensors(member) for member in value]
    return value
