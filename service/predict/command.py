"""`densepose predict`: from its options to its report."""

import argparse
import asyncio
import hashlib
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol

from model_store.catalogue import load_catalogue
from model_store.errors import printable
from model_store.store import ModelStore
from service.allocator import keep_freed_memory
from service.assembly import build_metrics
from service.client.exchange import check_address, key_headers
from service.errors import InvalidParameter
from service.logs import configure_logging
from service.output.presets import PRESETS, find_tools
from service.pipeline.parameters import Parameters, check_parameters
from service.predict import in_process, over_http
from service.predict.describing import CannotGoOn, Describe
from service.predict.files import STANDARD_INPUT, Job, find_sources
from service.predict.folder import FAILURES, STATE, AnotherRun, Results, has_record, open_results
from service.predict.jobs import Jobs, plan_jobs
from service.predict.options import KEY_VARIABLE, PARAMETERS
from service.predict.progress import RunProgress, Tally
from service.predict.recipes import DATA_SETS, Form, Recipe, for_tool, plain
from service.predict.run import Run
from service.settings import Settings

FAILURE = 1
DECIDED_BY_DATA_SET = ("render", "outputs", "layout", "parts", "format")


class Usage(Protocol):
    """Ends the process with a message about how it was called."""

    def __call__(self, message: str, /) -> NoReturn:
        """Never returns."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What was chosen, checked and put together."""

    out: Path
    does_overwrite: bool
    recipe: Recipe
    parameters: Parameters
    # What has to be the same for results to belong together.
    record: Mapping[str, Any]
    atlas: bytes | None
    server: str | None
    api_key: str | None
    concurrency: int


def predict(chosen: argparse.Namespace, settings: Settings) -> int:
    """Do what was chosen; the exit status."""
    usage: Usage = chosen.usage
    asked = _check(chosen, settings, usage)
    listed = sys.stdin.buffer.read() if STANDARD_INPUT in chosen.paths else b""
    sources = find_sources(chosen.paths, listed, root=chosen.root, out=str(asked.out))
    jobs = plan_jobs(sources, asked.recipe, asked.out)
    if not (asked.does_overwrite or has_record(asked.out)):
        _check_free(jobs.jobs, asked, usage)
    try:
        with open_results(asked.out, asked.record, does_overwrite=asked.does_overwrite) as results:
            return _work(jobs, asked, results, settings)
    except AnotherRun as error:
        usage(str(error))
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        usage(f"--out: {printable(str(error.filename))}: {error.strerror}")
    except OSError as error:
        sys.stderr.write(f"densepose: cannot_write: {printable(str(error))}\n")
        return FAILURE


def _check(chosen: argparse.Namespace, settings: Settings, usage: Usage) -> Asked:
    """What was chosen, or the end of the process where it makes no sense."""
    named = {name: getattr(chosen, name) for name, _, _ in PARAMETERS}
    wishes = {name: value for name, value in named.items() if value is not None}
    if chosen.tool is not None:
        wishes = {**_of_tool(chosen, usage), **wishes}
    has_maps = not {"outputs", "parts"}.isdisjoint(wishes)
    form: Form = chosen.format or ("files" if has_maps else "picture")
    given = [name for name in DECIDED_BY_DATA_SET if getattr(chosen, name) is not None]
    if given and chosen.naming != "plain":
        usage(f"--{given[0]}: --naming {chosen.naming} decides this")
    try:
        # Whatever is wrong with them is said before anything else is done.
        check_parameters(wishes.items())
        if chosen.naming == "plain":
            recipe = plain(wishes, form)
        else:
            recipe = DATA_SETS[chosen.naming](wishes)
        parameters = check_parameters(recipe.wishes.items())
    except InvalidParameter as error:
        usage(str(error))
    atlas = _read(chosen.atlas, usage)
    record = {
        "naming": chosen.naming,
        "accept": recipe.accept,
        **recipe.wishes,
        "atlas": None if atlas is None else hashlib.sha256(atlas).hexdigest(),
    }
    if chosen.server is None:
        record.setdefault("model", settings.default_model)
    return Asked(
        out=chosen.out,
        does_overwrite=chosen.overwrite,
        recipe=recipe,
        parameters=parameters,
        record=record,
        atlas=atlas,
        server=chosen.server,
        api_key=None if chosen.server is None else _check_server(chosen, usage),
        concurrency=chosen.concurrency,
    )


def _of_tool(chosen: argparse.Namespace, usage: Usage) -> dict[str, str]:
    """What a tool asks for, or the end of the process where that is not one thing."""
    if chosen.naming != "plain":
        usage(f"--for: --naming {chosen.naming} decides this")
    found = find_tools(chosen.tool)
    if not found:
        names = {tool.name for preset in PRESETS.values() for tool in preset.tools}
        usage(f"--for: no such tool: {', '.join(sorted(names, key=str.casefold))}")
    meant = [one for one in found if chosen.render in {None, one[0].name}]
    if len(meant) != 1:
        renders = ", ".join(preset.name for preset, _ in found)
        usage(f"--for: {chosen.tool} reads {renders}: choose one with --render")
    return for_tool(*meant[0])


def _check_server(chosen: argparse.Namespace, usage: Usage) -> str | None:
    """The server's API key, or the end of the process where key or address cannot be one."""
    key = _read(chosen.key_file, usage)
    api_key = os.environ.get(KEY_VARIABLE) if key is None else key.decode("latin-1").strip()
    try:
        check_address(chosen.server)
        key_headers(api_key)
    except ValueError as error:
        usage(f"--server: {error}")
    return api_key


def _check_free(jobs: Sequence[Job], asked: Asked, usage: Usage) -> None:
    """End the process where there is a file that none of its runs can have made."""
    for job in jobs:
        for place in asked.recipe.places(job.place) or ():
            if os.path.lexists(asked.out / place):
                usage(
                    f"{printable(str(asked.out / place))} is there already, and was not made here: "
                    "name another folder with --out, or replace it with --overwrite"
                )


def _work(planned: Jobs, asked: Asked, results: Results, settings: Settings) -> int:
    """Do what is not done yet, and report; the exit status."""
    jobs = [job for job in planned.jobs if not results.has(asked.recipe.places(job.place) or ())]
    tally = Tally(
        total=len(planned.jobs) + len(planned.failures), found=len(planned.jobs) - len(jobs)
    )
    for failure in planned.failures:
        results.note_failure(asdict(failure))
        tally.note(failure)
    progress = RunProgress(tally, sys.stderr)
    run = Run(asked.recipe, results, tally, progress, settings.max_body_bytes)
    ending = None
    try:
        if jobs:
            describing, num_in_flight = _describing(asked, settings)
            asyncio.run(run.do(jobs, describing, num_in_flight=num_in_flight))
        results.finish()
    except CannotGoOn as error:
        ending = f"densepose: {error.code}: {error}; run it again to go on"
    finally:
        progress.close()
        _report(tally, planned, asked)
    if ending is not None:
        sys.stderr.write(ending + "\n")
    return FAILURE if ending is not None or tally.failed else 0


def _describing(
    asked: Asked, settings: Settings
) -> tuple[AbstractAsyncContextManager[Describe], int]:
    """What describes the images, and how many it should have at a time."""
    if asked.server is None:
        return _by_this_process(asked, settings), in_process.num_in_flight(settings)
    wishes: dict[str, Any] = {**asked.recipe.wishes}
    if asked.atlas is not None:
        wishes["atlas"] = asked.atlas
    way = over_http.describing(asked.server, asked.api_key, wishes, asked.recipe.accept)
    return way, asked.concurrency


def _by_this_process(asked: Asked, settings: Settings) -> AbstractAsyncContextManager[Describe]:
    # Who asks a server need not wait for the library of networks.
    from service.app import build_models  # noqa: PLC0415
    from service.models_cli import pull_models  # noqa: PLC0415

    keep_freed_memory()
    configure_logging(level="warning", log_format=settings.log_format)
    catalogue = load_catalogue(settings.zoo_url)
    store = ModelStore(settings.model_store, catalogue, is_offline=settings.offline)
    card = store.find(asked.parameters.model or settings.default_model)
    if store.state(card).state == "absent" and settings.download != "never":
        # With a bar of its own; a request would have it fetched without one.
        pull_models(store, [card])
    metrics = build_metrics({})
    models = build_models(settings.model_copy(update={"preload": (card.id,)}), metrics)
    question = in_process.Question(asked.parameters, asked.recipe.accept, asked.atlas)
    return in_process.describing(settings, models, question, metrics)


def _report(tally: Tally, planned: Jobs, asked: Asked) -> None:
    """Tell what became of the images."""
    for failure in tally.failures:
        sys.stderr.write(
            f"{printable(failure.path)}: {failure.code}: {printable(failure.detail)}\n"
        )
    if tally.failed > len(tally.failures):
        more = tally.failed - len(tally.failures)
        sys.stderr.write(
            f"and {more} more, all of which are in {printable(str(asked.out / STATE / FAILURES))}\n"
        )
    line = tally.describe()
    if planned.num_left_out:
        line += f", {planned.num_left_out} left out, for which the data set has no place"
    if tally.over < tally.total:
        line += f", {tally.total - tally.over} not looked at"
    sys.stderr.write(f"{line}, in {printable(str(asked.out))}\n")


def _read(path: Path | None, usage: Usage) -> bytes | None:
    try:
        return None if path is None else path.read_bytes()
    except OSError as error:
        usage(f"{printable(str(path))} cannot be read: {error.strerror}")
