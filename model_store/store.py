"""The folder of checkpoints, `<model id>/<file>`, and the operator's own models in it."""

import hashlib
import json
import logging
import os
import re
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from model_store.catalogue import ModelCard, find_model, index_names
from model_store.checkpoint import read_checkpoint, select_parameters
from model_store.errors import CheckpointUnavailable, ModelNotAdded, UnknownModel
from model_store.unpickling import printable

_logger = logging.getLogger(__name__)

# An own model's files. The card says of which architecture it is, and how it is run.
_CHECKPOINT_FILE = "checkpoint"
_CARD_FILE = "card.json"
# The name of a folder, and a part of an address. A leading dot marks what is not whole.
_OWN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# From one cell of the coarse feature maps to far beyond what any of the models was trained on.
_SIDES = range(32, 4097)


def default_folder() -> Path:
    """The store in the user's cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The XDG specification has a relative path ignored.
    return (cache if cache.is_absolute() else Path.home() / ".cache") / "densepose-serving"


class ModelStore:
    """The models that can be served: those of a catalogue, and those that the operator added.

    The folder is looked at anew each time, so that what another process adds is seen.
    """

    def __init__(self, folder: Path, catalogue: Mapping[str, ModelCard]) -> None:
        self._folder = folder
        self._catalogue = catalogue
        self._catalogue_index = index_names(catalogue)

    @property
    def cards(self) -> dict[str, ModelCard]:
        """Every model's card by id: the catalogue's, then the own ones."""
        cards = dict(self._catalogue)
        for path in sorted(self._folder.glob(f"*/{_CARD_FILE}")):
            name = path.parent.name
            if not _OWN_NAME.fullmatch(name):
                continue
            if name.lower() in self._catalogue_index:
                _logger.warning("own model %s is hidden by the catalogue's of that name", name)
                continue
            try:
                cards[name] = self._read_own_card(path)
            except (OSError, ValueError, ModelNotAdded, UnknownModel) as error:
                _logger.warning("own model %s is passed over, its card is damaged: %s", name, error)
        return cards

    def find(self, name: str) -> ModelCard:
        """The card with this id or alias, without regard to case.

        Raises:
            UnknownModel: there is none.
        """
        # Most requests are for the catalogue's, and need no look at the folder.
        return self._catalogue_index.get(name.lower()) or find_model(self.cards, name)

    def is_stored(self, card: ModelCard) -> bool:
        """Whether the checkpoint is on disk."""
        return self._locate(card).is_file()

    def checkpoint_path(self, card: ModelCard) -> Path:
        """The file to read this model's arrays from.

        Raises:
            CheckpointUnavailable: it is not on disk.
        """
        path = self._locate(card)
        if path.is_file():
            return path
        if card.url is None:
            raise CheckpointUnavailable(
                f"the file of {card.id} is gone from the model store: remove the model with "
                "`densepose models remove`, and add it again with `densepose models add`"
            )
        raise CheckpointUnavailable(
            f"{card.id} is not in the model store: put {path.name} ({card.url}) into its folder "
            f"{card.id}, or add weights of your own with `densepose models add`"
        )

    def add(
        self,
        name: str,
        file: Path,
        like: str,
        shapes: Mapping[str, tuple[int, ...]],
        *,
        short_side: int | None = None,
        long_side: int | None = None,
    ) -> ModelCard:
        """Copy a checkpoint into the store, to be served under `name` from now on.

        `like` is the catalogue's model of the same architecture, `shapes` that network's
        parameters. The sides are its own where none are given.

        Raises:
            UnknownModel: the catalogue has no model `like`.
            CheckpointUnavailable: the file cannot be read.
            CheckpointRejected: the file is not a checkpoint of that architecture.
            ModelNotAdded: the name is taken or not a name, the sides make no sense, or the folder
                cannot be written.
        """
        self._check_name(name)
        model = find_model(self._catalogue, like)
        card = _derive_card(
            name,
            model,
            model.short_side if short_side is None else short_side,
            model.long_side if long_side is None else long_side,
        )
        select_parameters(read_checkpoint(file), shapes)
        unfinished = self._hide(name)
        try:
            unfinished.mkdir(parents=True)
            card = _copy_checkpoint(file, unfinished / _CHECKPOINT_FILE, card)
            _write_card(unfinished / _CARD_FILE, card, model.id)
            _sync(unfinished)
            # The whole model or nothing: its name appears with all its files under it.
            unfinished.rename(self._folder / name)
            _sync(self._folder)
        except OSError as error:
            raise ModelNotAdded(f"{name} cannot be stored: {error.strerror}") from error
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        return card

    def remove(self, name: str) -> None:
        """Delete an own model, also one whose card is damaged.

        Raises:
            UnknownModel: no own model has this name.
            OSError: the folder cannot be written.
        """
        if not (_OWN_NAME.fullmatch(name) and (self._folder / name / _CARD_FILE).exists()):
            raise UnknownModel(f"there is no own model {printable(name)}")
        unfinished = self._hide(name)
        (self._folder / name).rename(unfinished)
        shutil.rmtree(unfinished)

    def _locate(self, card: ModelCard) -> Path:
        if card.file is not None:
            return Path(__file__).with_name(card.file)
        file = _CHECKPOINT_FILE if card.url is None else card.url.rpartition("/")[2]
        return self._folder / card.id / file

    def _hide(self, name: str) -> Path:
        return self._folder / f".{name}.{uuid.uuid4().hex}"

    def _check_name(self, name: str) -> None:
        if not _OWN_NAME.fullmatch(name):
            raise ModelNotAdded(
                f"{printable(name)} cannot be a model's name: use up to 64 letters, digits, dots, "
                "dashes and underscores, and begin with a letter or digit"
            )
        if name.lower() in index_names(self.cards) or (self._folder / name).exists():
            raise ModelNotAdded(f"the name {name} is taken")

    def _read_own_card(self, path: Path) -> ModelCard:
        match json.loads(path.read_text(encoding="utf-8")):
            case {
                "like": str(like),
                "short_side": int(short_side),
                "long_side": int(long_side),
                "sha256": str(sha256),
                "num_bytes": int(num_bytes),
            }:
                model = find_model(self._catalogue, like)
                card = _derive_card(path.parent.name, model, short_side, long_side)
                return replace(card, sha256=sha256, num_bytes=num_bytes)
        raise ValueError("it lacks a field, or has one of another type")


def _derive_card(name: str, like: ModelCard, short_side: int, long_side: int) -> ModelCard:
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


def _copy_checkpoint(source: Path, target: Path, card: ModelCard) -> ModelCard:
    shutil.copyfile(source, target)
    _sync(target)
    with target.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return replace(card, sha256=sha256, num_bytes=target.stat().st_size)


def _write_card(path: Path, card: ModelCard, like: str) -> None:
    content = {
        "like": like,
        "short_side": card.short_side,
        "long_side": card.long_side,
        "sha256": card.sha256,
        "num_bytes": card.num_bytes,
    }
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    _sync(path)


def _sync(path: Path) -> None:
    # What a rename announces must not be lost by a power failure before the rename is.
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
