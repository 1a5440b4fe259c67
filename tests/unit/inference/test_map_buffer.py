import numpy as np
import pytest
import torch

from service.datatypes import Output, Query
from service.inference.map_buffer import CONFIDENCE_RANGES, MapBuffer, MapReader, spread


def test_what_is_written_on_the_device_is_read_on_the_host() -> None:
    layout = {
        "labels": ((5,), torch.uint8),
        "vertices": ((3, 2), torch.uint16),
        "ranges": ((2, 1, 3), torch.float32),
        "embedding": ((1, 2), torch.float16),
        "nothing": ((0, 3), torch.uint8),
    }
    maps = MapBuffer(layout, torch.device("cpu"))
    maps["labels"][1:4] = torch.tensor([7, 8, 255]).to(torch.uint8)
    maps["labels"][[0, 4]] = torch.zeros(2, dtype=torch.uint8)
    maps["vertices"][:] = torch.tensor([[0, 1], [32768, 27554], [65535, 2]], dtype=torch.int32)
    maps["ranges"][:] = torch.arange(6.0).reshape(2, 1, 3)
    maps["embedding"][:] = torch.tensor([[0.5, -2.0]])
    arrays = maps.to_host()
    assert arrays["labels"].tolist() == [0, 7, 8, 255, 0]
    assert arrays["vertices"].tolist() == [[0, 1], [32768, 27554], [65535, 2]]
    assert arrays["vertices"].dtype == np.uint16
    assert arrays["ranges"].tolist() == [[[0.0, 1.0, 2.0]], [[3.0, 4.0, 5.0]]]
    assert arrays["embedding"].tolist() == [[0.5, -2.0]]
    assert arrays["nothing"].shape == (0, 3)
    assert "labels" in maps
    assert "iuv" not in maps


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float32])
def test_some_pixels_are_spread_and_all_others_are_0(dtype: torch.dtype) -> None:
    out = torch.full((5, 2), 9).to(dtype)
    values = torch.tensor([[1, 2], [200, 255]]).to(dtype)
    spread(values, torch.tensor([3, 0]), out)
    assert out.tolist() == [[200, 255], [0, 0], [0, 0], [1, 2], [0, 0]]


def test_pixels_may_lie_along_the_second_dimension_of_part_of_a_map() -> None:
    whole = torch.full((2, 6), 9).to(torch.uint16)
    spread(
        torch.tensor([[1, 2], [40000, 65535]]).to(torch.uint16),
        torch.tensor([0, 2]),
        whole[:, 1:4],
        dim=1,
    )
    assert whole.tolist() == [[9, 1, 0, 2, 9, 9], [9, 40000, 0, 65535, 9, 9]]


REGIONS = [(0, 0, 2, 2), (0, 0, 2, 1)]
LABELS = np.array([1, 0, 1, 1, 1, 1], np.uint8)
# The first instance's confidence goes from -30 to 10, the second's is 4 all over.
SAMPLES = np.array([[1, 0, 65535, 32768, 1, 1]], np.uint16)
RANGES = np.array([[[-30.0], [4.0]], [[10.0], [4.0]]], np.float32)
ARRAYS = {Output.CONFIDENCE: SAMPLES, CONFIDENCE_RANGES: RANGES, Output.MASK: LABELS * 255}


def read(**wishes):
    query = Query(frozenset({Output.CONFIDENCE, Output.MASK}), **wishes)
    maps = MapReader(ARRAYS, ["sigma_2"]).read(REGIONS, query)
    return [one["confidence.sigma_2"] for one in maps]


def test_the_least_confidence_is_sample_1_and_0_is_off_the_body():
    first, second = read()
    np.testing.assert_allclose(first.values(), [[-30, 0], [10, -10]], atol=1e-3)
    assert first.values()[0, 1] == 0
    np.testing.assert_allclose(second.values(), [[4, 4]])


def test_a_shared_range_keeps_values_and_what_is_off_the_body():
    first, second = read(is_confidence_range_shared=True)
    assert (first.scale, first.offset) == (second.scale, second.offset)
    assert first.samples.tolist() == [[1, 0], [65535, 32768]]
    np.testing.assert_allclose(first.values(), [[-30, 0], [10, -10]], atol=1e-3)
    np.testing.assert_allclose(second.values(), [[4, 4]], atol=1e-3)


def test_an_instance_without_body_has_no_confidence():
    arrays = {**ARRAYS, Output.CONFIDENCE: SAMPLES * 0, CONFIDENCE_RANGES: RANGES * np.inf}
    query = Query(frozenset({Output.CONFIDENCE}))
    for maps in MapReader(arrays, ["sigma_2"]).read(REGIONS, query):
        assert not maps["confidence.sigma_2"].values().any()
