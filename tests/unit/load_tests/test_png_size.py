import cv2
import numpy as np
import pytest

from load_tests.png_size import compare, libpng_default, noise, pillow_default


@pytest.mark.parametrize("encode", [libpng_default, pillow_default])
def test_what_is_compared_with_is_the_same_picture(encode) -> None:  # type: ignore[no-untyped-def]
    samples = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    read = cv2.imdecode(np.frombuffer(encode(samples), np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(read[..., ::-1], samples)


def test_maps_are_at_most_15_per_cent_larger_than_pillow_writes_them() -> None:
    for maps in noise().values():
        found = compare(maps[:5], repetitions=1)
        assert found.our_bytes <= 1.15 * found.their_bytes
