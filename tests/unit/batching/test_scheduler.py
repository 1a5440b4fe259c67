"""Order, fairness, deadlines, budgets and cancellation, with a simulated clock."""

from collections import Counter
from concurrent.futures import Future

import pytest

from service.batching.scheduler import Scheduler
from service.batching.ticket import Trigger
from service.errors import Draining, Overloaded
from tests.unit.batching.simulation import (
    LARGE,
    SMALL,
    Simulation,
    answer,
    budget,
    samples_of,
)


@pytest.fixture
def simulation() -> Simulation:
    return Simulation()


def with_delay(delay_s: float) -> Simulation:
    return Simulation(Scheduler(budget(), max_delay_s=delay_s))


def test_an_idle_device_takes_a_request_at_once(simulation: Simulation) -> None:
    ticket = simulation.submit()
    batch = simulation.start()
    assert batch is not None
    assert (batch.tickets, batch.trigger) == ([ticket], Trigger.IDLE)
    assert ticket.started_s == ticket.queued_s


def test_without_requests_there_is_no_batch(simulation: Simulation) -> None:
    assert simulation.start() is None
    assert simulation.scheduler.next_due_s(simulation.now_s) is None


def test_what_gathers_while_the_device_is_busy_goes_together(simulation: Simulation) -> None:
    simulation.learn()
    simulation.submit()
    simulation.start()
    waiting = [simulation.submit() for _ in range(5)]
    simulation.finish()
    batch = simulation.start()
    assert batch is not None
    assert (batch.tickets, batch.trigger) == (waiting, Trigger.IDLE)


def test_a_full_batch_says_so_and_the_rest_waits_for_the_next(simulation: Simulation) -> None:
    simulation.learn()
    tickets = [simulation.submit() for _ in range(11)]
    first, second = simulation.run_all()
    assert (first.tickets, first.trigger) == (tickets[:8], Trigger.FULL)
    assert (second.tickets, second.trigger) == (tickets[8:], Trigger.IDLE)


def test_a_batch_has_one_model_and_one_padded_size(simulation: Simulation) -> None:
    for size_hw in (SMALL, LARGE):
        for model in "ab":
            simulation.learn(model, size_hw)
    for size_hw in (SMALL, LARGE, SMALL):
        for model in "abab":
            simulation.submit(model, size_hw)
    batches = simulation.run_all()
    for batch in batches:
        assert {ticket.key for ticket in batch.tickets} == {batch.key}
    assert Counter(len(batch.tickets) for batch in batches) == {4: 2, 2: 2}


def test_across_models_and_sizes_the_oldest_goes_first(simulation: Simulation) -> None:
    order = [("b", LARGE), ("a", SMALL), ("a", LARGE), ("b", SMALL)]
    for model, size_hw in order:
        simulation.submit(model, size_hw)
        simulation.now_s += 0.001
    batches = simulation.run_all()
    assert [(batch.key.model_id, batch.key.size_hw) for batch in batches] == order


def test_a_batch_may_overtake_by_as_long_as_it_saves_and_no_longer() -> None:
    for head_start_s, first in ((0.130, "hot"), (0.150, "rare")):
        simulation = Simulation()
        simulation.learn("hot")  # eight images take 60 ms together, and 200 ms alone
        simulation.submit("rare")
        simulation.now_s += head_start_s
        for _ in range(8):
            simulation.submit("hot")
        batch = simulation.start()
        assert batch is not None
        assert batch.key.model_id == first


@pytest.mark.parametrize("rare", [("quiet", SMALL), ("hot", LARGE)])
def test_neither_a_quiet_model_nor_a_rare_size_starves(
    simulation: Simulation, rare: tuple[str, tuple[int, int]]
) -> None:
    simulation.learn("hot")
    for _ in range(64):
        simulation.submit("hot")
    ticket = simulation.submit(*rare)
    num_ahead = simulation.scheduler.num_waiting - 1
    # The hot model's queue is never empty, and never gets shorter.
    num_batches = 0
    while ticket.started_s is None:
        batch = simulation.step()
        assert batch is not None
        num_batches += 1
        for _ in batch.tickets:
            simulation.submit("hot")
    # Ahead of it are those that were there, and those who came in the next 140 ms.
    assert num_batches <= num_ahead / 8 + 4


@pytest.mark.parametrize(
    ("limit", "trigger"),
    [
        ({"max_images": 3}, Trigger.FULL),
        ({"max_pixels": 3 * SMALL[0] * SMALL[1]}, Trigger.PIXELS),
        ({"max_instances": 3 * 20}, Trigger.INSTANCES),
    ],
)
def test_a_batch_stays_within_its_budget(limit: dict[str, int], trigger: Trigger) -> None:
    simulation = Simulation(Scheduler(budget(**limit)))
    for _ in range(64):
        simulation.submit(max_instances=20)
    batches = simulation.run_all()
    largest = batches[-2]
    assert max(len(batch.tickets) for batch in batches) == len(largest.tickets) == 3
    assert largest.trigger is trigger


def test_a_request_beyond_the_budget_is_a_batch_of_its_own() -> None:
    simulation = Simulation(Scheduler(budget(max_pixels=1, max_instances=1)))
    for _ in range(3):
        simulation.submit(max_instances=100)
    assert [len(batch.tickets) for batch in simulation.run_all()] == [1, 1, 1]


def test_a_batch_does_not_grow_past_the_size_that_is_worth_it() -> None:
    simulation = Simulation(seconds_of=lambda batch: 0.1 * len(batch.tickets))
    simulation.learn()
    for _ in range(32):
        simulation.submit()
    sizes = Counter(len(batch.tickets) for batch in simulation.run_all())
    assert sizes == {1: 28, 2: 2}  # now and then it tries


def test_a_batch_does_not_grow_past_the_earliest_deadline_in_it(simulation: Simulation) -> None:
    simulation.learn()
    patient = [simulation.submit() for _ in range(3)]
    urgent = simulation.submit(timeout_s=0.043)  # 4 images take 40 ms, 5 take 45
    more = [simulation.submit() for _ in range(3)]
    first = simulation.step()
    assert first is not None
    assert (first.tickets, first.trigger) == ([*patient, urgent], Trigger.DEADLINE)
    assert simulation.now_s < urgent.deadline_s
    second = simulation.step()
    assert second is not None
    assert second.tickets == more


def test_a_request_past_its_deadline_costs_the_device_nothing(simulation: Simulation) -> None:
    late = simulation.submit(timeout_s=1.0)
    simulation.now_s += 1.5
    kept = simulation.submit()
    assert simulation.step().tickets == [kept]  # type: ignore[union-attr]
    with pytest.raises(Overloaded) as caught:
        late.result.result(0)
    assert caught.value.reason == "expired"


def test_a_request_that_cannot_be_done_by_its_deadline_costs_the_device_nothing(
    simulation: Simulation,
) -> None:
    simulation.learn()
    hopeless = simulation.submit(timeout_s=0.1)
    simulation.now_s += 0.085  # one image takes 25 ms
    kept = simulation.submit()
    assert simulation.step().tickets == [kept]  # type: ignore[union-attr]
    with pytest.raises(Overloaded):
        hopeless.result.result(0)


def test_a_request_whose_turn_would_come_too_late_is_turned_away_with_an_estimate(
    simulation: Simulation,
) -> None:
    simulation.learn()
    for _ in range(80):
        simulation.submit()
    # Ten batches of 60 ms, and 25 ms of its own.
    assert simulation.scheduler.wait_s(simulation.now_s) == pytest.approx(0.6, rel=0.01)
    with pytest.raises(Overloaded) as caught:
        simulation.submit(timeout_s=0.62)
    assert caught.value.reason == "deadline"
    assert caught.value.retry_after_s == pytest.approx(0.6, rel=0.01)
    assert simulation.scheduler.num_waiting == 80
    simulation.submit(timeout_s=0.63)
    # It makes a batch of its own, which the next one joins for 5 ms.
    simulation.submit(timeout_s=0.635)


def test_the_wait_has_what_is_left_of_the_running_batch(simulation: Simulation) -> None:
    simulation.learn()
    for _ in range(8):
        simulation.submit()
    simulation.start()
    simulation.now_s += 0.040
    assert simulation.scheduler.wait_s(simulation.now_s) == pytest.approx(0.020, abs=0.002)
    simulation.now_s += 0.040
    assert simulation.scheduler.wait_s(simulation.now_s) == 0


def test_given_boxes_are_part_of_the_estimate() -> None:
    simulation = Simulation(
        seconds_of=lambda batch: 0.1 + 0.01 * sum(t.max_instances for t in batch.tickets)
    )
    for num_boxes in (1, 30, 5, 80, 2, 17) * 20:
        simulation.submit(max_instances=num_boxes, are_instances_given=True)
        simulation.start()
        simulation.finish(num_instances=num_boxes)
    simulation.submit(max_instances=100, are_instances_given=True)
    assert simulation.scheduler.wait_s(simulation.now_s) == pytest.approx(1.1, rel=0.05)


def test_an_estimate_that_nothing_confirms_turns_nobody_away(simulation: Simulation) -> None:
    simulation.learn()
    with pytest.raises(Overloaded):
        simulation.submit(timeout_s=0.010)
    simulation.now_s += 60
    simulation.submit(timeout_s=0.010)
    assert simulation.step() is not None


def test_a_cancelled_request_costs_the_device_nothing(simulation: Simulation) -> None:
    simulation.learn()
    tickets = [simulation.submit() for _ in range(4)]
    tickets[1].result.cancel()
    simulation.scheduler.withdraw(tickets[1])
    assert simulation.scheduler.num_waiting == 3
    # This one's owner has not come to withdraw it.
    tickets[2].result.cancel()
    assert simulation.step().tickets == [tickets[0], tickets[3]]  # type: ignore[union-attr]
    assert simulation.scheduler.num_waiting == 0


def test_a_request_that_is_cancelled_in_the_moment_when_it_is_taken_costs_the_device_nothing(
    simulation: Simulation,
) -> None:
    class LeavesNow(Future[str]):
        def set_running_or_notify_cancel(self) -> bool:
            self.cancel()
            return super().set_running_or_notify_cancel()

    left, kept = simulation.submit(), simulation.submit("b")
    left.result = LeavesNow()
    assert simulation.step().tickets == [kept]  # type: ignore[union-attr]


def test_a_queue_that_was_cancelled_altogether_leaves_the_device_to_others(
    simulation: Simulation,
) -> None:
    gone = [simulation.submit("a") for _ in range(3)]
    simulation.now_s += 0.001
    kept = simulation.submit("b")
    for ticket in gone:
        ticket.result.cancel()
    assert simulation.step().tickets == [kept]  # type: ignore[union-attr]


def test_a_running_request_cannot_be_cancelled_and_its_answer_goes_nowhere(
    simulation: Simulation,
) -> None:
    ticket = simulation.submit()
    simulation.start()
    assert not ticket.result.cancel()
    simulation.scheduler.withdraw(ticket)
    simulation.finish()
    assert ticket.result.result(0) == answer(ticket.sample)


def test_the_operator_s_delay_lets_a_batch_gather() -> None:
    simulation = with_delay(0.010)
    simulation.learn()
    first = simulation.submit()
    assert simulation.start() is None
    assert simulation.scheduler.next_due_s(simulation.now_s) == pytest.approx(
        first.queued_s + 0.010
    )
    simulation.now_s += 0.009
    second = simulation.submit()
    assert simulation.start() is None
    simulation.now_s += 0.0011
    batch = simulation.start()
    assert batch is not None
    assert (batch.tickets, batch.trigger) == ([first, second], Trigger.IDLE)


def test_a_batch_that_is_full_waits_for_no_delay() -> None:
    simulation = with_delay(0.010)
    simulation.learn()
    for _ in range(8):
        simulation.submit()
    assert len(samples_of(simulation.start())) == 8


def test_the_delay_makes_nobody_miss_a_deadline() -> None:
    simulation = with_delay(1.0)
    simulation.learn()
    ticket = simulation.submit(timeout_s=0.100)
    due_s = simulation.scheduler.next_due_s(simulation.now_s)
    assert due_s is not None
    assert due_s + 0.024 < ticket.deadline_s < due_s + 0.026


def test_at_the_end_nothing_waits_for_a_delay() -> None:
    simulation = with_delay(10.0)
    simulation.learn()
    simulation.submit()
    assert simulation.scheduler.next_batch(simulation.now_s) is None
    assert simulation.scheduler.next_batch(simulation.now_s, is_patient=False) is not None


def test_all_that_wait_can_be_refused_and_the_running_batch_goes_on(
    simulation: Simulation,
) -> None:
    running = simulation.submit()
    simulation.start()
    waiting = [simulation.submit(model) for model in "abc"]
    simulation.scheduler.refuse_waiting(Draining("going"))
    assert simulation.scheduler.num_waiting == 0
    for ticket in waiting:
        with pytest.raises(Draining):
            ticket.result.result(0)
    simulation.finish()
    assert running.result.result(0) == answer(running.sample)


def test_a_batch_that_failed_teaches_nothing_about_costs(simulation: Simulation) -> None:
    simulation.learn()
    before = simulation.scheduler.image_s("a", simulation.now_s)
    for _ in range(2):
        simulation.submit()
    simulation.start()
    simulation.seconds_of = lambda batch: 100.0

    def fail(key: object, samples: object) -> list[str | Exception]:
        raise RuntimeError("broken")

    simulation.finish(fail)
    assert simulation.scheduler.image_s("a", simulation.now_s - 100) == before


def test_the_queue_s_length_is_known_by_model(simulation: Simulation) -> None:
    for model, size_hw in [("a", SMALL), ("b", SMALL), ("a", LARGE)]:
        simulation.submit(model, size_hw)
    assert simulation.scheduler.waiting_by_model() == {"a": 2, "b": 1}
