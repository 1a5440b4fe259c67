import os
import subprocess
import sys

import pytest

# A picture's worth of memory, again and again; the page faults that it takes.
PROBE = """
import resource
import numpy as np
from service.allocator import keep_freed_memory
if {is_kept}:
    keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    np.ones(40_000_000, np.uint8)
before = faults()
for _ in range(10):
    np.ones(40_000_000, np.uint8)
print(faults() - before)
"""


def count_faults(*, is_kept: bool, **environment: str) -> int:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    probe = subprocess.run(
        [sys.executable, "-c", PROBE.format(is_kept=is_kept)],
        env=clean | environment,
        capture_output=True,
        check=True,
        text=True,
    )
    return int(probe.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc is tuned")
def test_memory_that_is_used_again_and_again_is_not_taken_from_the_system_each_time():
    assert count_faults(is_kept=True) < 0.1 * count_faults(is_kept=False)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc is tuned")
def test_an_operator_s_own_tuning_is_left_alone():
    num_untouched = count_faults(is_kept=False)
    assert count_faults(is_kept=True, MALLOC_MMAP_THRESHOLD_="100000") > 0.5 * num_untouched
