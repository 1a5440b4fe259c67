"""Shares of the device's seconds, and whole schedules of several models with a simulated clock."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from service.batching.fairness import FairShares
from service.batching.scheduler import Scheduler
from service.batching.ticket import NOBODY, Batch
from service.errors import Overloaded
from tests.unit.batching.simulation import LARGE, SMALL, Simulation, budget

# Seconds per image: "slow" takes eight times what "hot" takes.
IMAGE_S = {"hot": 0.005, "cold": 0.005, "slow": 0.040, "third": 0.010}


def seconds_of(batch: Batch[int, str]) -> float:
    return 0.010 + IMAGE_S[batch.key.model_id] * len(batch.tickets)


def simulate(*models: str) -> Simulation:
    """The costs of these models are known, and all batches worth it."""
    simulation = Simulation(seconds_of=seconds_of)
    for model in models:
        simulation.learn(model)
    return simulation


def busy_s(simulation: Simulation, first: int = 0) -> Counter[str]:
    seconds = Counter[str]()
    for batch in simulation.log[first:]:
        seconds[batch.key.model_id] += seconds_of(batch)  # type: ignore[assignment]
    return seconds


def saturate(simulation: Simulation, queue: dict[str, int], seconds: float) -> Counter[str]:
    """Each model always has so many tickets waiting; the device seconds that each gets."""
    first, end_s = len(simulation.log), simulation.now_s + seconds
    while simulation.now_s < end_s:
        waiting = simulation.scheduler.waiting_by_model()
        for model, size in queue.items():
            for _ in range(size - waiting[model]):
                simulation.submit(model)
        simulation.step()
    simulation.scheduler.refuse_waiting(Overloaded("over"))
    return busy_s(simulation, first)


def test_who_was_idle_has_no_claim_for_that_time() -> None:
    shares = FairShares()
    for model in ("busy", "idle"):
        shares.join(model)
    for _ in range(100):
        shares.begin("busy", 1.0)
    shares.join("back")
    assert shares.of("back") == shares.of("busy") - 1.0 == 99.0


def test_a_wrong_estimate_is_put_right() -> None:
    shares = FairShares()
    shares.join("a")
    shares.begin("a", 1.0)
    shares.correct("a", 0.5)
    assert shares.of("a") == 1.5
    shares.correct("unknown", 1.0)
    shares.level()
    assert shares.of("a") == 0.0


def test_a_hot_model_and_a_cold_one_get_the_same_device_time() -> None:
    simulation = simulate("hot", "cold")
    seconds = saturate(simulation, {"hot": 60, "cold": 8}, 10.0)
    assert seconds["cold"] / seconds["hot"] == pytest.approx(1.0, abs=0.02)


def test_shares_are_of_time_and_not_of_images() -> None:
    simulation = simulate("hot", "slow", "third")
    seconds = saturate(simulation, {"hot": 40, "slow": 20, "third": 30}, 10.0)
    for model in ("hot", "slow", "third"):
        assert seconds[model] / seconds.total() == pytest.approx(1 / 3, abs=0.02)


def test_what_a_model_does_not_use_others_have() -> None:
    simulation = simulate("hot", "cold")
    seconds = saturate(simulation, {"hot": 40, "cold": 1}, 10.0)
    # One image at a time takes 15 ms, eight 50 ms; it is never made to wait for more than a batch.
    assert seconds["hot"] / seconds.total() > 0.6


@pytest.mark.parametrize("head_start", [0, 64, 500])
def test_a_newcomer_waits_for_two_batches_of_a_hot_model_at_most(head_start: int) -> None:
    simulation = simulate("hot", "cold")
    for _ in range(head_start + 8):
        simulation.submit("hot")
    for _ in range(5):
        simulation.step()
        for _ in range(8):
            simulation.submit("hot")
    simulation.start()
    ticket = simulation.submit("cold")
    simulation.finish()
    num_ahead = 0
    while ticket.started_s is None:
        simulation.step()
        num_ahead += ticket.started_s is None
        simulation.submit("hot")
    assert num_ahead <= 2


def test_idleness_earns_nothing() -> None:
    """A model that comes back does not have the device for itself until it has caught up."""
    simulation = simulate("hot", "cold")
    saturate(simulation, {"hot": 40}, 5.0)
    seconds = saturate(simulation, {"hot": 40, "cold": 40}, 5.0)
    assert seconds["cold"] / seconds["hot"] == pytest.approx(1.0, abs=0.1)


def test_a_hot_model_s_queue_refuses_no_request_of_another_that_would_be_served_in_time() -> None:
    simulation = simulate("hot", "cold")
    for _ in range(400):
        simulation.submit("hot")  # 50 batches of 50 ms
    with pytest.raises(Overloaded):
        simulation.submit("hot", timeout_s=0.5)
    ticket = simulation.submit("cold", timeout_s=0.5)
    while ticket.started_s is None:
        simulation.step()
    assert simulation.now_s < ticket.deadline_s
    assert ticket.result.result(0)


def test_the_wait_of_a_model_is_estimated_by_its_fair_share() -> None:
    simulation = simulate("hot", "cold")
    for _ in range(400):
        simulation.submit("hot")
    for _ in range(80):
        simulation.submit("cold")  # 10 batches of 50 ms
    expected_s = simulation.scheduler.turn_s("cold", NOBODY, simulation.now_s)
    begin_s = simulation.now_s
    last = simulation.num_samples
    while not any(ticket.sample == last for ticket in simulation.log[-1].tickets):
        simulation.step()
    assert simulation.now_s - begin_s == pytest.approx(expected_s, rel=0.1)
    assert simulation.scheduler.wait_s(simulation.now_s) > expected_s


def test_sizes_of_a_model_share_what_the_model_has() -> None:
    simulation = simulate("hot", "cold")
    simulation.learn("hot", LARGE)
    first = len(simulation.log)
    for _ in range(40):
        for _ in range(8):
            simulation.submit("hot", SMALL)
            simulation.submit("hot", LARGE)
            simulation.submit("cold", SMALL)
    end_s = simulation.now_s + 2.0
    while simulation.now_s < end_s:
        simulation.step()
    seconds = busy_s(simulation, first)
    assert seconds["hot"] / seconds["cold"] == pytest.approx(1.0, abs=0.1)


def test_a_batch_that_failed_counts_for_its_model() -> None:
    """Else one whose batches fail would have more than its share."""
    simulation = simulate("hot", "cold")
    for _ in range(400):
        simulation.submit("hot")
        simulation.submit("cold")
    seconds = Counter[str]()

    def fail(key: object, samples: object) -> list[str | Exception]:
        raise RuntimeError("broken")

    for _ in range(40):
        batch = simulation.start()
        assert batch is not None
        simulation.finish(fail if batch.key.model_id == "hot" else None)
        seconds[batch.key.model_id] += seconds_of(batch)  # type: ignore[assignment]
    assert seconds["hot"] == pytest.approx(seconds["cold"], rel=0.1)


@hypothesis_settings(max_examples=30, deadline=None)
@given(
    queue=st.dictionaries(
        st.sampled_from(sorted(IMAGE_S)), st.integers(16, 40), min_size=2, max_size=4
    ),
    max_images=st.sampled_from([1, 4, 8]),
)
def test_models_that_always_have_work_differ_by_no_more_than_their_batches(
    queue: dict[str, int], max_images: int
) -> None:
    simulation = Simulation(Scheduler(budget(max_images=max_images)), seconds_of=seconds_of)
    for model in queue:
        simulation.learn(model)
    seconds = saturate(simulation, queue, 3.0)
    largest_s = max(0.010 + IMAGE_S[model] * max_images for model in queue)
    assert max(seconds.values()) - min(seconds.values()) <= 3 * largest_s


def party_s(simulation: Simulation, first: int) -> Counter[str]:
    """The device seconds of each party, by its part of each batch."""
    seconds = Counter[str]()
    for batch in simulation.log[first:]:
        for ticket in batch.tickets:
            seconds[ticket.party] += seconds_of(batch) / len(batch.tickets)  # type: ignore[assignment]
    return seconds


def saturate_parties(
    simulation: Simulation, queue: dict[tuple[str, str, tuple[int, int]], int], seconds: float
) -> Counter[str]:
    """Each party always has so many tickets of a model and size waiting; what each gets."""
    first, end_s = len(simulation.log), simulation.now_s + seconds
    waiting = Counter[tuple[str, str, tuple[int, int]]]()
    while simulation.now_s < end_s:
        for (party, model, size_hw), size in queue.items():
            for _ in range(size - waiting[party, model, size_hw]):
                simulation.submit(model, size_hw, party=party)
                waiting[party, model, size_hw] += 1
        batch = simulation.step()
        assert batch is not None
        for ticket in batch.tickets:
            waiting[ticket.party, batch.key.model_id, batch.key.size_hw] -= 1
    simulation.scheduler.refuse_waiting(Overloaded("over"))
    return party_s(simulation, first)


def test_a_party_that_floods_and_one_that_does_not_get_the_same_device_time() -> None:
    simulation = simulate("hot")
    queue = {("flood", "hot", SMALL): 60, ("bob", "hot", SMALL): 8}
    seconds = saturate_parties(simulation, queue, 5.0)
    assert seconds["bob"] / seconds["flood"] == pytest.approx(1.0, abs=0.05)


def test_parties_share_a_model_whatever_sizes_they_ask_for() -> None:
    simulation = simulate("hot")
    simulation.learn("hot", LARGE)
    queue = {("flood", "hot", SMALL): 40, ("bob", "hot", LARGE): 8, ("flood", "hot", LARGE): 40}
    seconds = saturate_parties(simulation, queue, 5.0)
    assert seconds["bob"] / seconds["flood"] == pytest.approx(1.0, abs=0.1)


def test_parties_share_within_what_their_model_has() -> None:
    simulation = simulate("hot", "cold")
    queue = {("flood", "hot", SMALL): 40, ("bob", "hot", SMALL): 8, ("carol", "cold", SMALL): 16}
    seconds = saturate_parties(simulation, queue, 5.0)
    assert seconds["carol"] / seconds.total() == pytest.approx(0.5, abs=0.03)
    assert seconds["bob"] / seconds["flood"] == pytest.approx(1.0, abs=0.05)


def test_parties_take_turns_though_no_cost_is_known() -> None:
    simulation = Simulation(Scheduler(budget(max_images=1)))
    flood = [simulation.submit(party="flood") for _ in range(8)]
    bob = simulation.submit(party="bob")
    order = [batch.tickets[0] for batch in simulation.run_all()]
    assert order.index(bob) <= 1
    assert [ticket for ticket in order if ticket is not bob] == flood


def test_a_batch_has_tickets_of_all_parties_and_each_party_s_oldest_first() -> None:
    simulation = simulate("hot")
    flood = [simulation.submit("hot", party="flood") for _ in range(40)]
    bob = [simulation.submit("hot", party="bob") for _ in range(4)]
    batch = simulation.step()
    assert batch is not None
    assert len(batch.tickets) == 8
    assert [ticket for ticket in batch.tickets if ticket.party == "bob"] == bob
    assert [ticket for ticket in batch.tickets if ticket.party == "flood"] == flood[:4]


def test_a_flood_refuses_no_request_of_another_party_that_would_be_served_in_time() -> None:
    simulation = simulate("hot")
    for _ in range(400):
        simulation.submit("hot", party="flood")  # 50 batches of 50 ms
    with pytest.raises(Overloaded):
        simulation.submit("hot", timeout_s=0.5, party="flood")
    ticket = simulation.submit("hot", timeout_s=0.5, party="bob")
    while ticket.started_s is None:
        simulation.step()
    assert simulation.now_s < ticket.deadline_s
    assert ticket.result.result(0)


def test_the_wait_of_a_party_is_estimated_by_its_fair_share() -> None:
    simulation = simulate("hot")
    for _ in range(400):
        simulation.submit("hot", party="flood")
    for _ in range(80):
        simulation.submit("hot", party="bob")
    expected_s = simulation.scheduler.turn_s("hot", "bob", simulation.now_s)
    begin_s, last = simulation.now_s, simulation.num_samples
    while not any(ticket.sample == last for ticket in simulation.log[-1].tickets):
        simulation.step()
    assert simulation.now_s - begin_s == pytest.approx(expected_s, rel=0.1)
    assert simulation.scheduler.wait_s(begin_s) < 2 * expected_s


@hypothesis_settings(max_examples=20, deadline=None)
@given(
    queue=st.dictionaries(
        st.tuples(
            st.sampled_from(["flood", "bob", "carol", ""]),
            st.just("hot"),
            st.sampled_from([SMALL, LARGE]),
        ),
        st.integers(16, 40),
        min_size=2,
        max_size=6,
    ),
    max_images=st.sampled_from([1, 4, 8]),
)
def test_parties_that_always_have_work_differ_by_no_more_than_their_batches(
    queue: dict[tuple[str, str, tuple[int, int]], int], max_images: int
) -> None:
    simulation = Simulation(Scheduler(budget(max_images=max_images)), seconds_of=seconds_of)
    for size_hw in (SMALL, LARGE):
        simulation.learn("hot", size_hw)
    seconds = saturate_parties(simulation, queue, 2.0)
    largest_s = 0.010 + IMAGE_S["hot"] * max_images
    assert max(seconds.values()) - min(seconds.values()) <= 3 * largest_s
