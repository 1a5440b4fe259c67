"""Running a batch so that one sample's failure is nobody else's."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from service.batching.ticket import BatchKey, R, S
from service.errors import DeviceFailed, OutOfMemory

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Gets samples of one key; returns for each its result, or the exception that it ends in. Where it
# runs out of memory, it has freed what can be.
Run: TypeAlias = Callable[[BatchKey, Sequence[S]], Sequence[R | Exception]]


@dataclass(frozen=True, slots=True)
class Outcome(Generic[R]):
    """What became of each sample of a batch, and how often the batch had to be split.

    `too_large` has the sizes for which the device had too little memory, in images.
    """

    results: Sequence[R | Exception]
    num_splits: int = 0
    too_large: tuple[int, ...] = ()


def run_isolated(run: Run[S, R], key: BatchKey, samples: Sequence[S]) -> Outcome[R]:
    """Runs the samples at once; if that fails, half by half, until the culprits are alone.

    One that does not fit alone is tried again, as memory has been freed for it.

    Raises:
        DeviceFailed: the device is lost, and nothing more can be run.
    """
    error = _try(run, key, samples)
    if isinstance(error, Outcome):
        return error
    too_large = (len(samples),) if isinstance(error, OutOfMemory) else ()
    if len(samples) == 1:
        if not too_large:
            return Outcome([error])
        again = _try(run, key, samples)
        if isinstance(again, Outcome):
            return Outcome(again.results, 0, too_large)
        return Outcome([again], 0, too_large * 2)
    logger.warning(
        "batch failed, splitting it",
        extra={"fields": {"model": key.model_id, "images": len(samples), "reason": repr(error)}},
    )
    # Its frames keep the failed run's arrays alive.
    del error
    middle = len(samples) // 2
    first = run_isolated(run, key, samples[:middle])
    second = run_isolated(run, key, samples[middle:])
    return Outcome(
        [*first.results, *second.results],
        1 + first.num_splits + second.num_splits,
        too_large + first.too_large + second.too_large,
    )


def _try(run: Run[S, R], key: BatchKey, samples: Sequence[S]) -> Outcome[R] | Exception:
    try:
        results = run(key, samples)
        if len(results) != len(samples):
            raise RuntimeError(f"{len(samples)} samples had {len(results)} results")
    except DeviceFailed:
        raise
    except Exception as error:  # noqa: BLE001 - one sample's failure must not be everybody's
        return error.with_traceback(None) if isinstance(error, OutOfMemory) else error
    return Outcome(results)
