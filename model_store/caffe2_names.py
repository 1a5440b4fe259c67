"""The names of DensePose 1's Caffe2 blobs, turned into those of detectron2's parameters."""

import re
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from model_store.errors import CheckpointRejected

# As detectron2/checkpoint/c2_model_loading.py names them. What stands in brackets is kept, or
# replaced by its entry in _WORDS.
_RULES = {
    r"(conv1)_(w)": "backbone.bottom_up.stem.{}.{}",
    r"res_(conv1)_(bn_[sb])": "backbone.bottom_up.stem.{}.{}",
    r"(res[2-5])_(\d+)_(branch1|branch2[abc])_(w|bn_[sb])": "backbone.bottom_up.{}.{}.{}.{}",
    r"fpn_inner_res([2-5])_\d+_sum(?:_lateral)?_([wb])": "backbone.fpn_lateral{}.{}",
    r"fpn_res([2-5])_\d+_sum_([wb])": "backbone.fpn_output{}.{}",
    # What proposes regions is named for level 2 and shared by all levels.
    r"conv_rpn_fpn2_([wb])": "proposal_generator.rpn_head.conv.{}",
    r"rpn_cls_logits_fpn2_([wb])": "proposal_generator.rpn_head.objectness_logits.{}",
    r"rpn_bbox_pred_fpn2_([wb])": "proposal_generator.rpn_head.anchor_deltas.{}",
    r"(fc6|fc7)_([wb])": "roi_heads.box_head.{}.{}",
    r"(cls_score|bbox_pred)_([wb])": "roi_heads.box_predictor.{}.{}",
    r"(body_conv_fcn\d)_([wb])": "roi_heads.densepose_head.{}.{}",
    r"(AnnIndex|Index_UV|U|V)_lowres_([wb])": "roi_heads.densepose_predictor.{}_lowres.{}",
}
_WORDS = {
    "w": "weight",
    "b": "bias",
    "bn_s": "norm.weight",
    "bn_b": "norm.bias",
    "branch1": "shortcut",
    "branch2a": "conv1",
    "branch2b": "conv2",
    "branch2c": "conv3",
    "fc6": "fc1",
    "fc7": "fc2",
    "AnnIndex": "ann_index",
    "Index_UV": "index_uv",
    "U": "u",
    "V": "v",
}


def convert_blobs(blobs: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """The arrays as detectron2 names and orders them; a blob without a rule keeps its name.

    Raises:
        CheckpointRejected: two blobs are of the same parameter.
    """
    arrays = {}
    for blob, array in blobs.items():
        if blob.endswith("_momentum"):  # the optimizer's
            continue
        name = _convert_name(blob)
        if name in arrays:
            raise CheckpointRejected(f"has two arrays for {name}")
        arrays[name] = _move_background(blob, array)
    for name in [name for name in arrays if name.endswith(".norm.weight")]:
        # Caffe2 keeps a frozen batch norm's mean and variance within its scale and bias.
        layer = name.removesuffix("weight")
        arrays[f"{layer}running_mean"] = np.zeros_like(arrays[name])
        arrays[f"{layer}running_var"] = np.ones_like(arrays[name])
    return arrays


def _convert_name(blob: str) -> str:
    for pattern, name in _RULES.items():
        if match := re.fullmatch(pattern, blob):
            return name.format(*(_WORDS.get(word, word) for word in match.groups()))
    return blob


def _move_background(blob: str, array: NDArray[np.float32]) -> NDArray[np.float32]:
    # Caffe2 puts the background class first, and predicts a box for it too.
    if blob in ("cls_score_w", "cls_score_b") and array.ndim:
        return np.concatenate([array[1:], array[:1]])
    if blob in ("bbox_pred_w", "bbox_pred_b") and array.ndim:
        return array[4:]
    return array
