"""Instances as results of the COCO DensePose challenge, and masks as COCO's run lengths.

DensePose, challenge/2019_COCO_DensePose/results_format.md; cocoapi, common/maskApi.c.
"""

import json
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.datatypes import Instance, Output, SizeHW
from service.output.canvas import column_strips_of, mask_of
from service.output.chunks import Chunks, Count, base64_of, count_nothing
from service.output.figures import Figure
from service.output.png import write_png

# Five bits a letter, as `_letters_of` counts them.
BITS, MORE, FIRST_LETTER = 5, 32, 48


def write_results(
    figures: Sequence[Figure],
    image_size_hw: SizeHW,
    image_id: int,
    count: Count = count_nothing,
) -> Chunks:
    """A JSON list of one result per figure, in chunks that are counted as they are made.

    Classes count from 1, as people do in COCO. `uv_data` is a PNG of the region, R, G, B = I, U,
    V, in base64; models without charts have the mask alone. `segmentation` is what detectron2's
    evaluator adds.
    """
    chunks: Chunks = deque([b"["])
    for index, figure in enumerate(figures):
        chunks.append(b", " if index else b"")
        chunks.extend(_write(figure.instance, image_size_hw, image_id, count))
    chunks.append(b"]")
    return chunks


def _write(
    instance: Instance, image_size_hw: SizeHW, image_id: int, count: Count
) -> Iterator[bytes]:
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
        yield json.dumps(result).encode()[:-1] + b', "uv_data": "'
        yield from base64_of(write_png(iuv_hw3, {}, count), count)
        yield b'"'
    else:
        yield json.dumps(result).encode()[:-1]
    size = json.dumps({"size": [*image_size_hw]}).encode()
    yield b', "segmentation": ' + size[:-1] + b', "counts": "'
    for letters in write_runs(instance, image_size_hw):
        # One of the letters is what JSON escapes by.
        text = letters.replace(b"\\", b"\\\\")
        count(len(text))
        yield text
    yield b'"}}'


def write_runs(instance: Instance, image_size_hw: SizeHW) -> Iterator[bytes]:
    """COCO's text for the lengths of runs off and on the mask in turn, in parts.

    They run down column after column of the whole image. The text has of each how it differs from
    the last one of its kind.
    """
    last_edge = 0
    # The two lengths before, and how many there were.
    before, num_runs = np.zeros(2, np.int64), 0
    for edges in _edges_of(instance, image_size_hw):
        lengths = np.diff(edges, prepend=last_edge)
        last_edge = int(edges[-1])
        known = np.concatenate((before, lengths))
        differences = lengths - known[:-2]
        # The first three stand for themselves.
        alone = max(3 - num_runs, 0)
        differences[:alone] = lengths[:alone]
        yield _letters_of(differences)
        before, num_runs = known[-2:], num_runs + len(lengths)


def _edges_of(instance: Instance, image_size_hw: SizeHW) -> Iterator[NDArray[np.int64]]:
    """Where runs end, as an index into the image's columns, one after the other; rising."""
    height, width = image_size_hw
    held = np.zeros(0, np.int64)
    for strip in column_strips_of(instance):
        x, y, strip_width, strip_height = strip.region_xywh
        # In a column with 0 at both ends, every run has a beginning and an end.
        padded_wh = np.zeros((strip_width, strip_height + 2), np.uint8)
        padded_wh[:, 1:-1] = mask_of(strip).T
        # One index at first, which is several times as fast as two.
        changes = np.flatnonzero(padded_wh[:, 1:] != padded_wh[:, :-1])
        columns, rows = np.divmod(changes, strip_height + 1)
        edges = np.concatenate((held, (x + columns) * height + y + rows))
        # A run that ends where another begins goes on, in the next column or the next strip.
        is_twice = edges[1:] == edges[:-1]
        is_kept = np.ones(len(edges), bool)
        is_kept[1:] &= ~is_twice
        is_kept[:-1] &= ~is_twice
        edges = edges[is_kept]
        # The last one may meet the first of the next strip.
        edges, held = edges[:-1], edges[-1:]
        if len(edges):
            yield edges
    end = np.array([height * width])
    yield np.concatenate((held, end)) if not len(held) or held[0] != end[0] else end


def _letters_of(values: NDArray[np.int64]) -> bytes:
    """Signed numbers, five bits a letter, the lowest first; a sixth says that there are more."""
    low, high = int(values.min()), int(values.max())
    most = 1
    while not -(1 << BITS * most - 1) <= low <= high < 1 << BITS * most - 1:
        most += 1
    if most == 1:
        # As in masks that are noise, of which there may be much.
        return ((values & (MORE - 1)) + FIRST_LETTER).astype(np.uint8).tobytes()
    # The smallest numbers that hold them are worked on the fastest.
    values = values.astype(np.int16 if most <= 3 else np.int64)
    letters = np.empty((len(values), most), np.uint8)
    is_there = np.ones((len(values), most), bool)
    for place in range(most):
        letters[:, place] = ((values >> (BITS * place)) & (MORE - 1)) + FIRST_LETTER
        if place:
            limit = 1 << BITS * place - 1
            is_there[:, place] = (values >= limit) | (values < -limit)
            letters[:, place - 1] += is_there[:, place].view(np.uint8) * np.uint8(MORE)
    return letters[is_there].tobytes()
