"""Instances as results of the COCO DensePose challenge, and masks as COCO's run lengths.

DensePose, challenge/2019_COCO_DensePose/results_format.md; cocoapi, common/maskApi.c.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pybase64
from numpy.typing import NDArray

from service.datatypes import Output, RegionXYWH, SizeHW
from service.output.figures import Figure
from service.output.png import encode_png


def describe_results(
    figures: Sequence[Figure], image_size_hw: SizeHW, image_id: int
) -> list[dict[str, Any]]:
    """One result per figure, for JSON.

    Classes count from 1, as people do in COCO. `uv_data` is a PNG of the region, R, G, B = I, U,
    V, in base64; models without charts have the mask alone. `segmentation` is what detectron2's
    evaluator adds.
    """
    return [_describe(figure, image_size_hw, image_id) for figure in figures]


def _describe(figure: Figure, image_size_hw: SizeHW, image_id: int) -> dict[str, Any]:
    instance = figure.instance
    x0, y0, x1, y1 = instance.box_xyxy
    result: dict[str, Any] = {
        "image_id": image_id,
        "category_id": None if instance.class_id is None else instance.class_id + 1,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "score": instance.score,
    }
    if Output.IUV in instance.maps:
        iuv_hw3 = instance.maps[Output.IUV].samples
        result["uv_shape"] = [3, *iuv_hw3.shape[:2]]
        result["uv_data"] = pybase64.b64encode_as_string(encode_png(iuv_hw3, {}))
    height, width = image_size_hw
    counts = count_runs(figure.mask(), instance.region_xywh, image_size_hw)
    result["segmentation"] = {"size": [height, width], "counts": encode_runs(counts)}
    return result


def count_runs(
    mask_hw: NDArray[np.uint8], region_xywh: RegionXYWH, image_size_hw: SizeHW
) -> list[int]:
    """The lengths of runs off and on the mask in turn, column after column of the whole image."""
    x, y, _, _ = region_xywh
    height, width = image_size_hw
    # In a column with 0 at both ends, every run has a beginning and an end.
    padded_wh = np.pad((mask_hw > 0).T.astype(np.int8), ((0, 0), (1, 1)))
    columns, rows = np.nonzero(np.diff(padded_wh, axis=1))
    edges = (x + columns) * height + y + rows
    # A run that ends where another begins goes on in the next column.
    edges, num_times = np.unique(edges, return_counts=True)
    edges = edges[num_times == 1]
    edges = np.union1d(edges, height * width)
    return [int(length) for length in np.diff(edges, prepend=0)]


def encode_runs(counts: Sequence[int]) -> str:
    """COCO's text for run lengths: differences from the last run of the kind, 5 bits a letter."""
    letters = []
    for index, count in enumerate(counts):
        value = count - counts[index - 2] if index > 2 else count
        is_more = True
        while is_more:
            bits, value = value & 31, value >> 5
            is_more = value != (-1 if bits & 16 else 0)
            letters.append(chr(48 + bits + 32 * is_more))
    return "".join(letters)
