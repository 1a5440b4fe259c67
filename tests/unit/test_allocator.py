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


GIVING_BACK = """
import threading
import numpy as np
from load_tests.memory import resident_bytes
from service.allocator import give_back_freed_memory, keep_freed_memory
keep_freed_memory()
def work():
    pieces = [np.ones(5_000_000, np.uint8) for _ in range(40)]
    kept = pieces[20].copy()
    del pieces
    global held
    held = resident_bytes()
    give_back_freed_memory()
before = resident_bytes()
thread = threading.Thread(target=work)
thread.start()
thread.join()
print(held - before, resident_bytes() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc is tuned")
def test_what_a_thread_has_freed_is_given_back_when_that_is_asked_for():
    clean = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    command = [sys.executable, "-c", GIVING_BACK]
    probe = subprocess.run(command, env=clean, capture_output=True, check=True, text=True)
    held, left = map(int, probe.stdout.split())
    assert left < 20_000_000
    assert held > 150_000_000
