import pytest
import torch

from service.inference.argmax import BLOCK_PIXELS, argmax_of_columns, argmax_of_rows

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
