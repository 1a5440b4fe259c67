"""Who stays on the device and who goes, with models of declared sizes and a simulated clock."""

import math
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from service.errors import OutOfMemory
from service.residency.eviction import Residency


@dataclass
class Simulation:
    """A loader and a clock that exist on paper alone."""

    residency: Residency
    sizes: dict[str, int] = field(default_factory=dict)
    stay_s: float = 0.0
    now_s: float = 1000.0
    evicted: list[str] = field(default_factory=list)

    def size(self, model: str) -> int:
        return self.sizes.get(model, 1)

    def load(self, model: str) -> None:
        """Has a model arrive; whoever has to is gone at once, as nobody uses it."""
        while self.residency.make_room(model, self.size(model), self.now_s) is not None:
            assert self.depart(), f"{model} waits for ever"
        self.residency.arrived(model, self.size(model), self.now_s, stay_s=self.stay_s)

    def depart(self) -> list[str]:
        departing = self.residency.departing()
        for model in departing:
            self.residency.left(model)
        self.evicted += departing
        return departing

    def use(self, model: str) -> None:
        self.now_s += 1
        assert self.residency.lease(model, self.now_s)
        self.residency.release(model, self.now_s)


def simulate(budget: int = 3, *, kept: str = "", stay_s: float = 0.0, **sizes: int) -> Simulation:
    return Simulation(Residency(budget, 0, kept), sizes, stay_s)


def test_if_all_fit_none_ever_goes() -> None:
    simulation = simulate(6)
    for model in "abcdef":
        simulation.load(model)
        simulation.now_s += 1000
    for model in random.Random(1).choices("abcdef", k=100):
        simulation.use(model)
    assert simulation.depart() == []
    assert simulation.residency.used_bytes == 6


def test_the_least_recently_used_goes_first() -> None:
    simulation = simulate(3)
    for model in "abc":
        simulation.load(model)
        simulation.now_s += 1
    simulation.use("a")
    simulation.load("d")
    simulation.load("e")
    assert simulation.evicted == ["b", "c"]


def test_no_more_go_than_have_to() -> None:
    simulation = simulate(10, a=2, b=5, c=3, d=6)
    for model in "abc":
        simulation.load(model)
        simulation.now_s += 1
    simulation.load("d")
    assert simulation.evicted == ["a", "b"]


def test_one_in_use_does_not_go_and_another_does() -> None:
    simulation = simulate(2)
    simulation.load("a")
    simulation.load("b")
    simulation.residency.lease("a", 0.0)
    simulation.load("c")
    assert simulation.evicted == ["b"]


def test_where_all_are_in_use_the_newcomer_waits_for_one_that_gets_no_new_users() -> None:
    simulation = simulate(2)
    residency = simulation.residency
    for model in "ab":
        simulation.load(model)
        simulation.now_s += 1
        assert residency.lease(model, simulation.now_s)
    assert residency.make_room("c", 1, simulation.now_s) == math.inf
    # Else a busy model would keep others out for ever.
    assert not residency.lease("a", simulation.now_s)
    assert residency.lease("b", simulation.now_s)
    assert residency.departing() == []
    residency.release("a", simulation.now_s)
    assert simulation.depart() == ["a"]
    assert residency.make_room("c", 1, simulation.now_s) is None


def test_what_is_preloaded_never_goes() -> None:
    simulation = simulate(3, kept="a")
    for model in "abcdefbcdef":
        simulation.load(model) if not simulation.residency.is_staying(model) else None
        simulation.now_s += 1
    assert "a" not in simulation.evicted
    assert simulation.residency.is_staying("a")


@pytest.mark.parametrize(("kept", "size"), [("", 4), ("a", 3)])
def test_one_that_cannot_fit_is_told_so_and_nobody_goes_for_it(kept: str, size: int) -> None:
    simulation = simulate(3, kept=kept)
    simulation.load("a")
    simulation.load("b")
    with pytest.raises(OutOfMemory, match="DEVICE_MEMORY"):
        simulation.residency.make_room("c", size, simulation.now_s)
    assert simulation.depart() == []


def test_a_model_stays_for_a_while_and_no_longer() -> None:
    simulation = simulate(1, stay_s=10.0)
    simulation.load("a")
    simulation.now_s += 4
    assert simulation.residency.make_room("b", 1, simulation.now_s) == pytest.approx(6.0)
    assert simulation.residency.is_staying("a")
    simulation.now_s += 6
    assert simulation.residency.make_room("b", 1, simulation.now_s) == math.inf
    assert simulation.depart() == ["a"]


def test_nobody_goes_while_that_would_not_be_enough() -> None:
    simulation = simulate(2)
    simulation.load("a")
    simulation.stay_s = 10.0
    simulation.load("b")
    assert simulation.residency.make_room("c", 2, simulation.now_s) == pytest.approx(10.0)
    assert simulation.residency.is_staying("a")


def test_alternating_requests_do_not_thrash_and_neither_model_starves() -> None:
    """Both are asked for all the time, and one fits; a load takes 1 s."""
    simulation = simulate(1, stay_s=4.0)
    residency, present, busy_s = simulation.residency, "", dict.fromkeys("ab", 0.0)
    loads = 0
    while simulation.now_s < 2000:
        waiting = "b" if present == "a" else "a"
        wait_s = residency.make_room(waiting, 1, simulation.now_s)
        if wait_s is None:
            simulation.now_s += 1.0
            residency.arrived(waiting, 1, simulation.now_s, stay_s=simulation.stay_s)
            present, loads = waiting, loads + 1
        elif wait_s < math.inf:
            simulation.now_s += wait_s
            busy_s[present] += wait_s
        else:
            simulation.depart()
    assert loads == pytest.approx(1000 / 5, rel=0.02)
    assert busy_s["a"] == pytest.approx(busy_s["b"], rel=0.02)
    assert sum(busy_s.values()) == pytest.approx(800, rel=0.02)


def test_one_that_is_larger_than_it_was_said_to_be_has_others_go_for_it() -> None:
    simulation = simulate(4)
    for model in "abc":
        simulation.load(model)
        simulation.now_s += 1
    assert simulation.residency.make_room("d", 1, simulation.now_s) is None
    simulation.residency.arrived("d", 3, simulation.now_s, stay_s=0.0)
    assert simulation.depart() == ["a", "b"]
    assert simulation.residency.used_bytes == 4


def test_a_dismissed_model_goes_when_its_last_user_has() -> None:
    simulation = simulate(3, kept="a")
    simulation.load("a")
    simulation.residency.lease("a", 0.0)
    simulation.residency.dismiss("a")
    simulation.residency.dismiss("never there")
    assert simulation.depart() == []
    simulation.residency.release("a", 0.0)
    assert simulation.depart() == ["a"]


def test_a_model_that_is_asked_for_before_it_has_gone_stays() -> None:
    simulation = simulate(3)
    simulation.load("a")
    simulation.residency.dismiss("a")
    assert simulation.residency.recall("a")
    assert simulation.depart() == []
    assert not simulation.residency.recall("b")


def test_copies_on_the_host_have_a_budget_of_their_own_and_the_last_used_stay() -> None:
    residency = Residency(1, 10)
    assert residency.has_room_for_copy()
    assert not residency.has_room_for_copy(11)
    assert residency.keep_copy("a", 4) == []
    assert residency.keep_copy("b", 4) == []
    residency.use_copy("a")
    assert residency.keep_copy("c", 6) == ["b"]
    assert (residency.bytes_on_host("a"), residency.bytes_on_host("b")) == (4, None)
    assert residency.keep_copy("d", 10) == ["a", "c"]
    assert not Residency(1, 0).has_room_for_copy()


MODELS = st.sampled_from("abcdefg")


class Device(RuleBasedStateMachine):
    """Whatever can happen to the models on a device, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.arriving: str | None = None
        self.leases: list[str] = []
        self.left: set[str] = set()

    @initialize(
        budget=st.integers(1, 12),
        sizes=st.lists(st.integers(1, 4), min_size=7, max_size=7),
        kept=st.sets(MODELS, max_size=2),
    )
    def begin(self, budget: int, sizes: list[int], kept: set[str]) -> None:
        self.residency = Residency(budget, 0, kept)
        self.budget, self.kept = budget, kept
        self.sizes = dict(zip("abcdefg", sizes, strict=True))
        self.dismissed: set[str] = set()

    @rule(seconds=st.floats(0, 5))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    @precondition(lambda self: self.arriving is None)
    @rule(model=MODELS)
    def ask_for(self, model: str) -> None:
        if self.residency.recall(model):
            self.dismissed.discard(model)
            return
        before = [name for name in self.sizes if self.residency.is_staying(name)]
        try:
            wait_s = self.residency.make_room(model, self.sizes[model], self.now_s)
        except OutOfMemory:
            others = sum(self.sizes[name] for name in self.kept - {model} if name in before)
            assert self.sizes[model] + others > self.budget
            return
        if wait_s is None:
            self.arriving = model
        else:
            assert wait_s > 0
            for name in before:
                if not self.residency.is_staying(name):
                    assert name not in self.kept

    @precondition(lambda self: self.arriving is not None)
    @rule(stay_s=st.floats(0, 5), has_arrived=st.booleans())
    def arrive(self, stay_s: float, has_arrived: bool) -> None:
        assert self.arriving is not None
        if has_arrived:
            size = self.sizes[self.arriving]
            self.residency.arrived(self.arriving, size, self.now_s, stay_s=stay_s)
        else:
            self.residency.left(self.arriving)
        self.arriving = None

    @rule(model=MODELS)
    def lease(self, model: str) -> None:
        if model != self.arriving and self.residency.lease(model, self.now_s):
            self.leases.append(model)

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        model = self.leases.pop(data.draw(st.integers(0, len(self.leases) - 1)))
        self.residency.release(model, self.now_s)

    @rule(model=MODELS)
    def dismiss(self, model: str) -> None:
        if model != self.arriving:
            self.residency.dismiss(model)
            self.dismissed.add(model)

    @rule()
    def depart(self) -> None:
        for model in self.residency.departing():
            assert model not in self.leases
            assert model not in self.kept or model in self.dismissed
            if model not in self.dismissed:
                assert sum(self.sizes.values()) > self.budget, "all fit, and one goes"
            self.residency.left(model)
            self.dismissed.discard(model)

    @invariant()
    def the_budget_is_kept(self) -> None:
        if hasattr(self, "residency"):
            assert self.residency.used_bytes <= self.budget

    def teardown(self) -> None:
        """When all users have gone, every model that fits gets its place in the end."""
        if not hasattr(self, "residency"):
            return
        if self.arriving is not None:
            self.arrive(0.0, has_arrived=True)
        for model in self.leases:
            self.residency.release(model, self.now_s)
        for model in self.sizes:
            self.now_s += 10
            try:
                for _ in range(20):
                    if self.residency.recall(model):
                        break
                    if self.residency.make_room(model, self.sizes[model], self.now_s) is None:
                        self.residency.arrived(model, self.sizes[model], self.now_s, stay_s=1.0)
                    for name in self.residency.departing():
                        self.residency.left(name)
                assert self.residency.is_staying(model)
            except OutOfMemory:
                continue


TestDevice = Device.TestCase
TestDevice.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
