"""The maps of chart models in one kernel: from the head's cells to what leaves the device.

Shape letters: R instances, S = side of the head's output, T = pixels of one program.
"""

import triton
import triton.language as tl

from service.inference.chart_maps import IN_KERNEL
from service.inference.map_buffer import Chunk, MapBuffer
from service.inference.region_kernel import (
    find_cells,
    first_of_largest,
    is_any_part,
    regions_on_device,
    sample_columns,
    sample_one,
)
from service.inference.regions import as_table
from service.network.densepose_head import HeadOutput

PIXELS = 64


def paint_charts(raw: HeadOutput, chunk: Chunk, maps: MapBuffer) -> None:
    """Fill the chunk's part of all maps but the confidences, as chart_maps.py does."""
    table_NC = as_table(raw.values_RCSS)
    first = {field: columns.start for field, columns in raw.channels.items()}
    coarse, fine = raw.channels["coarse_segm"], raw.channels.get("fine_segm", slice(0, 0))
    most_pixels = max(width * height for _, _, width, height in chunk.regions)
    iuv, iuv16, uv, labels, coarse_map, mask = (
        maps[output] if output in maps else None  # noqa: SIM401 - no dictionary
        for output in IN_KERNEL
    )
    _paint_pixels[(triton.cdiv(most_pixels, PIXELS), len(chunk.regions))](
        table_NC,
        regions_on_device(chunk, table_NC.device),
        iuv,
        iuv16,
        uv,
        labels,
        coarse_map,
        mask,
        0 if uv is None else uv.shape[1],
        SIDE=raw.values_RCSS.shape[2],
        CHANNELS=table_NC.shape[1],
        COARSE=coarse.start,
        NUM_COARSE=coarse.stop - coarse.start,
        COARSE_BLOCK=triton.next_power_of_2(coarse.stop - coarse.start),
        FINE=fine.start,
        NUM_FINE=fine.stop - fine.start,
        FINE_BLOCK=triton.next_power_of_2(max(fine.stop - fine.start, 1)),
        U=first.get("u"),
        V=first.get("v"),
        BLOCK=PIXELS,
        num_warps=4,
        enable_fp_fusion=False,
    )


@triton.jit
def _round(value):
    """To the next whole number, to the even one of two: for 0 <= value < 2^22.

    Above 2^23 floats have no fraction, so that the sum is rounded; the difference is exact.
    """
    return (value + 12582912.0) - 12582912.0


# Not built anew for every number of pixels.
@triton.jit(do_not_specialize=["num_all"])
def _paint_pixels(
    table_ptr,
    regions_ptr,
    iuv_ptr,
    iuv16_ptr,
    uv_ptr,
    labels_ptr,
    coarse_ptr,
    mask_ptr,
    num_all,
    SIDE: tl.constexpr,
    CHANNELS: tl.constexpr,
    COARSE: tl.constexpr,
    NUM_COARSE: tl.constexpr,
    COARSE_BLOCK: tl.constexpr,
    FINE: tl.constexpr,
    NUM_FINE: tl.constexpr,
    FINE_BLOCK: tl.constexpr,
    U: tl.constexpr,
    V: tl.constexpr,
    BLOCK: tl.constexpr,
):
    region = tl.program_id(1)
    width = tl.load(regions_ptr + region * 3).to(tl.int32)
    height = tl.load(regions_ptr + region * 3 + 1).to(tl.int32)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    is_in = pixel < width * height
    place = tl.load(regions_ptr + region * 3 + 2) + pixel
    cells, weights = find_cells(
        region, pixel // width, pixel % width, height, width, SIDE, CHANNELS
    )

    coarse = sample_columns(table_ptr, cells, weights, is_in, COARSE, NUM_COARSE, COARSE_BLOCK)
    if coarse_ptr is not None:
        best = first_of_largest(coarse, NUM_COARSE)
        tl.store(coarse_ptr + place, best.to(tl.uint8), mask=is_in)
    if NUM_FINE > 0:
        is_body = is_in & is_any_part(coarse, NUM_COARSE)
        fine = sample_columns(table_ptr, cells, weights, is_body, FINE, NUM_FINE, FINE_BLOCK)
        label = tl.where(is_body, first_of_largest(fine, NUM_FINE), 0)
        is_part = label > 0
        if labels_ptr is not None:
            tl.store(labels_ptr + place, label.to(tl.uint8), mask=is_in)
        if mask_ptr is not None:
            tl.store(mask_ptr + place, tl.where(is_part, 255, 0).to(tl.uint8), mask=is_in)
        if U is not None:
            u = sample_one(table_ptr, cells, weights, U + label, is_part)
            v = sample_one(table_ptr, cells, weights, V + label, is_part)
            if uv_ptr is not None:
                tl.store(uv_ptr + place, tl.minimum(tl.maximum(u, 0.0), 1.0), mask=is_in)
                tl.store(uv_ptr + num_all + place, tl.minimum(tl.maximum(v, 0.0), 1.0), mask=is_in)
            if iuv_ptr is not None:
                cut_u = tl.minimum(tl.maximum(u * 255.0, 0.0), 255.0).to(tl.int32)
                cut_v = tl.minimum(tl.maximum(v * 255.0, 0.0), 255.0).to(tl.int32)
                tl.store(iuv_ptr + place * 3, label.to(tl.uint8), mask=is_in)
                tl.store(iuv_ptr + place * 3 + 1, cut_u.to(tl.uint8), mask=is_in)
                tl.store(iuv_ptr + place * 3 + 2, cut_v.to(tl.uint8), mask=is_in)
            if iuv16_ptr is not None:
                near_u = _round(tl.minimum(tl.maximum(u * 65535.0, 0.0), 65535.0)).to(tl.int32)
                near_v = _round(tl.minimum(tl.maximum(v * 65535.0, 0.0), 65535.0)).to(tl.int32)
                tl.store(iuv16_ptr + place * 3, label.to(tl.uint16), mask=is_in)
                tl.store(iuv16_ptr + place * 3 + 1, near_u.to(tl.uint16), mask=is_in)
                tl.store(iuv16_ptr + place * 3 + 2, near_v.to(tl.uint16), mask=is_in)
