"""`densepose models`: what can be served, and its weights on this machine."""

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from model_store.catalogue import ModelCard, load_catalogue
from model_store.errors import CheckpointRejected, CheckpointUnavailable, UnknownModel, printable
from service.progress import DownloadBar, format_bytes
from service.whole_number import whole_number

if TYPE_CHECKING:
    from model_store.store import ModelStore
    from service.settings import Settings

# Rendered figures, for want of people who could be asked.
PHOTO = "figures.jpg"


def add_models_commands(parser: argparse.ArgumentParser) -> None:
    """Give the parser of `densepose models` its actions."""
    actions = parser.add_subparsers(required=True, metavar="ACTION")

    listed = actions.add_parser("list", help="every model, and whether it is on disk")
    _add_exclusion(listed)
    listed.set_defaults(command=_list)

    show = actions.add_parser("show", help="all that is known of a model")
    show.add_argument("id")
    show.set_defaults(command=_show)

    pull = actions.add_parser("pull", help="download, verify and convert checkpoints")
    which = pull.add_mutually_exclusive_group(required=True)
    which.add_argument("ids", nargs="*", metavar="ID", default=[])
    which.add_argument("--group", help="the models of a group, as `list` shows it")
    which.add_argument("--all", action="store_true", help="every model")
    _add_exclusion(pull)
    pull.set_defaults(command=_pull)

    check = actions.add_parser(
        "check", help="try a model from the download to an answer; a report for bug reports"
    )
    check.add_argument("id")
    check.add_argument(
        "--photo", type=_read_file, metavar="FILE", help="describe this one (default: figures)"
    )
    check.set_defaults(command=_check)

    verify = actions.add_parser("verify", help="look at every byte of the files on disk")
    verify.add_argument("ids", nargs="*", metavar="ID", help="(default: all that are on disk)")
    verify.set_defaults(command=_verify)

    add = actions.add_parser("add", help="serve weights of your own")
    add.add_argument("name", help="what clients will call it")
    add.add_argument("file", type=Path, help="a detectron2 .pkl or .pth")
    add.add_argument("--like", required=True, metavar="ID", help="a model of its architecture")
    add.add_argument("--short-side", type=whole_number, help="resize before the network, pixels")
    add.add_argument(
        "--long-side", type=whole_number, help="the most that the long side may be, pixels"
    )
    add.set_defaults(command=_add)

    remove = actions.add_parser("remove", help="delete a model's files from the store")
    remove.add_argument("id")
    remove.set_defaults(command=_remove)


def pull_models(store: "ModelStore", cards: Iterable[ModelCard]) -> None:
    """Have these models stored, one after the other; one that fails does not stop the others.

    Raises:
        CheckpointUnavailable, CheckpointRejected: the last one that failed.
    """

    def pull(card: ModelCard) -> None:
        progress = DownloadBar(card.id, sys.stderr)
        try:
            store.pull(card, progress)
        finally:
            progress.close()
        sys.stdout.write(f"{card.id}: stored, {format_bytes(store.state(card).num_bytes)}\n")

    _do_all(cards, pull)


def _list(chosen: argparse.Namespace, settings: "Settings") -> None:
    store = _open_store(settings)
    rows = [("ID", "KIND", "GROUP", "AP", "LICENCE", "SIZE", "KNOWN BY", "STATE")]
    for card in _exclude(store.cards.values(), chosen):
        state = store.state(card)
        num_bytes = card.num_bytes if state.state == "absent" else state.num_bytes
        average_precision = card.published.get("dp_ap_gps")
        rows.append(
            (
                card.id,
                card.kind,
                card.group,
                f"{average_precision:.1f}" if average_precision else "-",
                card.licence or "not stated",
                format_bytes(num_bytes) if num_bytes else "-",
                _known_by(card),
                state.state,
            )
        )
    sys.stdout.writelines(f"{line}\n" for line in _align(rows))


def _show(chosen: argparse.Namespace, settings: "Settings") -> None:
    store = _open_store(settings)
    card = store.find(chosen.id)
    state = store.state(card)
    rows = [
        ("id", card.id),
        ("aliases", ", ".join(card.aliases)),
        ("kind", card.kind),
        ("group", card.group),
        ("classes", ", ".join(card.class_names)),
        ("meshes", ", ".join(card.architecture.meshes)),
        ("licence", card.licence or "not stated"),
        ("source", card.source or ""),
        ("expected", card.expectation),
        ("sides", f"{card.short_side}, {card.long_side}"),
        *((name, f"{value:g}") for name, value in card.published.items()),
        ("notice", card.notice or ""),
        ("state", state.state),
        ("on disk", format_bytes(state.num_bytes)),
    ]
    sys.stdout.writelines(f"{line}\n" for line in _align([row for row in rows if row[1]]))


def _pull(chosen: argparse.Namespace, settings: "Settings") -> None:
    store = _open_store(settings)
    cards = store.cards
    if chosen.ids:
        wanted = [store.find(name) for name in chosen.ids]
    elif chosen.all:
        wanted = list(cards.values())
    else:
        wanted = [card for card in cards.values() if card.group == chosen.group]
        if not wanted:
            groups = ", ".join(dict.fromkeys(card.group for card in cards.values()))
            raise UnknownModel(f"there is no group {chosen.group!r}; the groups are {groups}")
    pull_models(store, _exclude(wanted, chosen))


def _check(chosen: argparse.Namespace, settings: "Settings") -> None:
    from service.model_check import check_model

    store = _open_store(settings)
    card = store.find(chosen.id)
    photo = chosen.photo or resources.files("service").joinpath(PHOTO).read_bytes()
    progress = DownloadBar(card.id, sys.stderr)

    def report(name: str, finding: object) -> None:
        progress.close()
        sys.stdout.write(f"{name:10} {finding}\n")

    check_model(store, card, photo, settings, progress=progress, report=report)


def _verify(chosen: argparse.Namespace, settings: "Settings") -> None:
    store = _open_store(settings)
    cards = [store.find(name) for name in chosen.ids] or [
        card for card in store.cards.values() if store.state(card).state == "stored"
    ]

    def verify(card: ModelCard) -> None:
        digest = store.verify(card)
        sys.stdout.write(f"{card.id}: good, {digest.num_bytes} bytes, sha256 {digest.sha256}\n")

    _do_all(cards, verify)


def _add(chosen: argparse.Namespace, settings: "Settings") -> None:
    from service.inference.loading import parameter_shapes, served_configuration

    store = _open_store(settings)
    card = store.add(
        chosen.name,
        chosen.file,
        chosen.like,
        parameter_shapes(store.find(chosen.like).architecture),
        served_configuration(),
        short_side=chosen.short_side,
        long_side=chosen.long_side,
    )
    sys.stdout.write(f"added {card.id}: {card.num_bytes} bytes, sha256 {card.sha256}\n")


def _remove(chosen: argparse.Namespace, settings: "Settings") -> None:
    _open_store(settings).remove(chosen.id)
    sys.stdout.write(f"removed {chosen.id}\n")


def _open_store(settings: "Settings") -> "ModelStore":
    from model_store.store import ModelStore

    catalogue = load_catalogue(settings.zoo_url)
    return ModelStore(settings.model_store, catalogue, is_offline=settings.offline)


def _add_exclusion(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--exclude-noncommercial",
        action="store_true",
        help="leave out models whose licence forbids commercial use (one that is not stated may)",
    )


def _exclude(cards: Iterable[ModelCard], chosen: argparse.Namespace) -> list[ModelCard]:
    return [
        card
        for card in cards
        if not (chosen.exclude_noncommercial and "-NC" in (card.licence or ""))
    ]


def _do_all(cards: Iterable[ModelCard], act: Callable[[ModelCard], None]) -> None:
    """Do it to each; of those that fail all have their line on standard error, the last by main."""
    last: CheckpointUnavailable | CheckpointRejected | None = None
    for card in cards:
        try:
            act(card)
        except (CheckpointUnavailable, CheckpointRejected) as error:
            if last is not None:
                from service.api.errors import PROBLEM_OF

                line = f"densepose: {PROBLEM_OF[type(last)].code}: {last}"
                sys.stderr.write(f"{printable(line)}\n")
            last = error
    if last is not None:
        raise last


def _known_by(card: ModelCard) -> str:
    if card.sha256 is not None:
        return "SHA-256"
    return "nothing" if card.md5_prefix is None else "MD5, 24 bits"


def _align(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(f"{text:{width}}" for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _read_file(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{path} cannot be read: {error.strerror}") from error
