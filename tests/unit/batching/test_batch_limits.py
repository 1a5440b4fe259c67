import itertools

import pytest

from service.batching.batch_limits import (
    FIRST_PATIENCE,
    MAX_KEYS,
    MAX_PATIENCE,
    TRIAL_EVERY,
    GrowthLimit,
    MemoryLimit,
)
from service.batching.ticket import BatchKey

KEY, OTHER = BatchKey("a", (320, 448)), BatchKey("a", (800, 1088))


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


def test_nothing_is_limited_before_memory_has_run_out() -> None:
    limit = MemoryLimit(8)
    limit.fitted(KEY, 8)
    assert limit.limit(KEY) == 8


def test_half_of_what_did_not_fit_is_the_limit_of_that_size_alone() -> None:
    limit = MemoryLimit(8)
    limit.ran_out(KEY, 8)
    assert (limit.limit(KEY), limit.limit(OTHER)) == (4, 8)
    limit.ran_out(KEY, 3)
    limit.ran_out(KEY, 1)
    assert limit.limit(KEY) == 1


def test_the_limit_grows_again_after_full_batches_and_not_after_smaller_ones() -> None:
    limit = MemoryLimit(6)
    limit.ran_out(KEY, 6)
    for _ in range(10 * FIRST_PATIENCE):
        limit.fitted(KEY, 2)
    assert limit.limit(KEY) == 3
    for _ in range(FIRST_PATIENCE):
        assert limit.limit(KEY) == 3
        limit.fitted(KEY, 3)
    assert limit.limit(KEY) == 6


def test_a_size_that_never_fits_is_tried_less_and_less_often() -> None:
    limit, tries = MemoryLimit(8), []
    for number in range(20_000):
        size = limit.limit(KEY)
        if size > 4:
            limit.ran_out(KEY, size)
            tries.append(number)
        else:
            limit.fitted(KEY, size)
    gaps = [later - earlier for earlier, later in itertools.pairwise(tries)]
    assert gaps[0] == FIRST_PATIENCE + 1
    assert gaps[-1] == MAX_PATIENCE + 1
    assert gaps == sorted(gaps)


def test_the_memory_of_sizes_is_bounded() -> None:
    limit = MemoryLimit(8)
    keys = [BatchKey("a", (32 * n, 32)) for n in range(2000)]
    for key in keys:
        limit.ran_out(key, 8)
    assert (limit.limit(keys[0]), limit.limit(keys[-1])) == (8, 4)
