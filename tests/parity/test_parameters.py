"""Names and shapes of every row's parameters; no weights needed."""

import pytest

from load_tests.stand_in_weights import read_spec
from model_store.catalogue import ModelCard, load_catalogue
from service.inference.loading import parameter_shapes

CARDS = [card for card in load_catalogue().values() if card.group != "demo"]


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.id)
def test_the_network_has_exactly_the_checkpoint_s_parameters(card: ModelCard) -> None:
    recorded = {name: tuple(shape) for name, shape in read_spec(card.id)["parameters"].items()}
    assert parameter_shapes(card.architecture) == recorded
