"""One model's files: its checkpoint, what that was converted to, and a record of both.

To digest a checkpoint takes longer than to load it. So a file counts as the one that was digested
for as long as its size and time are the same; one that was touched is digested again, or converted
again. Damage that leaves both alone is found by `densepose models verify`.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model_store.catalogue import ModelCard
from model_store.convert import convert, read_apart
from model_store.download import DownloadFailed, Progress, Source, count_bytes, discard, download
from model_store.errors import CheckpointRejected, CheckpointUnavailable
from model_store.plain_files import count_plain_bytes, read_text, write_text
from model_store.safetensors_file import map_arrays

_logger = logging.getLogger(__name__)

# Counted up when the same checkpoint is converted to other arrays than before.
CONVERTER = "1"
# Of the zoo's files: a pickle, or what torch.save wrote.
_BEGINNINGS = (b"\x80", b"PK\x03\x04")


@dataclass(frozen=True, slots=True)
class Digest:
    """A file as it was when it was digested."""

    sha256: str
    num_bytes: int
    # In whole seconds: archives and the layers of container images keep no more.
    mtime_s: int

    def is_still(self, path: Path) -> bool:
        """Whether the file has the same size and time."""
        try:
            status = path.stat()
        except OSError:
            return False
        return (status.st_size, int(status.st_mtime)) == (self.num_bytes, self.mtime_s)


@dataclass(frozen=True, slots=True)
class _Record:
    # Outlives the file: each later one is compared with it.
    checkpoint: Digest
    converted: Digest | None = None


class ModelFiles:
    """The files of one model; only who holds the model's lock changes them."""

    def __init__(self, card: ModelCard, checkpoint: Path) -> None:
        self.card = card
        self.checkpoint = checkpoint
        self.partial = checkpoint.with_name(f"{checkpoint.name}.part")
        self._record = checkpoint.with_name(f"{checkpoint.name}.json")
        self._converted = checkpoint.with_name(f"{checkpoint.name}.safetensors")
        self._unfinished = checkpoint.with_name(f"{checkpoint.name}.safetensors.part")
        self._by_hand = f"put {checkpoint.name} into its folder {card.id}"

    def count_bytes(self) -> int:
        """What the checkpoint and the converted file take on the disk."""
        return count_bytes(self.checkpoint) + count_bytes(self._converted)

    def count_bytes_at_work(self) -> tuple[int, int]:
        """Of the checkpoint and of the converted file, what is there so far.

        They grow while a process works at them.
        """
        arrived = count_plain_bytes(self.partial) or count_bytes(self.checkpoint)
        return arrived, count_bytes(self._unfinished)

    def map_arrays(self) -> dict[str, NDArray[np.float32]] | None:
        """The converted arrays; None unless all files are verified, converted and untouched."""
        record = self._read_record()
        if not (
            record
            and self._is_known(record)
            and record.converted
            and record.converted.is_still(self._converted)
        ):
            return None
        try:
            arrays, metadata = map_arrays(self._converted)
        except (OSError, ValueError):
            return None
        return arrays if metadata == _metadata(record.checkpoint) else None

    def fetch(self, progress: Progress, *, is_offline: bool) -> None:
        """Have the right checkpoint in its folder: the one that is there, else the zoo's.

        Raises:
            CheckpointUnavailable: it could not be had.
            CheckpointRejected: what is there, or what came, is not this model's checkpoint.
            OSError: the folder cannot be written.
        """
        card = self.card
        may_download = card.url is not None and not is_offline
        if self.checkpoint.is_file():
            try:
                self.verify()
            except CheckpointRejected as error:
                if not may_download:
                    raise
                _logger.warning("%s; it is fetched again", error)
            else:
                return
        if card.url is None or is_offline:
            raise self.absence(is_offline=is_offline)
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        source = Source(card.url, card.num_bytes, has_sha256=card.sha256 is not None)
        try:
            download(source, self.partial, progress)
        except DownloadFailed as error:
            raise CheckpointUnavailable(
                f"{card.id} could not be had from {card.source}: {error}; "
                f"{self._by_hand} of the model store"
            ) from error
        self.install()

    def absence(self, *, is_offline: bool) -> CheckpointUnavailable:
        """The error that a checkpoint is not there, and what to do."""
        card = self.card
        if card.url is None:
            return CheckpointUnavailable(
                f"the file of {card.id} is gone from the model store: remove the model with "
                "`densepose models remove`, and add it again with `densepose models add`"
            )
        remedy = (
            "the network is not to be touched (DENSEPOSE_OFFLINE)"
            if is_offline
            else f"fetch it with `densepose models pull {card.id}`"
        )
        return CheckpointUnavailable(
            f"{card.id} is not in the model store: {remedy}; {self._by_hand} ({card.source}), or "
            "add weights of your own with `densepose models add`"
        )

    def verify(self, path: Path | None = None) -> Digest:
        """The digest of the checkpoint, or of a file that is to take its place.

        Raises:
            CheckpointUnavailable: it cannot be read.
            CheckpointRejected: it is not the file that the card, or the record, speaks of.
        """
        try:
            digest, reason = _examine(self.card, path or self.checkpoint)
        except OSError as error:
            name = self.checkpoint.name
            raise CheckpointUnavailable(f"{name} cannot be read: {error.strerror}") from error
        record = self._read_record()
        if reason is None and record and record.checkpoint.sha256 != digest.sha256:
            reason = (
                f"has the SHA-256 {digest.sha256}, and the file that was first seen here had "
                f"{record.checkpoint.sha256}; if it is meant to differ, delete "
                f"{self._record.name} from its folder in the model store"
            )
        if reason is not None:
            raise CheckpointRejected(f"{self.card.id}: {self.checkpoint.name} {reason}")
        return digest

    def is_converted_intact(self) -> bool:
        """Whether the converted file is, byte for byte, the one that was written."""
        record = self._read_record()
        return bool(
            self.map_arrays() is not None
            and record
            and record.converted
            and record.converted.sha256 == _hash(self._converted, "sha256")
        )

    def install(self) -> None:
        """Make the partial file the checkpoint if it is right; else it goes.

        Raises:
            CheckpointRejected: it is wrong.
            OSError: the folder cannot be written.
        """
        try:
            digest = self.verify(self.partial)
        except CheckpointRejected:
            discard(self.partial)
            raise
        self.partial.replace(self.checkpoint)
        sync(self.checkpoint.parent)
        discard(self.partial)
        record = self._read_record()
        self._write_record(_Record(digest, record.converted if record else None))

    def convert(
        self, lock: int, while_waiting: Callable[[], object] = lambda: None
    ) -> dict[str, NDArray[np.float32]]:
        """The converted arrays, after what is missing of verification and conversion.

        `while_waiting` is called again and again; what it raises ends the conversion.

        Raises:
            CheckpointUnavailable: the checkpoint cannot be read, or changes meanwhile.
            CheckpointRejected: the checkpoint is not what it should be.
            OSError: the folder cannot be written.
        """
        record = self._read_record()
        if not (record and self._is_known(record)):
            record = _Record(self.verify(), record.converted if record else None)
            self._write_record(record)
        arrays = self.map_arrays()
        if arrays is not None:
            return arrays
        try:
            self._unfinished.unlink(missing_ok=True)
            with self._unfinished.open("xb") as target:
                metadata = _metadata(record.checkpoint)
                convert(self.checkpoint, target, metadata, while_waiting, lock)
            self._unfinished.replace(self._converted)
            sync(self._converted.parent)
        finally:
            self._unfinished.unlink(missing_ok=True)
        self._write_record(_Record(record.checkpoint, _digest_of(self._converted)))
        arrays = self.map_arrays()
        if arrays is None:
            name = self.checkpoint.name
            raise CheckpointUnavailable(f"{name} changed while it was converted: try again")
        return arrays

    def read_apart(
        self, while_waiting: Callable[[], object] = lambda: None
    ) -> dict[str, NDArray[np.float32]]:
        """The checkpoint's arrays, verified, and converted into memory: the folder stays as it is.

        Raises:
            CheckpointUnavailable: the checkpoint cannot be read.
            CheckpointRejected: the checkpoint is not what it should be.
        """
        self.verify()
        return read_apart(self.checkpoint, while_waiting)

    def drop_converted(self) -> None:
        """Delete the converted file, to be made anew.

        Raises:
            OSError: the folder cannot be written.
        """
        self._converted.unlink(missing_ok=True)

    def remove(self) -> None:
        """Delete all but the record of the checkpoint.

        Raises:
            OSError: the folder cannot be written.
        """
        discard(self.partial)
        for path in (self._unfinished, self._converted, self.checkpoint):
            path.unlink(missing_ok=True)

    def _is_known(self, record: _Record) -> bool:
        digest = record.checkpoint
        return digest.is_still(self.checkpoint) and _contradiction(self.card, digest) is None

    def _read_record(self) -> _Record | None:
        try:
            content = json.loads(read_text(self._record))
        except (OSError, ValueError, RecursionError):
            return None
        match content:
            case {"checkpoint": checkpoint, "converted": converted}:
                if digest := _parse_digest(checkpoint):
                    return _Record(digest, _parse_digest(converted))
        return None

    def _write_record(self, record: _Record) -> None:
        unfinished = self._record.with_name(f"{self._record.name}.part")
        write_text(unfinished, json.dumps(asdict(record), indent=2) + "\n")
        unfinished.replace(self._record)


def sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk.

    What a rename announces must not be lost by a power failure before the rename is.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _metadata(checkpoint: Digest) -> dict[str, str]:
    return {"source_sha256": checkpoint.sha256, "converter": CONVERTER}


def _parse_digest(content: object) -> Digest | None:
    match content:
        case {"sha256": str(sha256), "num_bytes": int(num_bytes), "mtime_s": int(mtime_s)}:
            return Digest(sha256, num_bytes, mtime_s)
    return None


def _digest_of(path: Path) -> Digest:
    status = path.stat()
    return Digest(_hash(path, "sha256"), status.st_size, int(status.st_mtime))


def _hash(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(
            file, lambda: hashlib.new(algorithm, usedforsecurity=False)
        ).hexdigest()


def _examine(card: ModelCard, path: Path) -> tuple[Digest, str | None]:
    """The file's digest, and why it is not the card's, if it is not."""
    digest = _digest_of(path)
    with path.open("rb") as file:
        # What kinds of file an operator adds, the reader knows.
        if card.url is not None and not file.read(4).startswith(_BEGINNINGS):
            return digest, "is no checkpoint; is it the page of a network that asks for a login?"
    reason = _contradiction(card, digest)
    if reason is None and card.md5_prefix is not None:
        md5 = _hash(path, "md5")
        if not md5.startswith(card.md5_prefix):
            reason = f"is damaged: its MD5 is {md5} and should begin with {card.md5_prefix}"
    return digest, reason


def _contradiction(card: ModelCard, digest: Digest) -> str | None:
    if card.num_bytes not in (None, digest.num_bytes):
        return f"is damaged: it has {digest.num_bytes} bytes instead of {card.num_bytes}"
    if card.sha256 not in (None, digest.sha256):
        return f"is damaged: its SHA-256 is {digest.sha256} instead of {card.sha256}"
    return None
