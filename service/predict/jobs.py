"""What is to be done: every image once, and no two into one file."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from service.predict.files import Job, Source
from service.predict.progress import Failure
from service.predict.recipes import Recipe


@dataclass(slots=True)
class Jobs:
    """All jobs in their order, what cannot become one, and how many have no place in a data set."""

    jobs: list[Job] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    num_left_out: int = 0


def plan_jobs(sources: Iterable[Source], recipe: Recipe, out: Path) -> Jobs:
    """The jobs for these sources; of two that would be written to one file, the first is done."""
    planned, owner_of = Jobs(), dict[str, str]()
    for source in sources:
        if source.problem is not None:
            planned.failures.append(Failure(source.path, "unreadable_file", source.problem))
            continue
        places = recipe.places(source.place)
        if places is None:
            planned.num_left_out += 1
            continue
        owner = owner_of.setdefault(places[-1], source.path)
        if owner is source.path:
            planned.jobs.append(Job(source.path, source.place))
        elif os.path.abspath(owner) != os.path.abspath(source.path):
            planned.failures.append(
                Failure(source.path, "name_taken", f"{owner} has the same place in the results")
            )
    return _without_originals(planned, owner_of, out)


def _without_originals(planned: Jobs, owner_of: dict[str, str], out: Path) -> Jobs:
    """The same without jobs whose results would take the place of an image."""
    originals = {os.path.abspath(job.path) for job in planned.jobs}
    originals |= {os.path.abspath(failure.path) for failure in planned.failures}
    endangered = {
        owner
        for place, owner in owner_of.items()
        if os.path.abspath(os.path.join(out, place)) in originals
    }
    for job in planned.jobs:
        if job.path in endangered:
            detail = "its result would take the place of an image: choose another --out"
            planned.failures.append(Failure(job.path, "name_taken", detail))
    planned.jobs = [job for job in planned.jobs if job.path not in endangered]
    return planned
