import pytest
import torch
from torch.nn import functional as F

from service.inference.regions import (
    BLOCK_PIXELS,
    argmax_of_columns,
    argmax_of_rows,
    as_table,
    num_pixels,
    tiles,
)

SIDE = 112
REGIONS = [(3, 4, 1, 1), (0, 0, 57, 200), (9, 9, 300, 41), (5, 5, 112, 112), (0, 1, 1, 77)]


@pytest.mark.parametrize("max_pixels", [1000, 2**20])
def test_sampling_a_region_is_resizing_the_head_s_output_to_it(max_pixels: int) -> None:
    torch.manual_seed(0)
    raw = torch.randn(len(REGIONS), 27, SIDE, SIDE)
    table = as_table(raw)
    device = torch.device("cpu")
    all_tiles = tiles(REGIONS, SIDE, max_pixels, device)
    sampled = torch.cat([tile.spots.sample(table) for tile in all_tiles])
    expected = torch.cat(
        [
            F.interpolate(one[None], size=(h, w), mode="bilinear", align_corners=False)[0]
            .flatten(1)
            .T
            for one, (_, _, w, h) in zip(raw, REGIONS, strict=True)
        ]
    )
    torch.testing.assert_close(sampled, expected, rtol=1e-5, atol=2e-6)


def test_some_of_the_spots_sample_what_they_sample_among_all() -> None:
    torch.manual_seed(0)
    table = torch.randn(len(REGIONS) * SIDE**2, 3)
    (tile,) = tiles(REGIONS, SIDE, 2**20, torch.device("cpu"))
    chosen = torch.tensor([0, 5, 9000, num_pixels(REGIONS) - 1])
    assert torch.equal(tile.spots.at(chosen).sample(table), tile.spots.sample(table)[chosen])
    assert tile.regions_of(chosen).tolist() == [0, 1, 1, 4]


def test_a_row_longer_than_a_tile_is_one() -> None:
    wide = [(0, 0, 50, 2), (0, 0, 7, 3)]
    found = [tile.pixels for tile in tiles(wide, SIDE, 14, torch.device("cpu"))]
    assert found == [slice(0, 50), slice(50, 100), slice(100, 114), slice(114, 121)]


def test_tiles_cover_every_pixel_once_and_know_its_region() -> None:
    regions_seen = torch.zeros(len(REGIONS), dtype=torch.int64)
    end = 0
    for tile in tiles(REGIONS, SIDE, 999, torch.device("cpu")):
        assert tile.pixels.start == end
        assert tile.pixels.stop - tile.pixels.start <= 999
        end = tile.pixels.stop
        every_pixel = torch.arange(tile.pixels.stop - tile.pixels.start)
        regions_seen += tile.regions_of(every_pixel).bincount(minlength=len(REGIONS))
    assert end == num_pixels(REGIONS)
    assert regions_seen.tolist() == [w * h for _, _, w, h in REGIONS]


def test_no_regions_have_no_tiles() -> None:
    assert list(tiles([], SIDE, 10, torch.device("cpu"))) == []


SIZES = [0, 1, BLOCK_PIXELS - 1, BLOCK_PIXELS, 3 * BLOCK_PIXELS, 3 * BLOCK_PIXELS + 5]


@pytest.mark.parametrize("num_pixels", SIZES)
@pytest.mark.parametrize("num_scores", [2, 15, 25, 300])
def test_it_is_the_first_of_the_greatest(num_pixels: int, num_scores: int) -> None:
    torch.manual_seed(0)
    scores = torch.randint(-3, 3, (num_pixels, num_scores)).float()
    if num_pixels:
        scores[0] = -torch.inf
        scores[-1] = torch.inf
    expected = scores.argmax(dim=1)
    assert torch.equal(argmax_of_rows(scores), expected)
    assert torch.equal(argmax_of_columns(scores.T.contiguous()), expected)


def test_part_of_a_wider_table_can_be_searched() -> None:
    torch.manual_seed(0)
    scores = torch.randn(3 * BLOCK_PIXELS + 5, 30)[:, 2:27]
    assert torch.equal(argmax_of_rows(scores), scores.argmax(dim=1))
    assert torch.equal(argmax_of_columns(scores.T), scores.argmax(dim=1))
