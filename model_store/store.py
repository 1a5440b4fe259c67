"""The folder of checkpoints, `<model id>/<file>`: the catalogue's and the operator's own.

Beside a checkpoint lie what it was converted to and a record of both. Who changes a model's files
holds its lock, `.locks/<model id>`; who reads them needs none.
"""

import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from model_store.catalogue import ModelCard, find_model, index_names
from model_store.checkpoint import check_configuration, read_checkpoint, select_parameters
from model_store.convert import read_apart, time_limit_s
from model_store.download import Progress, count_bytes
from model_store.errors import CheckpointUnavailable, ModelNotAdded
from model_store.locking import is_locked, locked
from model_store.model_files import Digest, ModelFiles, sync
from model_store.own_models import (
    CARD_FILE,
    CHECKPOINT_FILE,
    OWN_NAME,
    derive_card,
    find_own_cards,
    read_own_cards,
    write_own_model,
)
from model_store.plain_files import count_plain_bytes, refuse_link

_logger = logging.getLogger(__name__)

_LOCKS, _UNFINISHED = ".locks", ".unfinished"
# Beyond what reading the model's checkpoint may take.
LOCK_PATIENCE_S = 60.0
# A model that another process has added is there within that time.
WATCH_PERIOD_S = 0.25


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

    `cards` has every model's card by id, the catalogue's and then the own ones, as the folder was
    when it was last looked at. Any thread and any process may call anything at any time.
    `is_offline` forbids the network.
    """

    cards: Mapping[str, ModelCard]

    def __init__(
        self, folder: Path, catalogue: Mapping[str, ModelCard], *, is_offline: bool = False
    ) -> None:
        self._folder = folder
        self._catalogue = dict(catalogue)
        self._is_offline = is_offline
        self._own: dict[str, tuple[int, int, int]] | None = None
        # What was seen later is told later.
        self._looking = threading.Lock()
        self._is_closed = threading.Event()
        self.refresh()

    def refresh(self) -> None:
        """Look at the folder, and renew `cards` where another process has changed it."""
        with self._looking:
            own = find_own_cards(self._folder)
            if own != self._own:
                self.cards = self._catalogue | read_own_cards(self._folder, own, self._catalogue)
                self._own = own

    def watch(self) -> None:
        """Look at the folder again and again, on a thread of its own, until `close`."""
        threading.Thread(target=self._watch, name="model-store", daemon=True).start()

    def close(self) -> None:
        """End the thread of `watch`."""
        self._is_closed.set()

    def find(self, name: str) -> ModelCard:
        """The card with this id or alias, without regard to case.

        Raises:
            UnknownModel: there is none.
        """
        if name.lower() not in index_names(self.cards):
            self.refresh()
        return find_model(self.cards, name)

    def state(self, card: ModelCard) -> StoredState:
        """Where the model is, whichever process brings it there."""
        files = self._files(card)
        if files.checkpoint.is_file():
            return StoredState("stored", files.count_bytes())
        num_bytes = count_plain_bytes(files.partial)
        is_arriving = num_bytes > 0 and is_locked(self._lock_path(card.id))
        return StoredState("downloading" if is_arriving else "absent", num_bytes)

    def is_converted(self, card: ModelCard) -> bool:
        """Whether loading the model takes no more than mapping a file."""
        return card.file is not None or self._files(card).map_arrays() is not None

    def load_arrays(
        self, card: ModelCard, progress: Progress = ignore_progress
    ) -> dict[str, NDArray[np.float32]]:
        """A stored model's arrays, verified, and mapped from the file that they were converted to.

        They are writable, and what is written to them is not written to the file. `progress` is
        called while they are converted; what it raises ends the call.

        Raises:
            CheckpointUnavailable: the model is not stored, or cannot be read.
            CheckpointRejected: its file is damaged, another one, or no checkpoint.
        """
        files = self._files(card)
        if card.file is not None:
            # Ours, and with the digest that our catalogue has: it needs no process of its own.
            files.verify()
            return read_checkpoint(files.checkpoint)
        if arrays := files.map_arrays():
            return arrays
        if not files.checkpoint.is_file():
            raise files.absence(is_offline=self._is_offline)
        num_bytes = count_bytes(files.checkpoint)

        def report() -> None:
            progress(num_bytes, num_bytes)

        try:
            with self._locked_model(files, report) as lock:
                return files.convert(lock, report)
        except OSError as error:
            _logger.warning("%s is converted into memory: %s", card.id, error.strerror)
        return files.read_apart(report)

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

        def report_others() -> None:
            progress(files.count_bytes_at_work()[0], None)

        with _writing(), self._locked_model(files, report_others) as lock:
            files.fetch(progress, is_offline=self._is_offline)
            num_bytes = count_bytes(files.checkpoint)
            files.convert(lock, lambda: progress(num_bytes, num_bytes))

    def verify(self, card: ModelCard) -> Digest:
        """The digest of a stored model's checkpoint, every byte of which was looked at.

        What was converted is looked at too, and made anew where it is damaged.

        Raises:
            CheckpointUnavailable: the model is not stored, or the folder cannot be written.
            CheckpointRejected: its file is damaged or another one.
        """
        files = self._files(card)
        if not files.checkpoint.is_file():
            raise files.absence(is_offline=self._is_offline)
        digest = files.verify()
        if card.file is None and not files.is_converted_intact():
            with _writing(), self._locked_model(files) as lock:
                files.drop_converted()
                files.convert(lock)
        return digest

    def add(
        self,
        name: str,
        file: Path,
        like: str,
        shapes: Mapping[str, tuple[int, ...]],
        configuration: Mapping[str, NDArray[np.float32]] = MappingProxyType({}),
        *,
        short_side: int | None = None,
        long_side: int | None = None,
    ) -> ModelCard:
        """Copy a checkpoint into the store, to be served under `name` from now on.

        `like` is the catalogue's model of the same architecture, `shapes` that network's
        parameters, `configuration` what else it is served with, as `check_configuration` takes it.
        The sides are its own where none are given.

        Raises:
            UnknownModel: the catalogue has no model `like`.
            CheckpointUnavailable: the file cannot be read, the folder not written, or somebody
                keeps the name's lock.
            CheckpointRejected: the file is not a checkpoint of that architecture, or says that it
                was trained with another configuration.
            ModelNotAdded: the name is taken or not a name, or the sides make no sense.
        """
        self._check_name(name)
        model = find_model(self._catalogue, like)
        card = derive_card(name, model, short_side, long_side)
        if file.exists() and not file.is_file():
            raise CheckpointUnavailable(f"{file.name} is no file")
        arrays = read_apart(file, lambda: None)
        select_parameters(arrays, shapes)
        check_configuration(arrays, configuration)
        with _writing(), self._locked(name), self._make_unfinished(name) as unfinished:
            self._check_name(name)
            card = write_own_model(unfinished, file, card, model.id)
            # The whole model or nothing: its name appears with all its files under it.
            unfinished.rename(self._folder / name)
            sync(self._folder)
        self.refresh()
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
            self.refresh()
            return
        card = self.find(name)
        files = self._files(card)
        if card.file is not None:
            raise CheckpointUnavailable(f"{card.id} comes with this package, and stays with it")
        if not (files.checkpoint.is_file() or files.partial.is_file()):
            raise CheckpointUnavailable(f"{card.id} is not in the model store")
        with _writing(), self._locked_model(files):
            files.remove()

    def _watch(self) -> None:
        while not self._is_closed.wait(WATCH_PERIOD_S):
            self.refresh()

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
        self.refresh()
        if name.lower() in index_names(self.cards) or os.path.lexists(self._folder / name):
            raise ModelNotAdded(f"the name {name} is taken")

    def _lock_path(self, model_id: str) -> Path:
        # In lower case, so that names that differ in nothing else are taken one after the other.
        return self._folder / _LOCKS / model_id.lower()

    @contextmanager
    def _locked_model(
        self, files: ModelFiles, while_waiting: Callable[[], object] = lambda: None
    ) -> Iterator[int]:
        """The model's lock, unless somebody holds it for whom nothing arrives.

        Raises:
            CheckpointUnavailable: somebody does.
        """

        def look() -> object:
            while_waiting()
            return files.count_bytes_at_work()

        # Whoever converts may take so long before it writes.
        patience_s = time_limit_s(count_bytes(files.checkpoint)) + LOCK_PATIENCE_S
        with self._locked(files.card.id, look, patience_s) as lock:
            yield lock

    @contextmanager
    def _locked(
        self,
        model_id: str,
        while_waiting: Callable[[], object] = lambda: None,
        patience_s: float = LOCK_PATIENCE_S,
    ) -> Iterator[int]:
        """The lock of who changes this model's files, which lie nowhere but in this folder."""
        path = self._lock_path(model_id)
        with ExitStack() as stack:
            try:
                lock = stack.enter_context(locked(path, while_waiting, timeout_s=patience_s))
            except TimeoutError as error:
                raise CheckpointUnavailable(
                    f"another process holds the lock of {model_id}, {_LOCKS}/{path.name} in the "
                    f"model store, and has done nothing for {patience_s:.0f} s: end it, or try "
                    "again when it is done"
                ) from error
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
