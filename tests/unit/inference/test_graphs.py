import torch

from service.inference.graphs import MIN_USES, WINDOW, GraphCache


class Maker:
    """Makes upper-case words, and counts how often."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def __call__(self, word: str) -> str:
        self.made.append(word)
        return word.upper()


def cache_of(make: Maker, capacity: int = 4) -> GraphCache[str, str]:
    return GraphCache(make, weigh=len, capacity=capacity)


def test_only_what_is_asked_for_often_is_captured() -> None:
    make = Maker()
    graphs = cache_of(make)
    answers = [graphs.find("a") for _ in range(MIN_USES + 3)]
    assert answers == [None] * (MIN_USES - 1) + ["A"] * 4
    assert make.made == ["a"]


def test_what_was_asked_for_long_ago_is_rare() -> None:
    graphs = cache_of(Maker())
    for _ in range(MIN_USES - 1):
        graphs.find("a")
    for index in range(WINDOW):
        assert graphs.find(f"other {index}") is None
    assert graphs.find("a") is None


def test_the_one_used_longest_ago_goes_first() -> None:
    make = Maker()
    graphs = cache_of(make)
    for word in ("aa", "bb"):
        graphs.add(word)
    graphs.find("aa")
    graphs.add("cc")
    assert (graphs.find("aa"), graphs.find("bb"), graphs.find("cc")) == (
        "AA",
        None,
        "CC",
    )


def test_one_that_is_larger_than_the_capacity_stands_alone() -> None:
    graphs = cache_of(Maker())
    graphs.add("aa")
    assert graphs.add("a long one") == "A LONG ONE"
    assert len(graphs) == 1


def test_keys_that_take_turns_are_not_captured_for_every_batch() -> None:
    make = Maker()
    graphs = cache_of(make, capacity=1)
    for _ in range(100):
        graphs.find("a")
        graphs.find("b")
    assert len(make.made) <= 200 / MIN_USES


def test_without_memory_for_it_all_graphs_are_given_up() -> None:
    def make(word: str) -> str:
        if word == "b":
            raise torch.OutOfMemoryError("no memory")
        return word

    graphs = GraphCache(make, weigh=len, capacity=4)
    graphs.add("a")
    assert graphs.add("b") is None
    assert len(graphs) == 0
