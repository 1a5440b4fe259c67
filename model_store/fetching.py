"""Bring a model's checkpoint into its folder, or say how a person can."""

import logging

from model_store.download import DownloadFailed, Progress, Source, download
from model_store.errors import CheckpointRejected, CheckpointUnavailable
from model_store.model_files import ModelFiles

_logger = logging.getLogger(__name__)


def fetch(files: ModelFiles, progress: Progress, *, is_offline: bool) -> None:
    """Have the right checkpoint in its folder: the one that is there, else the zoo's.

    Raises:
        CheckpointUnavailable: it could not be had.
        CheckpointRejected: what is there, or what came, is not this model's checkpoint.
        OSError: the folder cannot be written.
    """
    card = files.card
    may_download = card.url is not None and not is_offline
    if files.checkpoint.is_file():
        try:
            files.verify()
        except CheckpointRejected as error:
            if not may_download:
                raise
            _logger.warning("%s; it is fetched again", error)
        else:
            return
    if card.url is None or not may_download:
        raise absence(files, is_offline=is_offline)
    files.checkpoint.parent.mkdir(parents=True, exist_ok=True)
    source = Source(card.url, card.num_bytes, has_sha256=card.sha256 is not None)
    try:
        download(source, files.partial, progress)
    except DownloadFailed as error:
        raise CheckpointUnavailable(
            f"{card.id} could not be had from {card.source}: {error}; {_by_hand(files)} of the "
            "model store"
        ) from error
    files.install()


def absence(files: ModelFiles, *, is_offline: bool) -> CheckpointUnavailable:
    """The error that a checkpoint is not there, and what to do."""
    card = files.card
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
        f"{card.id} is not in the model store: {remedy}; {_by_hand(files)} ({card.source}), or "
        "add weights of your own with `densepose models add`"
    )


def _by_hand(files: ModelFiles) -> str:
    return f"put {files.checkpoint.name} into its folder {files.card.id}"
