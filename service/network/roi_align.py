"""Reading boxes out of feature maps: He et al., Mask R-CNN, arXiv 1703.06870, section 3.

A bin of RoIAlign is the mean of some samples, each the weighted sum of four cells: a weighted sum
of rows of a table that has a row of channels for each cell, which is one `embedding_bag`. On
channels-last maps that is many times faster than an operator that walks the channels one by one,
and all levels of the pyramid are read at once. On CUDA one kernel of our own does the same.

Shape letters: N images, C channels, H W = a map's height and width, R boxes of all images,
P = the side of what is read, G = samples of a bin along one axis, M = P G samples of a box.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model_store.catalogue import Pooler
from service.network.backbone import LEVELS
from service.network.kernels import has_kernels, roi_align

# A box of this side is read from p4. Lin et al., arXiv 1612.03144, equation 1.
CANONICAL_SIDE = 224
CANONICAL_LEVEL = 4


def pyramid_levels(boxes_R4: Tensor) -> Tensor:
    """The level, 2 to 5, that suits the size of each box."""
    x0, y0, x1, y1 = boxes_R4.unbind(-1)
    sides = ((x1 - x0) * (y1 - y0)).sqrt()
    levels = torch.floor(CANONICAL_LEVEL + torch.log2(sides / CANONICAL_SIDE + 1e-8))
    return levels.clamp(LEVELS[0], LEVELS[-1]).long()


class RoIPooler(nn.Module):
    """RoIAlign on the level that suits a box's size, or on the one level there is."""

    def __init__(self, pooler: Pooler) -> None:
        super().__init__()
        self.resolution = pooler.resolution
        self.sampling_ratio = pooler.sampling_ratio
        self.is_aligned = pooler.aligned

    def forward(self, levels: list[Tensor], rois_R5: Tensor) -> Tensor:
        """[R, C, P, P] of p2 .. p5, or of one map at stride 4.

        `rois_R5` holds the image's index and the box, in the network's input's pixels, float32.
        """
        if len(levels) == 1:
            level_of_R = torch.full_like(rois_R5[:, 0], LEVELS[0], dtype=torch.int64)
        else:
            level_of_R = pyramid_levels(rois_R5[:, 1:])
        if has_kernels(rois_R5):
            from service.network.roi_align_kernel import align_on_device  # noqa: PLC0415

            return align_on_device(
                levels,
                rois_R5,
                level_of_R - LEVELS[0],
                side=self.resolution,
                sampling_ratio=self.sampling_ratio,
                is_aligned=self.is_aligned,
            )
        if self.sampling_ratio:
            return self._gather(levels, rois_R5, level_of_R)
        return self._align(levels, rois_R5, level_of_R)

    def _gather(self, levels: list[Tensor], rois_R5: Tensor, level_of_R: Tensor) -> Tensor:
        """RoIAlign with a fixed number of samples in a bin."""
        tables = [level.permute(0, 2, 3, 1).reshape(-1, level.shape[1]) for level in levels]
        sizes_L3 = torch.tensor(
            [(len(table), *level.shape[2:]) for table, level in zip(tables, levels, strict=True)],
            device=rois_R5.device,
        )
        rows_L, heights_L, widths_L = sizes_L3.unbind(1)
        which_R = level_of_R - LEVELS[0]
        height_R, width_R = heights_L[which_R], widths_L[which_R]
        # Where the image's map begins among all tables' rows.
        first_R = (rows_L.cumsum(0) - rows_L)[which_R] + rois_R5[:, 0].long() * height_R * width_R

        boxes_R4 = rois_R5[:, 1:] * torch.exp2(-level_of_R.float())[:, None]
        x0, y0, x1, y1 = (boxes_R4 - (0.5 if self.is_aligned else 0.0)).unbind(1)
        down_cells_RM2, down_shares_RM2 = self._sample_axis(y0, y1 - y0, height_R)
        along_cells_RM2, along_shares_RM2 = self._sample_axis(x0, x1 - x0, width_R)
        count, side, samples = len(rois_R5), self.resolution, 2 * self.sampling_ratio
        # Every pair of a cell down and a cell along, bin by bin.
        bins = (count, side, 1, samples, 1), (count, 1, side, 1, samples)
        cells = down_cells_RM2.reshape(bins[0]) * width_R.reshape(-1, 1, 1, 1, 1)
        cells = cells + along_cells_RM2.reshape(bins[1]) + first_R.reshape(-1, 1, 1, 1, 1)
        weights = down_shares_RM2.reshape(bins[0]) * along_shares_RM2.reshape(bins[1])
        table = tables[0] if len(tables) == 1 else torch.cat(tables)
        pooled = F.embedding_bag(
            cells.reshape(-1, samples**2),
            table,
            per_sample_weights=weights.reshape(-1, samples**2).to(table.dtype),
            mode="sum",
        )
        return pooled.reshape(count, side, side, table.shape[1]).permute(0, 3, 1, 2)

    def _sample_axis(
        self, start_R: Tensor, length_R: Tensor, size_R: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The two cells [R, M, 2] around each sample along one axis, and their shares of the bin.

        As in torchvision's roi_align_common.h.
        `start_R` and `length_R` are in cells of the map, `size_R` is how many it has.
        """
        if not self.is_aligned:
            length_R = length_R.clamp(min=1)
        grid = self.sampling_ratio
        sample_M = torch.arange(self.resolution * grid, device=start_R.device)
        bin_R1 = (length_R / self.resolution)[:, None]
        place_RM = start_R[:, None] + (sample_M // grid) * bin_R1
        place_RM = place_RM + (sample_M % grid + 0.5) * bin_R1 / grid
        last_R1 = (size_R - 1)[:, None]
        is_inside_RM = (place_RM >= -1) & (place_RM <= size_R[:, None])
        place_RM = torch.minimum(place_RM.clamp(min=0), last_R1)
        first_RM = place_RM.long()
        fraction_RM = place_RM - first_RM
        weights = torch.stack((1 - fraction_RM, fraction_RM), dim=-1)
        return (
            torch.stack((first_RM, torch.minimum(first_RM + 1, last_R1)), dim=-1),
            weights * (is_inside_RM / grid)[..., None],
        )

    def _align(self, levels: list[Tensor], rois_R5: Tensor, level_of_R: Tensor) -> Tensor:
        """RoIAlign with as many samples as the bin has cells, which differ from box to box."""
        channels, side = levels[0].shape[1], self.resolution
        pooled = levels[0].new_zeros(len(rois_R5), channels, side, side)
        for level, features_NCHW in zip(LEVELS, levels, strict=False):
            members = torch.nonzero(level_of_R == level)[:, 0]
            # In float32: box coordinates do not survive half precision.
            read = roi_align(
                features_NCHW.float(),
                rois_R5[members],
                side,
                spatial_scale=2.0**-level,
                sampling_ratio=0,
                aligned=self.is_aligned,
            )
            pooled[members] = read.to(pooled.dtype)
        return pooled
