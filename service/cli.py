"""The command line: `densepose serve`, `densepose models`."""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

import torch
import uvicorn

from model_store.catalogue import find_model, load_catalogue
from model_store.checkpoint import read_checkpoint
from model_store.errors import ModelStoreError
from model_store.store import ModelStore
from service.api.errors import PROBLEM_OF
from service.app import build_application
from service.bench import image_files, run_bench
from service.errors import DeviceUnavailable, InvalidSetting, ServiceError
from service.inference.loading import DTYPES, build_predictor, find_device, parameter_shapes
from service.logs import configure_logging
from service.settings import Settings, read_settings, unknown_variables

logger = logging.getLogger(__name__)

FAILURE, WRONG_USAGE = 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit status: 1 for an error, 2 for wrong usage."""
    chosen = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace, Settings], None] = chosen.command
    try:
        command(chosen, read_settings())
    except (InvalidSetting, DeviceUnavailable) as error:
        return _complain(f"densepose: {error}", WRONG_USAGE)
    except (ServiceError, ModelStoreError) as error:
        return _complain(f"densepose: {PROBLEM_OF[type(error)].code}: {error}", FAILURE)
    return 0


def _complain(line: str, status: int) -> int:
    sys.stderr.write(line + "\n")
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="densepose", description=__doc__)
    version = metadata.version("densepose-serving")
    parser.add_argument("--version", action="version", version=f"densepose {version}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="run the server, as DENSEPOSE_* variables tell")
    serve.set_defaults(command=_serve)

    bench = commands.add_parser("bench", help="what each stage takes on this machine")
    bench.add_argument("--model", metavar="ID", help="by default the default model")
    bench.add_argument("--images", type=Path, required=True, metavar="DIR")
    bench.add_argument("--batch", type=_positive, default=1, help="images in a batch")
    bench.add_argument("--precision", choices=DTYPES, help="by default as the settings tell")
    bench.add_argument("--threads", type=_positive, help="of the CPU's arithmetic")
    bench.add_argument("--repetitions", type=_positive, default=3)
    bench.set_defaults(command=_bench)

    models = commands.add_parser("models", help="what can be served")
    actions = models.add_subparsers(required=True, metavar="ACTION")
    listed = actions.add_parser("list", help="every model, and whether it is on disk")
    listed.set_defaults(command=_list_models)
    add = actions.add_parser("add", help="serve weights of your own")
    add.add_argument("name", help="what clients will call it")
    add.add_argument("file", type=Path, help="a detectron2 .pkl or .pth")
    add.add_argument("--like", required=True, metavar="ID", help="a model of its architecture")
    add.add_argument("--short-side", type=int, help="resize before the network, pixels")
    add.add_argument("--long-side", type=int, help="the most that the long side may be, pixels")
    add.set_defaults(command=_add_model)
    remove = actions.add_parser("remove", help="delete weights of your own from the store")
    remove.add_argument("name")
    remove.set_defaults(command=_remove_model)
    return parser


def _store(settings: Settings) -> ModelStore:
    return ModelStore(settings.model_store, load_catalogue(settings.zoo_url))


def _serve(_: argparse.Namespace, settings: Settings) -> None:
    configure_logging(level=settings.log_level, log_format=settings.log_format)
    logger.info("settings", extra={"fields": settings.public()})
    for name in unknown_variables(os.environ):
        logger.warning("unknown setting", extra={"fields": {"variable": name}})
    uvicorn.run(
        build_application(settings),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=-(-settings.shutdown_timeout_ms // 1000),
    )


def _bench(chosen: argparse.Namespace, settings: Settings) -> None:
    if chosen.threads is not None:
        torch.set_num_threads(chosen.threads)
    precision = chosen.precision or settings.precision
    device = find_device(settings.device)
    store = _store(settings)
    card = store.find(chosen.model or settings.default_model)
    files = image_files(chosen.images)
    arrays = read_checkpoint(store.checkpoint_path(card))
    predictor, _ = build_predictor(card, arrays, device, DTYPES[precision])
    report = run_bench(predictor, files, batch_size=chosen.batch, repetitions=chosen.repetitions)
    sys.stdout.write(
        f"{card.id}, {precision} on {device}, batch {chosen.batch}, "
        f"{torch.get_num_threads()} threads, {len(files)} images\n{report.table()}\n"
    )


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def _list_models(_: argparse.Namespace, settings: Settings) -> None:
    store = _store(settings)
    for card in store.cards.values():
        state = "stored" if store.is_stored(card) else "absent"
        sys.stdout.write(f"{card.id:45} {card.kind:6} {card.group:14} {state}\n")


def _add_model(chosen: argparse.Namespace, settings: Settings) -> None:
    like = find_model(load_catalogue(), chosen.like)
    card = _store(settings).add(
        chosen.name,
        chosen.file,
        like.id,
        parameter_shapes(like.architecture),
        short_side=chosen.short_side,
        long_side=chosen.long_side,
    )
    sys.stdout.write(f"added {card.id}: {card.num_bytes} bytes, sha256 {card.sha256}\n")


def _remove_model(chosen: argparse.Namespace, settings: Settings) -> None:
    _store(settings).remove(chosen.name)
    sys.stdout.write(f"removed {chosen.name}\n")
