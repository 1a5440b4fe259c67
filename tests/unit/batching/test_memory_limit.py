import itertools

from service.batching.memory_limit import FIRST_PATIENCE, MAX_PATIENCE, MemoryLimit
from service.batching.ticket import BatchKey

KEY, OTHER = BatchKey("a", (320, 448)), BatchKey("a", (800, 1088))


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
