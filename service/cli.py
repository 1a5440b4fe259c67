"""The command line: `densepose serve`, `densepose models`, `densepose predict`.

Each command imports what it needs when it is chosen: PyTorch alone takes seconds.
"""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from model_store.errors import ModelStoreError
from service.errors import DeviceUnavailable, InvalidSetting, ServiceError
from service.models_cli import add_models_commands
from service.predict.options import add_predict_options
from service.threads import let_waiting_threads_sleep

if TYPE_CHECKING:
    from service.settings import Settings

logger = logging.getLogger(__name__)

FAILURE, WRONG_USAGE = 1, 2
# What a shell reports of a process that SIGINT ended.
INTERRUPTED = 130
# Of service/inference/loading.py.
PRECISIONS = ("fp32", "bf16", "fp16")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit status: 1 for an error, 2 for wrong usage."""
    chosen = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace, Settings], int | None] = chosen.command
    from service.settings import read_settings

    try:
        return command(chosen, read_settings()) or 0
    except (InvalidSetting, DeviceUnavailable) as error:
        return _complain(f"densepose: {error}", WRONG_USAGE)
    except (ServiceError, ModelStoreError) as error:
        from service.api.errors import PROBLEM_OF

        return _complain(f"densepose: {PROBLEM_OF[type(error)].code}: {error}", FAILURE)
    except KeyboardInterrupt:
        return _complain("densepose: interrupted", INTERRUPTED)


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
    bench.add_argument("--precision", choices=PRECISIONS, help="by default as the settings tell")
    bench.add_argument("--threads", type=_positive, help="of the CPU's arithmetic")
    bench.add_argument("--repetitions", type=_positive, default=3)
    bench.set_defaults(command=_bench)

    predict = commands.add_parser("predict", help="describe files of images")
    add_predict_options(predict)
    predict.set_defaults(command=_predict)

    add_models_commands(commands.add_parser("models", help="what can be served"))
    return parser


def _serve(_: argparse.Namespace, settings: "Settings") -> None:
    let_waiting_threads_sleep()
    from service.allocator import keep_freed_memory
    from service.app import build_service
    from service.logs import configure_logging
    from service.server import run_server
    from service.settings import replaced_variables, unknown_variables

    keep_freed_memory()
    configure_logging(level=settings.log_level, log_format=settings.log_format)
    logger.info("settings", extra={"fields": settings.public()})
    for name, replacement in replaced_variables(os.environ).items():
        fields = {"variable": name, "taken_as": replacement}
        logger.warning("setting of an earlier version", extra={"fields": fields})
    for name in unknown_variables(os.environ):
        logger.warning("unknown setting", extra={"fields": {"variable": name}})
    if settings.is_open:
        logger.warning("anybody who reaches this server may use it: set DENSEPOSE_API_KEYS")
    service = build_service(settings)
    run_server(
        service.application,
        service.engine,
        host=settings.host,
        port=settings.port,
        drain_delay_ms=settings.drain_delay_ms,
        shutdown_timeout_ms=settings.shutdown_timeout_ms,
    )


def _bench(chosen: argparse.Namespace, settings: "Settings") -> None:
    let_waiting_threads_sleep()
    import torch

    from model_store.catalogue import load_catalogue
    from model_store.store import ModelStore
    from service.bench import image_files, run_bench
    from service.inference.loading import DTYPES, build_predictor, find_device

    if chosen.threads is not None:
        torch.set_num_threads(chosen.threads)
    precision = chosen.precision or settings.precision
    device = find_device(settings.device)
    catalogue = load_catalogue(settings.zoo_url)
    store = ModelStore(settings.model_store, catalogue, is_offline=settings.offline)
    card = store.find(chosen.model or settings.default_model)
    files = image_files(chosen.images)
    predictor, _ = build_predictor(card, store.load_arrays(card), device, DTYPES[precision])
    report = run_bench(predictor, files, batch_size=chosen.batch, repetitions=chosen.repetitions)
    sys.stdout.write(
        f"{card.id}, {precision} on {device}, batch {chosen.batch}, "
        f"{torch.get_num_threads()} threads, {len(files)} images\n{report.table()}\n"
    )


def _predict(chosen: argparse.Namespace, settings: "Settings") -> int:
    let_waiting_threads_sleep()
    from service.predict.command import predict

    return predict(chosen, settings)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number
