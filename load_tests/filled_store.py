"""A model store with a model of full width in it, for want of the zoo's: the parity stand-in's."""

import pickle
from pathlib import Path

from load_tests.stand_in_weights import build_arrays
from model_store.catalogue import load_catalogue
from model_store.store import ModelStore

LIKE = "R_50_FPN_s1x"
NAME = "stand_in_R_50_FPN_s1x"


def fill_store(folder: Path) -> None:
    """Add the model `NAME`, converted, so that it only has to be read."""
    # Only here, as others set how PyTorch's threads wait before it is imported.
    from service.inference.loading import parameter_shapes  # noqa: PLC0415

    checkpoint = folder / "stand_in.pkl"
    content = {"model": build_arrays(LIKE, "figures_2"), "__author__": "a random generator"}
    checkpoint.write_bytes(pickle.dumps(content, 4))
    store = open_store(folder)
    shapes = parameter_shapes(store.find(LIKE).architecture)
    card = store.add(NAME, checkpoint, LIKE, shapes, short_side=None, long_side=None)
    checkpoint.unlink()
    store.load_arrays(card)


def open_store(folder: Path) -> ModelStore:
    """The store in that folder."""
    return ModelStore(folder, load_catalogue(), is_offline=True)
