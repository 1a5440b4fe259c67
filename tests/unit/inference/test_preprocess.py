import numpy as np
import torch

from service.datatypes import Query, Sample
from service.inference.preprocess import normalise, pixel_mean, stack_samples, write_samples

CPU = torch.device("cpu")
QUERY = Query(frozenset())


def samples_of(*sizes_hw: tuple[int, int]) -> list[Sample]:
    generator = np.random.default_rng(0)
    pixels = [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes_hw]
    return [Sample(one, one.shape[:2], QUERY) for one in pixels]


def test_what_is_recorded_normalises_like_what_is_not() -> None:
    samples = samples_of((60, 90), (64, 70))
    # As other pictures left it.
    staging = torch.randint(0, 256, (2, 64, 96, 3), dtype=torch.uint8)
    write_samples(samples, staging)
    sizes = torch.tensor([[60.0, 90.0], [64.0, 70.0]])
    images = normalise(staging, sizes, pixel_mean(CPU), torch.float32)
    expected = stack_samples(samples, CPU, torch.float32)
    assert torch.equal(images, expected)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert not images[0, :, 60:].any()
    assert torch.allclose(
        images[0, :, 0, 0] + pixel_mean(CPU), torch.tensor(samples[0].pixels_hw3[0, 0]).float()
    )
