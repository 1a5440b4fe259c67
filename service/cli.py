"""The command line: `densepose serve`, `densepose models`, `densepose predict`.

Each command imports what it needs when it is chosen: PyTorch alone takes seconds.
"""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from model_store.errors import ModelStoreError, printable
from service.errors import DeviceUnavailable, InvalidSetting, ServiceError
from service.models_cli import add_models_commands
from service.predict.options import add_predict_options
from service.threads import prepare_threads
from service.whole_number import positive

if TYPE_CHECKING:
    from service.settings import Settings

logger = logging.getLogger(__name__)

STANDARD_ERROR = 2
FAILURE, WRONG_USAGE = 1, 2
# What a shell reports of a process that SIGINT ended, and of one that wrote to a pipe that nobody
# reads any more.
INTERRUPTED, READER_LEFT = 130, 141
EPILOG = (
    "Exit status: 0; 1 after an error, which is one line on standard error with its code; 2 after "
    f"wrong usage; {INTERRUPTED} when interrupted; {READER_LEFT}, without a line, when nobody "
    "reads the output any more."
)
# Of service/inference/loading.py.
PRECISIONS = ("fp32", "bf16", "fp16")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit status: 1 for an error, 2 for wrong usage."""
    _occupy_standard_streams()
    try:
        try:
            return _run(arguments)
        finally:
            # What is still to be written fails here, and not when nobody can say so any more.
            sys.stdout.flush()
    except BrokenPipeError:
        return READER_LEFT
    except OSError as error:
        if error.filename is None:
            return _complain(f"cannot_write: the output: {error.strerror or error}", FAILURE)
        return _complain(f"unreadable_file: {error.filename}: {error.strerror}", FAILURE)
    finally:
        _forget_unwritten()


def _run(arguments: Sequence[str] | None) -> int:
    chosen = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace, Settings], int | None] = chosen.command
    prepare_threads()
    from service.settings import read_settings

    try:
        return command(chosen, read_settings()) or 0
    except (InvalidSetting, DeviceUnavailable) as error:
        return _complain(str(error), WRONG_USAGE)
    except (ServiceError, ModelStoreError) as error:
        from service.api.errors import PROBLEM_OF

        return _complain(f"{PROBLEM_OF[type(error)].code}: {error}", FAILURE)
    except KeyboardInterrupt:
        return _complain("interrupted", INTERRUPTED)


def _complain(text: str, status: int) -> int:
    # Where nobody can be told, the status is what is left.
    with suppress(OSError):
        sys.stderr.write(f"densepose: {printable(text)}\n")
    return status


def _occupy_standard_streams() -> None:
    """Let what is closed lead nowhere: a file of ours would else be taken for standard output."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= STANDARD_ERROR:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    nowhere = Path(os.devnull)
    sys.stdin = sys.stdin or nowhere.open()
    sys.stdout = sys.stdout or nowhere.open("w")
    sys.stderr = sys.stderr or nowhere.open("w")


def _forget_unwritten() -> None:
    """Have what could not be written go nowhere, as Python tries it once more when it ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with Path(os.devnull).open("w") as nowhere:
                os.dup2(nowhere.fileno(), stream.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="densepose", description=__doc__, epilog=EPILOG)
    version = metadata.version("densepose-serving")
    parser.add_argument("--version", action="version", version=f"densepose {version}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="run the server, as DENSEPOSE_* variables tell")
    serve.set_defaults(command=_serve)

    bench = commands.add_parser("bench", help="what each stage takes on this machine")
    bench.add_argument("--model", metavar="ID", help="by default the default model")
    bench.add_argument("--images", type=Path, required=True, metavar="DIR")
    bench.add_argument("--batch", type=positive, default=1, help="images in a batch")
    bench.add_argument("--precision", choices=PRECISIONS, help="by default as the settings tell")
    bench.add_argument("--threads", type=positive, help="of the CPU's arithmetic")
    bench.add_argument("--repetitions", type=positive, default=3)
    bench.set_defaults(command=_bench)

    predict = commands.add_parser("predict", help="describe files of images")
    add_predict_options(predict)
    predict.set_defaults(command=_predict)

    add_models_commands(commands.add_parser("models", help="what can be served"))
    return parser


def _serve(_: argparse.Namespace, settings: "Settings") -> None:
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
    run_server(build_service(settings), settings)


def _bench(chosen: argparse.Namespace, settings: "Settings") -> None:
    import torch

    from model_store.catalogue import load_catalogue
    from model_store.store import ModelStore
    from service.bench import image_files, run_bench
    from service.inference.devices import DTYPES, find_device
    from service.inference.loading import build_predictor

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
    from service.predict.command import predict

    return predict(chosen, settings)
