import numpy as np

from service.datatypes import Output, Query
from service.inference.chart_maps import CONFIDENCE_RANGES
from service.inference.instances import MapReader

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
