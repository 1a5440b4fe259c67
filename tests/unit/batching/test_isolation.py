import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.batching.isolation import run_isolated
from service.batching.ticket import BatchKey
from service.errors import DeviceFailed, OutOfMemory

KEY = BatchKey("a", (320, 448))


class Device:
    """Fails where one of the poisonous samples is in the batch, or too many are."""

    def __init__(self, poisonous=(), max_samples=1000):
        self.poisonous, self.max_samples = set(poisonous), max_samples
        self.batches = []

    def run(self, key, samples):
        self.batches.append(list(samples))
        if len(samples) > self.max_samples:
            raise OutOfMemory("too many")
        if self.poisonous & set(samples):
            raise ValueError("poison")
        return [sample * 10 for sample in samples]


def test_a_batch_that_succeeds_is_run_once():
    device = Device()
    outcome = run_isolated(device.run, KEY, [1, 2, 3])
    assert (outcome.results, outcome.num_splits) == ([10, 20, 30], 0)
    assert device.batches == [[1, 2, 3]]


def test_a_batch_that_fails_is_halved_until_the_culprit_is_alone():
    device = Device(poisonous=[6])
    outcome = run_isolated(device.run, KEY, list(range(8)))
    assert [type(result) for result in outcome.results] == [int] * 6 + [ValueError, int]
    assert device.batches[1:] == [[0, 1, 2, 3], [4, 5, 6, 7], [4, 5], [6, 7], [6], [7]]
    assert outcome.num_splits == 3


def test_a_batch_that_does_not_fit_is_run_in_parts_that_do():
    device = Device(max_samples=3)
    outcome = run_isolated(device.run, KEY, list(range(8)))
    assert outcome.results == [sample * 10 for sample in range(8)]
    assert [len(batch) for batch in device.batches] == [8, 4, 2, 2, 4, 2, 2]
    assert outcome.too_large == (8, 4, 4)


def test_one_sample_that_does_not_fit_alone_is_tried_again_and_then_told_so():
    device = Device(max_samples=0)
    outcome = run_isolated(device.run, KEY, [1])
    assert isinstance(outcome.results[0], OutOfMemory)
    assert device.batches == [[1], [1]]
    assert outcome.too_large == (1, 1)


def test_one_sample_that_fits_when_memory_was_freed_is_answered():
    device = Device(max_samples=0)

    def run(key, samples):
        if device.batches:
            device.max_samples = 1
        return device.run(key, samples)

    outcome = run_isolated(run, KEY, [1])
    assert (outcome.results, outcome.too_large) == ([10], (1,))


def test_a_lost_device_is_not_tried_again():
    batches = []

    def run(key, samples):
        batches.append(samples)
        raise DeviceFailed("gone", reason="gone")

    with pytest.raises(DeviceFailed):
        run_isolated(run, KEY, [1, 2, 3, 4])
    assert batches == [[1, 2, 3, 4]]


@pytest.mark.parametrize("error", [OutOfMemory, ValueError])
def test_what_a_failed_batch_held_is_free_before_its_halves_are_run(error):
    """An error's frames keep their arrays alive."""

    class Array:
        pass

    held, num_alive = [], []

    def run(key, samples):
        num_alive.append(sum(array() is not None for array in held))
        if len(samples) == 1:
            return samples
        array = Array()
        held.append(weakref.ref(array))
        raise error("too much")

    assert run_isolated(run, KEY, [1, 2, 3, 4]).results == [1, 2, 3, 4]
    assert num_alive == [0] * 7


@pytest.mark.parametrize("num_results", [0, 1, 3])
def test_too_many_or_too_few_results_are_nobody_s(num_results):
    outcome = run_isolated(lambda key, samples: [7] * num_results, KEY, [1, 2])
    results = outcome.results if num_results != 1 else []
    assert all(isinstance(result, RuntimeError) for result in results)
    assert len(outcome.results) == 2


@given(
    samples=st.lists(st.integers(0, 50), min_size=1, max_size=20, unique=True),
    poisonous=st.sets(st.integers(0, 50)),
    max_samples=st.integers(1, 20),
)
def test_every_sample_gets_its_own_result_whatever_fails(samples, poisonous, max_samples):
    results = run_isolated(Device(poisonous, max_samples).run, KEY, samples).results
    for sample, result in zip(samples, results, strict=True):
        if sample in poisonous:
            assert isinstance(result, ValueError)
        else:
            assert result == sample * 10
