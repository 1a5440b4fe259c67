"""All 43 rows: fetched, verified, converted, and what the network takes.

Each stand-in is made when it is its turn and removed after it, so that one of them at a time takes
memory and disk.
"""

import hashlib
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from load_tests.stand_in_weights import PROMPTED, as_caffe2, build_arrays, read_spec
from model_store.catalogue import ModelCard, load_catalogue
from model_store.checkpoint import select_parameters
from model_store.store import ModelStore
from service.inference.loading import parameter_shapes
from service.models_cli import pull_models
from tests.integration.mirror import Mirror, running_mirror


class Zoo:
    """A mirror with one stand-in at a time, and a store that pulls from it."""

    def __init__(self, mirror: Mirror, folder: Path) -> None:
        self.mirror = mirror
        self.cards = load_catalogue(mirror.url)
        self.store = ModelStore(folder, self.cards)
        self.pulled: list[str] = []

    def cards_in_turn(self) -> Iterator[ModelCard]:
        """Every row, with its stand-in's digest and the stand-in on the mirror until the next."""
        for card in self.cards.values():
            if card.url is None:
                continue
            content = write_stand_in(card)
            self.mirror.files = {card.url.removeprefix(self.mirror.url): content}
            md5 = hashlib.md5(content).hexdigest()
            card = replace(  # noqa: PLW2901
                card,
                md5_prefix=card.md5_prefix and md5[: len(card.md5_prefix)],
                sha256=card.sha256 and hashlib.sha256(content).hexdigest(),
                num_bytes=card.num_bytes and len(content),
            )
            yield card
            self.check(card)
            self.store.remove(card.id)
            self.pulled.append(card.id)

    def check(self, card: ModelCard) -> None:
        """The pulled model is whole, and is what the network takes."""
        self.store.verify(card)
        arrays, unused = select_parameters(
            self.store.load_arrays(card), parameter_shapes(card.architecture)
        )
        assert unused == ()
        expected = build_arrays(card.id, PROMPTED)
        for name, array in arrays.items():
            if read_spec(card.id)["format"] != "caffe2" or "norm.running" not in name:
                np.testing.assert_array_equal(array, expected[name])


def write_stand_in(card: ModelCard) -> bytes:
    arrays = build_arrays(card.id, PROMPTED)
    if read_spec(card.id)["format"] == "caffe2":
        return pickle.dumps({"blobs": as_caffe2(card.id, arrays)}, 2)
    return pickle.dumps({"model": arrays, "__author__": "a stand-in"}, 4)


@pytest.mark.slow
def test_every_model_of_the_catalogue_is_pulled(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with running_mirror() as mirror:
        zoo = Zoo(mirror, tmp_path)
        pull_models(zoo.store, zoo.cards_in_turn())
    assert len(zoo.pulled) == 43
    assert zoo.pulled == [card.id for card in zoo.cards.values() if card.url]
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(": stored, ")[0] for line in lines] == zoo.pulled
