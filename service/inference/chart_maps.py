"""The maps of chart models, painted on the device for all instances together.

The pixels of all regions are worked on in tiles of one size: neither the number of operators in a
tile nor the working memory depends on how many instances there are or how large they are.

Shape letters: R instances, S = side of the head's output, N = R S S cells, K = 25 labels,
C = 2 or 15 coarse labels, P = pixels of all regions, T = pixels of one tile, F confidence fields.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from service.datatypes import Output
from service.inference.map_buffer import Chunk, MapBuffer, MapLayout
from service.inference.regions import Tile, as_table, tiles
from service.network.predictors import HeadOutput

# The least variance of U and V. densepose/config.py: UV_CONFIDENCE.EPSILON
MIN_VARIANCE = 0.01
# Fields of one channel; all others have one for each label.
PER_CELL = ("fine_segm_confidence", "coarse_segm_confidence")
QUANTIZED_MAX = 65535
CONFIDENCE_RANGES = "confidence_ranges"


def confidence_names(confidence_fields: Sequence[str]) -> tuple[str, ...]:
    """The confidence maps of a model whose head gives these fields: they and the derived ones."""
    derived = ("u_std", "v_std") if "sigma_2" in confidence_fields else ()
    return (*confidence_fields, *derived)


class ChartMaps:
    """What a chart model's head must give, the layout of its maps, and their painting."""

    def __init__(self, confidence_fields: Sequence[str]) -> None:
        self._confidence_fields = confidence_fields

    def fields(self, outputs: frozenset[Output]) -> tuple[str, ...]:
        """What the head must give for these outputs, and no more."""
        fields = ["coarse_segm"]
        if outputs - {Output.COARSE}:
            fields.append("fine_segm")
        if outputs & {Output.IUV, Output.IUV16, Output.UV, Output.TEXTURE}:
            fields += ["u", "v"]
        if Output.CONFIDENCE in outputs:
            fields += self._confidence_fields
        return tuple(fields)

    def layout(self, outputs: frozenset[Output], pixels: int, instances: int) -> MapLayout:
        """Shape and type of every map of a batch."""
        names = len(confidence_names(self._confidence_fields))
        layout = {
            Output.IUV: ((pixels, 3), torch.uint8),
            Output.IUV16: ((pixels, 3), torch.uint16),
            Output.UV: ((2, pixels), torch.float32),
            Output.LABELS: ((pixels,), torch.uint8),
            Output.COARSE: ((pixels,), torch.uint8),
            Output.MASK: ((pixels,), torch.uint8),
            Output.CONFIDENCE: ((names, pixels), torch.uint16),
        }
        if Output.TEXTURE in outputs:
            # What textures are gathered by.
            outputs = outputs - {Output.TEXTURE} | {Output.LABELS, Output.UV}
        chosen: dict[str, tuple[tuple[int, ...], torch.dtype]] = {o: layout[o] for o in outputs}
        if Output.CONFIDENCE in outputs:
            chosen[CONFIDENCE_RANGES] = ((2, instances, names), torch.float32)
        return chosen

    def paint(self, raw: HeadOutput, chunk: Chunk, maps: MapBuffer) -> None:
        """Fill the chunk's part of the maps from the head's outputs."""
        _ChartPainter(raw, self._confidence_fields).paint(chunk, maps)


@dataclass(frozen=True, slots=True)
class _Pixels:
    """What the head says of the pixels of one tile; `label_T` is 0 off the body."""

    coarse_TC: Tensor
    label_T: Tensor
    values: Mapping[str, Tensor]


class _ChartPainter:
    """The head's outputs of one chunk, as a table to look up."""

    def __init__(self, raw: HeadOutput, confidence_fields: Sequence[str]) -> None:
        self._raw = raw
        self._confidence_fields = confidence_fields
        self._num_coarse, self._side = raw["coarse_segm"].shape[1:3]
        self._table = as_table(raw.values_RCSS)
        last = "fine_segm" if "fine_segm" in raw else "coarse_segm"
        # Of its own, as embedding_bag would copy the slice for every tile.
        self._segmentation = self._table[:, : raw.channels[last].stop].contiguous()

    def paint(self, chunk: Chunk, maps: MapBuffer) -> None:
        def all_tiles() -> Iterator[Tile]:
            return tiles(chunk.regions, self._side, chunk.max_tile_pixels, self._table.device)

        fields = ["u", "v"] if "u" in self._raw else []
        ranges_2RF = None
        if Output.CONFIDENCE in maps:
            ranges_2RF = self._confidence_ranges(all_tiles(), len(chunk.regions))
            maps[CONFIDENCE_RANGES][:, chunk.instances] = ranges_2RF
            fields += self._confidence_fields
        for tile in all_tiles():
            here = chunk.place(tile.pixels)
            pixels = self._read(tile, fields)
            self._write(maps, here, pixels)
            if ranges_2RF is not None:
                low_TF, high_TF = ranges_2RF[:, tile.region_T].unbind()
                share_TF = (self._confidences(pixels) - low_TF) / (high_TF - low_TF)
                quantized_TF = (share_TF.nan_to_num() * QUANTIZED_MAX).round()
                quantized_TF *= (pixels.label_T > 0)[:, None]
                maps[Output.CONFIDENCE][:, here] = quantized_TF.T.to(torch.int32)

    def _read(self, tile: Tile, fields: Sequence[str]) -> _Pixels:
        segmentation_TC = tile.sample(self._segmentation)
        coarse_TC, fine_TK = segmentation_TC.tensor_split([self._num_coarse], dim=1)
        is_body_T = coarse_TC[:, 1:].amax(dim=1) > coarse_TC[:, 0]
        # Where only the coarse labels are asked for, nothing is known of the fine ones.
        label_T = fine_TK.argmax(dim=1) * is_body_T if fine_TK.shape[1] else is_body_T
        # Of one number, in the channel that stands for the label.
        entries_N1 = self._table.view(-1, 1)
        cells_T4 = tile.cells_T4 * self._table.shape[1]
        labelled_T4 = cells_T4 + label_T[:, None]
        values = {
            field: tile.sample(
                entries_N1,
                (cells_T4 if field in PER_CELL else labelled_T4) + self._raw.channels[field].start,
            )[:, 0]
            for field in fields
        }
        return _Pixels(coarse_TC, label_T, values)

    @staticmethod
    def _write(maps: MapBuffer, here: slice, pixels: _Pixels) -> None:
        is_body_T = pixels.label_T > 0
        if Output.COARSE in maps:
            maps[Output.COARSE][here] = pixels.coarse_TC.argmax(dim=1).to(torch.uint8)
        if Output.LABELS in maps:
            maps[Output.LABELS][here] = pixels.label_T.to(torch.uint8)
        if Output.MASK in maps:
            maps[Output.MASK][here] = is_body_T.to(torch.uint8) * 255
        if Output.UV in maps:
            uv_2T = torch.stack((pixels.values["u"], pixels.values["v"]))
            maps[Output.UV][:, here] = uv_2T.clamp(0, 1) * is_body_T
        for output, scale in ((Output.IUV, 255), (Output.IUV16, QUANTIZED_MAX)):
            if output in maps:
                uv_T2 = torch.stack((pixels.values["u"], pixels.values["v"]), dim=1)
                uv_T2 = (uv_T2 * scale).clamp(0, scale) * is_body_T[:, None]
                if output is Output.IUV16:
                    uv_T2 = uv_T2.round()
                maps[output][here, 0] = pixels.label_T.to(torch.uint8)
                # By way of int32, as uint16 cannot be made from floats on every device.
                maps[output][here, 1:] = uv_T2.to(torch.int32)

    def _confidences(self, pixels: _Pixels) -> Tensor:
        """The confidence maps [T, F], in the order of `confidence_names`."""
        values = dict(pixels.values)
        if "sigma_2" in self._confidence_fields:
            variance_T = F.softplus(values["sigma_2"]) + MIN_VARIANCE
            for axis in ("u", "v"):
                kappa = values.get(f"kappa_{axis}")
                total_T = variance_T if kappa is None else variance_T + kappa**2
                values[f"{axis}_std"] = total_T.sqrt()
        return torch.stack([values[name] for name in confidence_names(self._confidence_fields)], 1)

    def _confidence_ranges(self, all_tiles: Iterator[Tile], num_regions: int) -> Tensor:
        """The least and the greatest value [2, R, F] on each instance's body."""
        num_names = len(confidence_names(self._confidence_fields))
        shape = (num_regions, num_names)
        low_RF = torch.full(shape, torch.inf, device=self._table.device)
        high_RF = torch.full(shape, -torch.inf, device=self._table.device)
        for tile in all_tiles:
            pixels = self._read(tile, self._confidence_fields)
            values_TF = self._confidences(pixels)
            is_off_T1 = (pixels.label_T == 0)[:, None]
            index_TF = tile.region_T[:, None].expand_as(values_TF)
            low_RF.scatter_reduce_(0, index_TF, values_TF.masked_fill(is_off_T1, torch.inf), "amin")
            high_RF.scatter_reduce_(
                0, index_TF, values_TF.masked_fill(is_off_T1, -torch.inf), "amax"
            )
        return torch.stack((low_RF, high_RF))
