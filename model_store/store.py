"""The folder of checkpoints, `<model id>/<file>`: the catalogue's and the operator's own.

Beside a checkpoint lie what it was converted to and a record of both. Who changes a model's files
holds its lock, `.locks/<model id>`; who reads them needs none.
"""

import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from model_store.catalogue import ModelCard, find_model, index_names
from model_store.checkpoint import read_checkpoint, select_parameters
from model_store.download import Progress
from model_store.errors import CheckpointUnavailable, ModelNotAdded
from model_store.fetching import absence, fetch
from model_store.locking import is_locked, locked
from model_store.model_files import Digest, ModelFiles, sync
from model_store.own_models import (
    CARD_FILE,
    CHECKPOINT_FILE,
    OWN_NAME,
    derive_card,
    read_own_cards,
    write_own_model,
)
from model_store.plain_files import count_plain_bytes, refuse_link

_logger = logging.getLogger(__name__)

_LOCKS, _UNFINISHED = ".locks", ".unfinished"


@dataclass(frozen=True, slots=True)
class StoredState:
    """What is on disk of a model; of one that is being downloaded, what has arrived."""

    state: Literal["absent", "downloading", "stored"]
    num_bytes: int


def default_folder() -> Path:
    """The store in the user's cache folder.

    Raises:
        RuntimeError: the user has no home folder.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The XDG specification has a relative path ignored.
    return (cache if cache.is_absolute() else Path.home() / ".cache") / "densepose-serving"


def ignore_progress(num_bytes: int, total: int | None) -> None:
    """Take no notice."""


class ModelStore:
    """The models that can be served: those of a catalogue, and those that the operator added.

    The folder is looked at anew each time, so that what another process does is seen. Any thread
    and any process may call anything at any time. `is_offline` forbids the network.
    """

    def __init__(
        self, folder: Path, catalogue: Mapping[str, ModelCard], *, is_offline: bool = False
    ) -> None:
        self._folder = folder
        self._catalogue = catalogue
        self._catalogue_index = index_names(catalogue)
        self._is_offline = is_offline

    @property
    def cards(self) -> dict[str, ModelCard]:
        """Every model's card by id: the catalogue's, then the own ones."""
        return {**self._catalogue, **read_own_cards(self._folder, self._catalogue)}

    def find(self, name: str) -> ModelCard:
        """The card with this id or alias, without regard to case.

        Raises:
            UnknownModel: there is none.
        """
        # Most requests are for the catalogue's, and need no look at the folder.
        return self._catalogue_index.get(name.lower()) or find_model(self.cards, name)

    def state(self, card: ModelCard) -> StoredState:
        """Where the model is, whichever process brings it there."""
        files = self._files(card)
        if files.checkpoint.is_file():
            return StoredState("stored", files.count_bytes())
        num_bytes = count_plain_bytes(files.partial)
        is_arriving = num_bytes > 0 and is_locked(self._lock_path(card.id))
        return StoredState("downloading" if is_arriving else "absent", num_bytes)

    def load_arrays(self, card: ModelCard) -> dict[str, NDArray[np.float32]]:
        """A stored model's arrays, verified, and mapped from the file where they were converted.

        They are writable, and what is written to them is not written to the file.

        Raises:
            CheckpointUnavailable: the model is not stored, or cannot be read.
            CheckpointRejected: its file is damaged, another one, or no checkpoint.
        """
        files = self._files(card)
        if card.file is not None:
            return read_checkpoint(files.checkpoint)
        if arrays := files.map_arrays():
            return arrays
        if not files.checkpoint.is_file():
            raise absence(files, is_offline=self._is_offline)
        try:
            with self._locked(card.id, files.count_bytes_at_work) as lock:
                return files.convert(lock)
        except OSError as error:
            _logger.warning(
                "%s cannot be converted, and is read as it is: %s", card.id, error.strerror
            )
        files.verify()
        return read_checkpoint(files.checkpoint)

    def pull(self, card: ModelCard, progress: Progress = ignore_progress) -> None:
        """Have the model's checkpoint stored, verified and converted, downloaded where needed.

        One process does it, and others that want the same wait for it. `progress` is called all
        the while; what it raises ends the call, and what has arrived stays for the next one.

        Raises:
            CheckpointUnavailable: it could not be had, or the folder cannot be written.
            CheckpointRejected: what came is not this model's checkpoint.
        """
        files = self._files(card)
        if card.file is not None:
            return

        def report_others() -> tuple[int, int]:
            counts = files.count_bytes_at_work()
            progress(counts[0], None)
            return counts

        with _writing(), self._locked(card.id, report_others) as lock:
            fetch(files, progress, is_offline=self._is_offline)
            files.convert(lock)

    def verify(self, card: ModelCard) -> Digest:
        """The digest of a stored model's checkpoint, every byte of which was looked at.

        What was converted is looked at too, and made anew where it is damaged.

        Raises:
            CheckpointUnavailable: the model is not stored, or the folder cannot be written.
            CheckpointRejected: its file is damaged or another one.
        """
        files = self._files(card)
        if not files.checkpoint.is_file():
            raise absence(files, is_offline=self._is_offline)
        digest = files.verify()
        if card.file is None and not files.is_converted_intact():
            with _writing(), self._locked(card.id) as lock:
                files.drop_converted()
                files.convert(lock)
        return digest

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
            CheckpointUnavailable: the file cannot be read, or the folder not written.
            CheckpointRejected: the file is not a checkpoint of that architecture.
            ModelNotAdded: the name is taken or not a name, or the sides make no sense.
        """
        self._check_name(name)
        model = find_model(self._catalogue, like)
        card = derive_card(name, model, short_side, long_side)
        if file.exists() and not file.is_file():
            raise CheckpointUnavailable(f"{file.name} is no file")
        select_parameters(read_checkpoint(file), shapes)
        with _writing(), self._locked(name), self._make_unfinished(name) as unfinished:
            self._check_name(name)
            card = write_own_model(unfinished, file, card, model.id)
            # The whole model or nothing: its name appears with all its files under it.
            unfinished.rename(self._folder / name)
            sync(self._folder)
        return card

    def remove(self, name: str) -> None:
        """Delete an own model, also one whose card is damaged, or the files of the catalogue's.

        Of the catalogue's, the digest is kept: a later download is compared with it.

        Raises:
            UnknownModel: there is no such model.
            CheckpointUnavailable: there is nothing to delete, or the folder cannot be written.
        """
        if OWN_NAME.fullmatch(name) and (self._folder / name / CARD_FILE).exists():
            with _writing(), self._locked(name), self._make_unfinished(name) as unfinished:
                unfinished.parent.mkdir(exist_ok=True)
                (self._folder / name).rename(unfinished)
            return
        card = self.find(name)
        files = self._files(card)
        if card.file is not None:
            raise CheckpointUnavailable(f"{card.id} comes with this package, and stays with it")
        if not (files.checkpoint.is_file() or files.partial.is_file()):
            raise CheckpointUnavailable(f"{card.id} is not in the model store")
        with _writing(), self._locked(card.id):
            files.remove()

    def _files(self, card: ModelCard) -> ModelFiles:
        if card.file is not None:
            return ModelFiles(card, Path(__file__).with_name(card.file))
        file = CHECKPOINT_FILE if card.url is None else card.url.rpartition("/")[2]
        return ModelFiles(card, self._folder / card.id / file)

    def _check_name(self, name: str) -> None:
        if not OWN_NAME.fullmatch(name):
            raise ModelNotAdded(
                f"{name[:80]!r} cannot be a model's name: use up to 64 letters, digits, dots, "
                "dashes and underscores, and begin with a letter or digit"
            )
        if name.lower() in index_names(self.cards) or os.path.lexists(self._folder / name):
            raise ModelNotAdded(f"the name {name} is taken")

    def _lock_path(self, model_id: str) -> Path:
        # In lower case, so that names that differ in nothing else are taken one after the other.
        return self._folder / _LOCKS / model_id.lower()

    @contextmanager
    def _locked(
        self, model_id: str, while_waiting: Callable[[], object] = lambda: None
    ) -> Iterator[int]:
        """The lock of who changes this model's files, which lie nowhere but in this folder."""
        with locked(self._lock_path(model_id), while_waiting) as lock:
            refuse_link(self._folder / model_id)
            yield lock

    @contextmanager
    def _make_unfinished(self, name: str) -> Iterator[Path]:
        """The place for a folder on its way in or out, by who holds the name's lock.

        Nothing is left of it in the end, nor of those of processes that were killed.
        """
        folder = self._folder / _UNFINISHED
        # What lies in it is deleted.
        refuse_link(folder)
        for path in folder.glob("*"):
            with suppress(OSError), locked(self._lock_path(path.name), _refuse_to_wait):
                _delete(path)
        path = folder / name
        _delete(path)
        try:
            yield path
        finally:
            _delete(path)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise CheckpointUnavailable(f"the model store cannot be written: {reason}") from error


def _refuse_to_wait() -> None:
    raise BlockingIOError
