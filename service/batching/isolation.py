"""Running a batch so that one sample's failure is nobody else's."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from service.batching.ticket import BatchKey, R, S

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Gets samples of one key; returns for each its result, or the exception that it ends in.
Run: TypeAlias = Callable[[BatchKey, Sequence[S]], Sequence[R | Exception]]


@dataclass(frozen=True, slots=True)
class Outcome(Generic[R]):
    """What became of each sample of a batch, and how often the batch had to be split."""

    results: Sequence[R | Exception]
    num_splits: int = 0


def run_isolated(run: Run[S, R], key: BatchKey, samples: Sequence[S]) -> Outcome[R]:
    """Runs the samples at once; if that fails, half by half, until the culprits are alone."""
    try:
        results = run(key, samples)
        if len(results) != len(samples):
            raise RuntimeError(f"{len(samples)} samples had {len(results)} results")
    except Exception as error:  # noqa: BLE001 - one sample's failure must not be everybody's
        if len(samples) == 1:
            return Outcome([error])
        logger.warning(
            "batch failed, splitting it",
            extra={
                "fields": {"model": key.model_id, "images": len(samples), "reason": repr(error)}
            },
        )
    else:
        return Outcome(results)
    # Outside of the handler, where the error would keep the failed run's arrays alive.
    middle = len(samples) // 2
    first = run_isolated(run, key, samples[:middle])
    second = run_isolated(run, key, samples[middle:])
    return Outcome([*first.results, *second.results], 1 + first.num_splits + second.num_splits)
