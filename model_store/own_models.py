"""The operator's own models: a folder each, with a checkpoint and a card, whole or not there."""

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from model_store.catalogue import ModelCard, find_model, index_names
from model_store.errors import ModelNotAdded, UnknownModel
from model_store.model_files import sync
from model_store.plain_files import create_file, read_text, write_text

_logger = logging.getLogger(__name__)

CHECKPOINT_FILE = "checkpoint"
# It says of which architecture the model is, and how it is run.
CARD_FILE = "card.json"
# The name of a folder, and a part of an address. A leading dot marks what is not a model.
OWN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
COPY_BYTES = 2**20
# From one cell of the coarse feature maps to far beyond what any of the models was trained on.
_SIDES = range(32, 4097)


def find_own_cards(folder: Path) -> dict[str, tuple[int, int, int]]:
    """The names that have a card in the store's folder, and what tells a card from a later one."""
    found = {}
    with suppress(OSError):
        for name in sorted(path.name for path in folder.iterdir() if OWN_NAME.fullmatch(path.name)):
            with suppress(OSError):
                status = (folder / name / CARD_FILE).stat()
                found[name] = (status.st_ino, status.st_size, status.st_mtime_ns)
    return found


def read_own_cards(
    folder: Path, found: Iterable[str], catalogue: Mapping[str, ModelCard]
) -> dict[str, ModelCard]:
    """The cards of these names; one that cannot be used is logged and left out."""
    cards = {}
    names = index_names(catalogue)
    for name in found:
        if name.lower() in names:
            _logger.warning("own model %s is hidden by the catalogue's of that name", name)
            continue
        try:
            cards[name] = _read_card(folder / name / CARD_FILE, catalogue)
        except (OSError, ValueError, RecursionError, ModelNotAdded, UnknownModel) as error:
            _logger.warning("own model %s is passed over, its card is damaged: %s", name, error)
    return cards


def derive_card(
    name: str, like: ModelCard, short_side: int | None, long_side: int | None
) -> ModelCard:
    """The card of an own model; the sides are those of the model it is like where none are given.

    Raises:
        ModelNotAdded: the sides make no sense.
    """
    short_side = like.short_side if short_side is None else short_side
    long_side = like.long_side if long_side is None else long_side
    if not (short_side in _SIDES and long_side in _SIDES and short_side <= long_side):
        raise ModelNotAdded(
            f"an image cannot be resized to {short_side} x {long_side}: give a short and a long "
            f"side of {_SIDES[0]} to {_SIDES[-1]} pixels, the short one not above the long one"
        )
    return ModelCard(
        id=name,
        group="own",
        architecture=like.architecture,
        class_names=like.class_names,
        short_side=short_side,
        long_side=long_side,
    )


def write_own_model(folder: Path, checkpoint: Path, card: ModelCard, like: str) -> ModelCard:
    """Copy a checkpoint into a new folder, with its card; the card as it was written.

    Raises:
        OSError: the folder is there, or cannot be written.
    """
    folder.mkdir(parents=True)
    copy = folder / CHECKPOINT_FILE
    with checkpoint.open("rb") as source, create_file(copy) as target:
        shutil.copyfileobj(source, target, COPY_BYTES)
        target.flush()
        os.fsync(target.fileno())
    with copy.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    card = replace(card, sha256=sha256, num_bytes=copy.stat().st_size)
    content = {
        "like": like,
        "short_side": card.short_side,
        "long_side": card.long_side,
        "sha256": card.sha256,
        "num_bytes": card.num_bytes,
    }
    write_text(folder / CARD_FILE, json.dumps(content, indent=2) + "\n")
    sync(folder)
    return card


def _read_card(path: Path, catalogue: Mapping[str, ModelCard]) -> ModelCard:
    match json.loads(read_text(path)):
        case {
            "like": str(like),
            "short_side": int(short_side),
            "long_side": int(long_side),
            "sha256": str(sha256),
            "num_bytes": int(num_bytes),
        }:
            model = find_model(catalogue, like)
            card = derive_card(path.parent.name, model, short_side, long_side)
            return replace(card, sha256=sha256, num_bytes=num_bytes)
    raise ValueError("it lacks a field, or has one of another type")
