import pytest

from service.batching.growth import MAX_KEYS, TRIAL_EVERY, GrowthLimit
from service.batching.ticket import BatchKey

KEY = BatchKey("a", (320, 448))


def run_saturated(growth, seconds_of, num_batches, key=KEY):
    """Batches as large as they may be; their sizes."""
    sizes = []
    for _ in range(num_batches):
        sizes.append(growth.next_size(key))
        growth.measure(key, sizes[-1], seconds_of(sizes[-1]))
    return sizes


def test_sizes_are_climbed_one_after_the_other_while_that_is_worth_it():
    growth = GrowthLimit(8)
    sizes = run_saturated(growth, lambda size: 0.020 + 0.005 * size, 60)
    assert sizes == [1] * 3 + [2] * 3 + [4] * 3 + [8] * 51


@pytest.mark.parametrize(
    ("seconds_of", "limit"),
    [
        (lambda size: 1.0 * size, 1),  # no gain at all
        (lambda size: 0.04 * size + 0.96 * size, 1),
        (lambda size: 0.1 if size <= 4 else 0.025 * size, 4),  # a device full at 4
        (lambda size: 0.06 + 0.94 * size, 1),  # 3 percent from 1 to 2
        (lambda size: 0.12 + 0.88 * size, 2),  # 6 percent from 1 to 2, 3 from 2 to 4
        (lambda size: 0.1 * size if size < 8 else 1.6, 1),  # worse than alone
    ],
)
def test_no_batch_grows_past_the_size_at_which_images_per_second_stop_rising(seconds_of, limit):
    growth = GrowthLimit(8)
    run_saturated(growth, seconds_of, 40)
    assert growth.limit(KEY) == limit


def test_a_largest_batch_that_is_no_power_of_two_is_reached():
    growth = GrowthLimit(6)
    assert run_saturated(growth, lambda size: 1.0, 20)[-1] == 6


def test_a_device_that_becomes_faster_in_large_batches_is_noticed():
    growth = GrowthLimit(8)
    run_saturated(growth, lambda size: size, 40)
    assert growth.limit(KEY) == 1
    run_saturated(growth, lambda size: 1.0, 12 * TRIAL_EVERY)
    assert growth.limit(KEY) == 8


def test_a_device_that_becomes_slower_in_large_batches_is_noticed():
    growth = GrowthLimit(8)
    run_saturated(growth, lambda size: 1.0, 40)
    assert growth.limit(KEY) == 8
    run_saturated(growth, float, 40)
    assert growth.limit(KEY) == 1


def test_a_single_slow_batch_changes_nothing():
    growth = GrowthLimit(8)
    run_saturated(growth, lambda size: 0.020 + 0.005 * size, 20)
    growth.measure(KEY, 8, 10.0)
    assert growth.limit(KEY) == 8


def test_sizes_that_clients_invent_take_a_bounded_memory_and_the_used_ones_stay():
    growth = GrowthLimit(8)
    for side in range(3 * MAX_KEYS):
        growth.measure(BatchKey("a", (32, side)), 1, 1.0)
        run_saturated(growth, lambda size: 1.0, 1)
    assert len(growth._ladders) == MAX_KEYS
    assert growth.limit(KEY) == 8
