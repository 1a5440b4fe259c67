import numpy as np

from service.datatypes import Map


def test_quantized_samples_mean_0_off_the_body_and_nowhere_else() -> None:
    samples = np.array([[0, 1, 65535]], np.uint16)
    values = Map(samples, scale=2.0, offset=-32.0).values()
    assert values.dtype == np.float32
    assert values.tolist() == [[0.0, -30.0, 131038.0]]
    assert Map(samples).values() is samples
