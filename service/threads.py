"""How the threads of the CPU's arithmetic wait for each other."""

import os


def let_waiting_threads_sleep() -> None:
    """Makes them give their core away; PyTorch must not have been imported yet.

    By default GNU's OpenMP has them spin. On a core that somebody else needs as well (a picture
    being decoded, a neighbour in the same container), the thread that all wait for is then the one
    that does not run: with other work on both of two cores, the demo model described 0.3 images a
    second spinning, and 2.5 asleep. What an operator has set stays.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
