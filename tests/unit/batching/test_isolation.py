import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.batching.isolation import run_isolated
from service.batching.ticket import BatchKey
from service.errors import OutOfMemory

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


def test_one_sample_that_does_not_fit_alone_is_told_so():
    (result,) = run_isolated(Device(max_samples=0).run, KEY, [1]).results
    assert isinstance(result, OutOfMemory)


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
