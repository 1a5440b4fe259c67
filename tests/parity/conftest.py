"""The worst difference of each quantity, shown at the end of a run."""

from collections.abc import Iterator

import pytest
import torch

from service.inference.devices import find_device


class Worst:
    """Keeps the largest value of each quantity."""

    def __init__(self) -> None:
        self.values: dict[str, tuple[float, str]] = {}
        self.where = ""

    def at_most(self, quantity: str, value: float) -> float:
        """The value itself, kept where it is the largest so far."""
        self.values[quantity] = max(
            self.values.get(quantity, (-1.0, "")), (float(value), self.where)
        )
        return float(value)


WORST = pytest.StashKey[Worst]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="what the models run on; `cuda` for a GPU")


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    return find_device(request.config.getoption("--device", default="cpu"))


def pytest_configure(config: pytest.Config) -> None:
    config.stash[WORST] = Worst()


@pytest.fixture
def worst(request: pytest.FixtureRequest) -> Iterator[Worst]:
    kept = request.config.stash[WORST]
    kept.where = request.node.name
    return kept


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Tests of one model and picture stand together, so that each is computed once.
    places = [
        index for index, item in enumerate(items) if "case" in getattr(item, "fixturenames", ())
    ]
    ordered = sorted((items[index] for index in places), key=lambda item: item.callspec.id)  # type: ignore[attr-defined]
    for index, item in zip(places, ordered, strict=True):
        items[index] = item


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    values = config.stash[WORST].values
    if values:
        terminalreporter.section("worst differences from detectron2")
        for quantity, (value, where) in sorted(values.items()):
            terminalreporter.write_line(f"{quantity:40} {value:.2e}  {where}")
