"""The folder of the results: whatever is in it under its name is whole.

What is being written lies in a folder of its own below `.densepose`, and is renamed when it is
whole and on the disk. That folder is locked as long as its process lives, so that the next run
can tell what a killed one left behind, and several runs can share the results.
"""

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from model_store.locking import is_locked, locked
from service.predict.recipes import Content

STATE = ".densepose"
RECORD = "run.json"
FAILURES = "failures.jsonl"
LOCK = "lock"
UNFINISHED = "is_being_replaced"
PARTS_PREFIX = "parts-"
# After these there is no use in going on.
FATAL_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


class AnotherRun(Exception):
    """The folder holds the results of another question; the message says what to do."""


class Results:
    """The files of the results; several threads may write, each another image's."""

    def __init__(
        self, folder: Path, parts: Path, record: Mapping[str, Any], *, does_overwrite: bool
    ) -> None:
        self._folder = folder
        self._parts = parts
        self._record = record
        self._does_overwrite = does_overwrite
        self._numbers = count()
        # Until they are all replaced, some are of another question.
        self._note({**record, UNFINISHED: True} if does_overwrite else record)

    def has(self, places: tuple[str, ...]) -> bool:
        """Whether an image's files are all there."""
        return not self._does_overwrite and os.path.lexists(self._folder / places[-1])

    def write(self, places: tuple[str, ...], contents: tuple[Content, ...]) -> None:
        """Put an image's files into their places, the last one last.

        Raises:
            OSError: they cannot be written; the last one is not there, unless it was before.
        """
        self._publish_record()
        for place, content in zip(places, contents, strict=True):
            target = self._folder / place
            target.parent.mkdir(parents=True, exist_ok=True)
            part = self._parts / str(next(self._numbers))
            try:
                _write(part, content)
                self._put(part, target)
            finally:
                _remove(part)

    def discard(self, places: tuple[str, ...]) -> None:
        """Remove what was to be replaced, and cannot be."""
        if self._does_overwrite:
            for place in reversed(places):
                _remove(self._folder / place)

    def note_failure(self, failure: Mapping[str, str]) -> None:
        """Add a line to the list of what failed."""
        with (self._folder / STATE / FAILURES).open("a", encoding="utf-8") as file:
            file.write(json.dumps(failure) + "\n")

    def finish(self) -> None:
        """Tell later runs that all was done: nothing is left of what was to be replaced."""
        if self._does_overwrite:
            _remove(self._parts / RECORD)
            self._note(self._record)
            self._publish_record()

    def _note(self, record: Mapping[str, Any]) -> None:
        _write(self._parts / RECORD, json.dumps(record, indent=1).encode())

    def _publish_record(self) -> None:
        """Let the record be that of the folder; a run that writes nothing leaves it as it is."""
        # The first who writes does it, and those who find it gone know that it is in its place.
        with suppress(FileNotFoundError):
            (self._parts / RECORD).replace(self._folder / STATE / RECORD)

    def _put(self, part: Path, target: Path) -> None:
        if part.is_dir() and target.is_dir():
            # A folder that is not empty cannot be renamed over.
            old = self._parts / f"old-{next(self._numbers)}"
            target.rename(old)
            part.rename(target)
            _remove(old)
        else:
            part.replace(target)


@contextmanager
def open_results(
    folder: Path, record: Mapping[str, Any], *, does_overwrite: bool
) -> Iterator[Results]:
    """The results of a run; `record` is what has to be the same for them to belong together.

    Raises:
        AnotherRun: what is there belongs to another record.
        OSError: the folder cannot be made.
    """
    state = folder / STATE
    state.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        # Who begins at the same moment would take our folder for a leftover.
        with locked(state / LOCK, lambda: None):
            _check_record(state / RECORD, record, does_overwrite=does_overwrite)
            _remove_leftovers(state)
            parts = Path(tempfile.mkdtemp(prefix=PARTS_PREFIX, dir=state))
            stack.callback(_remove, parts)
            stack.enter_context(locked(parts / LOCK, lambda: None))
            (state / FAILURES).unlink(missing_ok=True)
        yield Results(folder, parts, record, does_overwrite=does_overwrite)


def has_record(folder: Path) -> bool:
    """Whether a run has written here before."""
    return (folder / STATE / RECORD).exists()


def _check_record(path: Path, record: Mapping[str, Any], *, does_overwrite: bool) -> None:
    if does_overwrite:
        return
    try:
        earlier = json.loads(path.read_bytes())
    except FileNotFoundError:
        return
    except ValueError:
        earlier = None
    if isinstance(earlier, dict) and earlier.get(UNFINISHED):
        raise AnotherRun(
            f"{path.parent.parent} has results of which some were to be replaced, and some were: "
            "begin again with --overwrite"
        )
    if earlier != record:
        raise AnotherRun(
            f"{path.parent.parent} has the results of another question, which {path} tells: name "
            "another folder with --out, or replace them with --overwrite"
        )


def _remove_leftovers(state: Path) -> None:
    """Remove what runs that are no more were writing."""
    for parts in state.glob(f"{PARTS_PREFIX}*"):
        if not is_locked(parts / LOCK):
            _remove(parts)


def _write(part: Path, content: Content) -> None:
    if isinstance(content, bytes):
        with part.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        return
    part.mkdir()
    for name, data in content.items():
        _write(part / name, data)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
