"""The maps of chart models, painted on the device for all instances together.

The pixels of all regions are worked on in tiles of one size: neither the number of operators in a
tile nor the working memory depends on how many instances there are or how large they are. The
coarse labels tell which pixels are body; only of these anything else is worked out.

Shape letters: R instances, S = side of the head's output, N = R S S cells, K = 25 labels,
C = 2 or 15 coarse labels, P = pixels of all regions, T = pixels of one tile, B those that are
body, F confidence fields. Of textures: P pixels of one region, H W = the client's image, N = side
of a part's square, T = 24 N N texels.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from service.datatypes import (
    MAPS,
    TEXTURE_COLUMNS,
    TEXTURE_ROWS,
    TEXTURE_SIDE,
    AnyMap,
    Output,
    RawMap,
    RegionXYWH,
    Sample,
)
from service.inference.map_buffer import (
    CONFIDENCE_RANGES,
    QUANTIZED_MAX,
    QUANTIZED_MIN,
    Chunk,
    MapBuffer,
    MapLayout,
    spread,
)
from service.inference.regions import Tile, argmax_of_rows, as_table, tiles
from service.network.densepose_head import HeadOutput
from service.network.kernels import has_kernels

# The least variance of U and V. densepose/config.py: UV_CONFIDENCE.EPSILON
MIN_VARIANCE = 0.01
# Fields of one channel; all others have one for each label.
PER_CELL = ("fine_segm_confidence", "coarse_segm_confidence")
IUV16_MAX = 65535
# What the kernel of CUDA paints, in the order in which it takes them.
IN_KERNEL = (Output.IUV, Output.IUV16, Output.UV, Output.LABELS, Output.COARSE, Output.MASK)
# Of a region, at once: what is worked out of each takes some 60 bytes.
MAX_TEXTURE_PIXELS = 2**20


def confidence_names(confidence_fields: Sequence[str]) -> tuple[str, ...]:
    """The confidence maps of a model whose head gives these fields: they and the derived ones."""
    derived = ("u_std", "v_std") if "sigma_2" in confidence_fields else ()
    return (*confidence_fields, *derived)


class ChartMaps:
    """What a chart model's head must give, the layout of its maps, and their painting."""

    def __init__(self, confidence_fields: Sequence[str]) -> None:
        self._confidence_fields = confidence_fields

    def fields(self, outputs: frozenset[AnyMap]) -> tuple[str, ...]:
        """What the head must give for these outputs, and no more."""
        needed = {"coarse_segm"}.union(*(MAPS[output].needs["chart"] for output in outputs))
        fields: list[str] = [
            field for field in ("coarse_segm", "fine_segm", "u", "v") if field in needed
        ]
        if outputs & {Output.CONFIDENCE, RawMap.CONFIDENCE}:
            fields += self._confidence_fields
        return tuple(fields)

    def layout(self, outputs: frozenset[AnyMap], pixels: int, instances: int) -> MapLayout:
        """Shape and type of every map of a batch."""
        fields = {
            Output.CONFIDENCE: confidence_names(self._confidence_fields),
            RawMap.CONFIDENCE: self._confidence_fields,
        }
        chosen: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}
        for output in frozenset[AnyMap]().union(*(MAPS[one].made_of or {one} for one in outputs)):
            kind = MAPS[output]
            planes = (len(fields[output]),) if kind.is_per_field else kind.planes
            chosen[output] = (*planes, pixels, *kind.depth), getattr(torch, kind.dtype)
        if Output.CONFIDENCE in outputs:
            shape = 2, instances, len(fields[Output.CONFIDENCE])
            chosen[CONFIDENCE_RANGES] = shape, torch.float32
        return chosen

    def paint(self, raw: HeadOutput, chunk: Chunk, maps: MapBuffer) -> None:
        """Fill the chunk's part of the maps from the head's outputs."""
        # Confidences need the range of each instance first, which takes several kernels anyway.
        is_slow = any(output in maps for output in MAPS if output not in IN_KERNEL)
        if has_kernels(raw.values_RCSS) and not is_slow:
            from service.inference.chart_kernel import paint_charts  # noqa: PLC0415

            paint_charts(raw, chunk, maps)
            return
        _ChartPainter(raw, self._confidence_fields).paint(chunk, maps)


@dataclass(frozen=True, slots=True)
class _Body:
    """What the head says of those of a tile's pixels that are body, and no others.

    `pixel_B` is their place in the tile. Where the labels are asked for, `label_B` is one of the
    24 parts or, where the coarse and the fine labels disagree, 0.
    """

    pixel_B: Tensor
    label_B: Tensor
    values: Mapping[str, Tensor]


class _ChartPainter:
    """The head's outputs of one chunk, as tables to look up."""

    def __init__(self, raw: HeadOutput, confidence_fields: Sequence[str]) -> None:
        self._raw = raw
        self._confidence_fields = confidence_fields
        self._side = raw.values_RCSS.shape[2]
        self._table = as_table(raw.values_RCSS)
        self._entries = self._table.view(-1, 1)
        # Of their own, as embedding_bag would copy the slice for every tile.
        self._coarse = self._columns("coarse_segm")
        self._fine = self._columns("fine_segm") if "fine_segm" in raw else None

    def _columns(self, field: str) -> Tensor:
        return self._table[:, self._raw.channels[field]].contiguous()

    def paint(self, chunk: Chunk, maps: MapBuffer) -> None:
        def all_tiles() -> Iterator[Tile]:
            return tiles(chunk.regions, self._side, chunk.max_tile_pixels, self._table.device)

        fields = ["u", "v"] if "u" in self._raw else []
        ranges_2RF = None
        if Output.CONFIDENCE in maps:
            ranges_2RF = self._confidence_ranges(all_tiles(), len(chunk.regions))
            maps[CONFIDENCE_RANGES][:, chunk.instances] = ranges_2RF
        if Output.CONFIDENCE in maps or RawMap.CONFIDENCE in maps:
            fields += self._confidence_fields
        for tile in all_tiles():
            here = chunk.place(tile.pixels)
            coarse_TC = tile.spots.sample(self._coarse)
            if Output.COARSE in maps:
                maps[Output.COARSE][here] = argmax_of_rows(coarse_TC).to(torch.uint8)
            if self._fine is None:
                continue
            body = self._read(tile, coarse_TC, self._fine, fields)
            self._write(maps, here, body)
            if ranges_2RF is not None:
                low_BF, high_BF = ranges_2RF[:, tile.regions_of(body.pixel_B)].unbind()
                share_BF = (self._confidences(body) - low_BF) / (high_BF - low_BF)
                num_steps = QUANTIZED_MAX - QUANTIZED_MIN
                quantized_BF = QUANTIZED_MIN + (share_BF.nan_to_num() * num_steps).round()
                quantized_BF *= (body.label_B > 0)[:, None]
                quantized_FB = quantized_BF.T.int().to(torch.uint16).contiguous()
                spread(quantized_FB, body.pixel_B, maps[Output.CONFIDENCE][:, here], dim=1)
            if RawMap.CONFIDENCE in maps:
                self._write_raw_confidences(tile, body, maps[RawMap.CONFIDENCE][:, here])

    def _read(self, tile: Tile, coarse_TC: Tensor, fine: Tensor, fields: Sequence[str]) -> _Body:
        is_body_T = coarse_TC[:, 1:].amax(dim=1) > coarse_TC[:, 0]
        pixel_B = torch.nonzero(is_body_T)[:, 0]
        spots = tile.spots.at(pixel_B)
        label_B = argmax_of_rows(spots.sample(fine)).int()
        # Of one number, in the channel that stands for the label.
        cells_B4 = spots.cells_P4 * self._table.shape[1]
        labelled_B4 = cells_B4 + label_B[:, None]
        values = {
            field: spots.sample(
                self._entries[self._raw.channels[field].start :],
                cells_B4 if field in PER_CELL else labelled_B4,
            )[:, 0]
            for field in fields
        }
        return _Body(pixel_B, label_B, values)

    @staticmethod
    def _write(maps: MapBuffer, here: slice, body: _Body) -> None:
        is_part_B = body.label_B > 0
        if Output.LABELS in maps:
            spread(body.label_B.to(torch.uint8), body.pixel_B, maps[Output.LABELS][here])
        if Output.MASK in maps:
            spread(is_part_B.to(torch.uint8) * 255, body.pixel_B, maps[Output.MASK][here])
        if Output.UV in maps:
            uv_2B = torch.stack((body.values["u"], body.values["v"])).clamp(0, 1) * is_part_B
            spread(uv_2B, body.pixel_B, maps[Output.UV][:, here], dim=1)
        if RawMap.UV in maps:
            uv_2B = torch.stack((body.values["u"], body.values["v"])) * is_part_B
            spread(uv_2B, body.pixel_B, maps[RawMap.UV][:, here], dim=1)
        for output, scale in ((Output.IUV, 255), (Output.IUV16, IUV16_MAX)):
            if output in maps:
                uv_B2 = torch.stack((body.values["u"], body.values["v"]), dim=1)
                uv_B2 = (uv_B2 * scale).clamp(0, scale) * is_part_B[:, None]
                if output is Output.IUV16:
                    uv_B2 = uv_B2.round()
                # By way of int32, as uint16 cannot be made from floats on every device.
                iuv_B3 = torch.cat((body.label_B[:, None], uv_B2.int()), dim=1)
                spread(iuv_B3.to(maps[output].dtype), body.pixel_B, maps[output][here])

    def _write_raw_confidences(self, tile: Tile, body: _Body, out_FT: Tensor) -> None:
        """As detectron2 keeps them: 0 off the body, unless all labels share one channel.

        densepose/converters/chart_output_to_chart_result.py: resample_confidences_to_bbox
        """
        for field, out_T in zip(self._confidence_fields, out_FT, strict=True):
            if field in PER_CELL:
                entries = self._entries[self._raw.channels[field].start :]
                cells_T4 = tile.spots.cells_P4 * self._table.shape[1]
                out_T.copy_(tile.spots.sample(entries, cells_T4)[:, 0])
            else:
                spread(body.values[field] * (body.label_B > 0), body.pixel_B, out_T)

    def _confidences(self, body: _Body) -> Tensor:
        """The confidence maps [B, F], in the order of `confidence_names`."""
        values = dict(body.values)
        if "sigma_2" in self._confidence_fields:
            variance_B = F.softplus(values["sigma_2"]) + MIN_VARIANCE
            for axis in ("u", "v"):
                kappa = values.get(f"kappa_{axis}")
                total_B = variance_B if kappa is None else variance_B + kappa**2
                values[f"{axis}_std"] = total_B.sqrt()
        return torch.stack([values[name] for name in confidence_names(self._confidence_fields)], 1)

    def _confidence_ranges(self, all_tiles: Iterator[Tile], num_regions: int) -> Tensor:
        """The least and the greatest value [2, R, F] on each instance's body."""
        assert self._fine is not None
        num_names = len(confidence_names(self._confidence_fields))
        shape = (num_regions, num_names)
        low_RF = torch.full(shape, torch.inf, device=self._table.device)
        high_RF = torch.full(shape, -torch.inf, device=self._table.device)
        for tile in all_tiles:
            coarse_TC = tile.spots.sample(self._coarse)
            body = self._read(tile, coarse_TC, self._fine, self._confidence_fields)
            values_BF = self._confidences(body)
            is_off_B1 = (body.label_B == 0)[:, None]
            index_BF = tile.regions_of(body.pixel_B)[:, None].expand_as(values_BF)
            low_RF.scatter_reduce_(0, index_BF, values_BF.masked_fill(is_off_B1, torch.inf), "amin")
            high_RF.scatter_reduce_(
                0, index_BF, values_BF.masked_fill(is_off_B1, -torch.inf), "amax"
            )
        return torch.stack((low_RF, high_RF))


def gather_textures(
    painted: Sequence[tuple[Sample, Sequence[RegionXYWH]]], maps: MapBuffer
) -> Iterator[NDArray[np.uint8]]:
    """On the host, a texture for each instance of the samples that ask for them, in their order.

    `maps` has the labels, U and V of all regions, one after the other.
    """
    first = 0
    for sample, regions in painted:
        places = []
        for region in regions:
            places.append(slice(first, first + region[2] * region[3]))
            first = places[-1].stop
        if Output.TEXTURE not in sample.query.outputs or not regions:
            continue
        assert sample.photo is not None
        photo_HW3 = torch.as_tensor(sample.photo.pixels_HW3).to(maps[Output.LABELS].device)
        for region, place in zip(regions, places, strict=True):
            label_P, uv_2P = maps[Output.LABELS][place], maps[Output.UV][:, place]
            yield gather_texture(label_P, uv_2P, region, photo_HW3).cpu().numpy()


def gather_texture(
    label_P: Tensor, uv_2P: Tensor, region_xywh: RegionXYWH, photo_HW3: Tensor
) -> Tensor:
    """R, G, B and coverage, uint8 [6 N, 4 N, 4]: 255 where a pixel fell, else all channels are 0.

    The part's square is read as detectron2 does it: x = U (N - 1), y = (1 - V) (N - 1), truncated.
    densepose/vis/densepose_results_textures.py. Of several pixels, the last one of the image stays.
    """
    left, top, width, _ = region_xywh
    height_px, width_px = TEXTURE_ROWS * TEXTURE_SIDE, TEXTURE_COLUMNS * TEXTURE_SIDE
    source_T = torch.full((height_px * width_px,), -1, device=label_P.device)
    for first in range(0, len(label_P), MAX_TEXTURE_PIXELS):
        body_B = torch.nonzero(label_P[first : first + MAX_TEXTURE_PIXELS])[:, 0] + first
        part_B = label_P[body_B].long() - 1
        u_B, v_B = uv_2P[:, body_B]
        x_B = part_B // TEXTURE_ROWS * TEXTURE_SIDE + (u_B * (TEXTURE_SIDE - 1)).long()
        y_B = part_B % TEXTURE_ROWS * TEXTURE_SIDE + ((1 - v_B) * (TEXTURE_SIDE - 1)).long()
        source_B = (top + body_B // width) * photo_HW3.shape[1] + left + body_B % width
        # The largest index, and not whichever is written last, so that every device agrees.
        source_T.scatter_reduce_(0, y_B * width_px + x_B, source_B, "amax")
    covered = torch.nonzero(source_T >= 0)[:, 0]
    texture_T4 = torch.zeros(len(source_T), 4, dtype=torch.uint8, device=label_P.device)
    texture_T4[covered, :3] = photo_HW3.reshape(-1, 3)[source_T[covered]].flip(1)
    texture_T4[covered, 3] = 255
    return texture_T4.view(height_px, width_px, 4)
