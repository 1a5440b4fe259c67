"""Half precision against fp32, as docs/precision.md has it for all models."""

import pytest
import torch

from load_tests.precision import Distance, measure
from model_store.catalogue import load_catalogue

CARDS = load_catalogue()
CPU = torch.device("cpu")
# A rounding of bfloat16 is 2^-9 of a number, of float16 2^-12, and hundreds of them add up to some
# ten times that. Labels and vertices are the largest of many numbers: of those that lie as close
# together, a share as large changes. Of U and V, one step of 255 is 2^-8 of their range.
MAX_OTHER_LABELS = {"bf16": 0.05, "fp16": 0.05 / 8}
MAX_OTHER_MASK = {"bf16": 0.03, "fp16": 0.03 / 8}
MAX_UV_MEAN = {"bf16": 1.0, "fp16": 1.0 / 8}
MAX_SCORE_MEDIAN = {"bf16": 0.01, "fp16": 0.01 / 8}


@pytest.mark.slow
@pytest.mark.parametrize(
    "model_id",
    ["R_50_FPN_s1x_legacy", "R_50_FPN_s1x", "R_50_FPN_DL_WC2M_s1x", "cse_R_50_FPN_s1x"],
)
def test_half_precision_is_as_far_away_as_its_rounding(model_id: str) -> None:
    distances = measure(CARDS[model_id], ("bf16", "fp16"), CPU)
    for precision, distance in distances.items():
        assert others(distance) <= MAX_OTHER_LABELS[precision]
        assert 1 - distance.mask_iou <= MAX_OTHER_MASK[precision]
        assert (distance.uv_mean or 0.0) <= MAX_UV_MEAN[precision]
        assert distance.score_median <= MAX_SCORE_MEDIAN[precision]
        # What is found hangs on the last bits where two boxes are as good as each other.
        assert distance.matched >= 0.6 * distance.found > 0
    assert others(distances["fp16"]) < others(distances["bf16"])


def others(distance: Distance) -> float:
    """The share of the body that gets another label or vertex."""
    share = distance.vertices if distance.labels is None else distance.labels
    assert share is not None
    return 1 - share
