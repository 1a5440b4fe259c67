import torch

from service.inference.recordings import MIN_USES, WINDOW, Recordings


class Maker:
    """Makes upper-case words, and counts how often."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def __call__(self, word: str) -> str:
        self.made.append(word)
        return word.upper()


def recordings_of(make: Maker, capacity: int = 4) -> Recordings[str, str]:
    return Recordings(make, weigh=len, capacity=capacity)


def test_only_what_is_asked_for_often_is_recorded() -> None:
    make = Maker()
    recordings = recordings_of(make)
    answers = [recordings.find("a") for _ in range(MIN_USES + 3)]
    assert answers == [None] * (MIN_USES - 1) + ["A"] * 4
    assert make.made == ["a"]


def test_what_was_asked_for_long_ago_is_rare() -> None:
    recordings = recordings_of(Maker())
    for _ in range(MIN_USES - 1):
        recordings.find("a")
    for index in range(WINDOW):
        assert recordings.find(f"other {index}") is None
    assert recordings.find("a") is None


def test_the_one_used_longest_ago_goes_first() -> None:
    make = Maker()
    recordings = recordings_of(make)
    for word in ("aa", "bb"):
        recordings.add(word)
    recordings.find("aa")
    recordings.add("cc")
    assert (recordings.find("aa"), recordings.find("bb"), recordings.find("cc")) == (
        "AA",
        None,
        "CC",
    )


def test_one_that_is_larger_than_the_capacity_stands_alone() -> None:
    recordings = recordings_of(Maker())
    recordings.add("aa")
    assert recordings.add("a long one") == "A LONG ONE"
    assert len(recordings) == 1


def test_keys_that_take_turns_are_not_recorded_for_every_batch() -> None:
    make = Maker()
    recordings = recordings_of(make, capacity=1)
    for _ in range(100):
        recordings.find("a")
        recordings.find("b")
    assert len(make.made) <= 200 / MIN_USES


def test_without_memory_for_it_all_recordings_are_given_up() -> None:
    def make(word: str) -> str:
        if word == "b":
            raise torch.OutOfMemoryError("no memory")
        return word

    recordings = Recordings(make, weigh=len, capacity=4)
    recordings.add("a")
    assert recordings.add("b") is None
    assert len(recordings) == 0
