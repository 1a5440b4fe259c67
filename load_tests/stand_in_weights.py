"""Deterministic stand-in weights: every array is a function of a seed, a name and a shape.

`tests/parity/data/outputs` holds what detectron2 computed from exactly these weights, so nothing
here may change: not the order of the branches, not a factor, not the generator. They are not built
beside the data: a checkout of detectron2 on PYTHONPATH has a package `tests`, which hides ours.
"""

import functools
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

DATA = Path(__file__).parents[1] / "tests" / "parity" / "data"
PROMPTED = "prompted"

Arrays = dict[str, NDArray[np.float32]]


def read_spec(model_id: str) -> dict[str, Any]:
    """The seed, names, shapes and biases of a model's stand-in."""
    spec: dict[str, Any] = json.loads((DATA / "parameters" / f"{model_id}.json").read_text())
    return spec


def build_arrays(model_id: str, picture: str) -> Arrays:
    """detectron2's parameters for a picture, or for `PROMPTED`.

    For a picture, the background's score bias is such that a handful of detections survive. For
    `PROMPTED`, U and V are brought to about 0.5 +- 0.2 and about half of each box is body.
    """
    spec = read_spec(model_id)
    arrays = dict(_untouched_arrays(model_id))
    if picture in spec["background_bias"]:
        name = next(name for name in arrays if name.endswith("cls_score.bias"))
        arrays[name] = arrays[name].copy()
        arrays[name][-1] = spec["background_bias"][picture]
    if picture == PROMPTED:
        _prompt(arrays, spec["prompted"])
    return arrays


def as_caffe2(model_id: str, arrays: Arrays) -> Arrays:
    """The arrays under Caffe2's names, the background class first, momenta included."""
    blobs = {}
    for name, blob in read_spec(model_id)["caffe2_names"].items():
        value = arrays[name]
        if blob.startswith("cls_score"):
            value = np.concatenate([value[-1:], value[:-1]])
        elif blob.startswith("bbox_pred"):
            value = np.concatenate([np.zeros((4, *value.shape[1:]), np.float32), value])
        blobs[blob] = value
        blobs[f"{blob}_momentum"] = np.zeros(1, np.float32)
    return blobs


@functools.lru_cache(maxsize=1)
def _untouched_arrays(model_id: str) -> Arrays:
    spec = read_spec(model_id)
    return {name: _array(spec["seed"], name, shape) for name, shape in spec["parameters"].items()}


def _normal(seed: int, name: str, shape: list[int]) -> NDArray[np.float32]:
    key = np.frombuffer(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:16], dtype="<u8")
    return np.random.Generator(np.random.Philox(key=key)).standard_normal(shape, dtype=np.float32)


def _array(  # noqa: C901, PLR0911 - one table of cases, tried in order
    seed: int, name: str, shape: list[int]
) -> NDArray[np.float32]:
    z = _normal(seed, name, shape)
    f32 = np.float32
    if name.endswith("running_var"):
        variance: NDArray[np.float32] = np.exp(f32(0.2) * z)
        return variance
    if name.endswith("running_mean"):
        return f32(0.1) * z
    if ".embedder_" in name:
        return z * f32(1 / 16) if name.endswith("features") else z
    if name.endswith("cls_score.bias"):
        return np.zeros(shape, f32)
    if len(shape) == 1:
        if name.endswith("bias"):
            is_uv = "u_lowres" in name or "v_lowres" in name
            return f32(0.5) + f32(0.1) * z if is_uv else f32(0.05) * z
        scale = 0.2 if "conv3.norm" in name else 0.02 if "stem.conv1.norm" in name else 1.0
        return f32(scale) * (1 + f32(0.1) * z)
    if len(shape) == 2:
        layer = name.split(".")[-2]
        if layer in {"cls_score", "bbox_pred"}:
            z = z - z.mean(axis=1, keepdims=True)
        gain = {"cls_score": 0.6, "bbox_pred": 0.5}.get(layer, math.sqrt(2))
        return z * f32(gain / math.sqrt(shape[1]))
    if "_lowres" in name:
        gain = 0.25 if "u_lowres" in name or "v_lowres" in name else 1.0
        return z * f32(gain / math.sqrt(4 * shape[0]))
    gain = math.sqrt(2)
    if "fpn_" in name or "objectness" in name:
        gain = 1.0
    if "anchor_deltas" in name:
        gain = 0.08
    return z * f32(gain / math.sqrt(shape[1] * shape[2] * shape[3]))


def _prompt(arrays: Arrays, prompted: dict[str, float]) -> None:
    f32 = np.float32
    gain = f32(prompted["uv_gain"])
    for name in arrays:
        if "u_lowres" in name or "v_lowres" in name:
            arrays[name] = arrays[name] * gain
            if name.endswith("bias"):
                mean = prompted["u_mean" if "u_lowres" in name else "v_mean"]
                arrays[name] += f32(0.5) - gain * f32(mean)
        if name.endswith(("ann_index_lowres.bias", "coarse_segm_lowres.bias")):
            arrays[name] = arrays[name].copy()
            arrays[name][0] += f32(prompted["coarse_bias"])
