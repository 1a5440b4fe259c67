"""Who is next: a queue per model and padded size, and the batch that goes when the device is free.

It has no thread, no lock and no clock: it is told the time, in seconds of the monotonic clock.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic

from service.batching.batch_limits import GrowthLimit, MemoryLimit
from service.batching.cost import CostModel, Work
from service.batching.fairness import FairShares
from service.batching.ticket import Batch, BatchKey, R, S, Ticket, Trigger, refuse
from service.errors import Overloaded

# Parties take turns, too, while nothing is known of what an image takes.
MIN_IMAGE_S = 1e-6


@dataclass(frozen=True, slots=True)
class Budget:
    """What one batch may have at most; a single request is a batch whatever it has."""

    max_images: int
    max_pixels: int
    max_instances: int


@dataclass(frozen=True, slots=True)
class _Plan:
    """The batch that could be made of a queue now."""

    key: BatchKey
    tickets: Sequence[Ticket[Any, Any]]
    trigger: Trigger
    # When it may go if nobody joins it.
    due_s: float
    urgency_s: float
    # What it will take, as far as costs are known.
    seconds: float


def check_deadline(spare_s: float, *, wait_s: float, own_s: float) -> None:
    """Turns away what would have to wait and then takes `own_s`, and has less than both together.

    Raises:
        Overloaded: it has less.
    """
    if wait_s + own_s > spare_s:
        raise Overloaded(
            f"The answer would take about {wait_s + own_s:.2g} s, longer than this request may: "
            "try again later, or allow more with timeout_ms.",
            reason="deadline",
            retry_after_s=wait_s,
        )


def waited_in_vain(wait_s: float) -> Overloaded:
    """The error for a request that was accepted, and whose turn did not come in time."""
    return Overloaded(
        "The request waited in the queue until its deadline: try again later.",
        reason="expired",
        retry_after_s=wait_s,
    )


class Scheduler(Generic[S, R]):
    """Tickets in, batches out. At most one batch runs at a time.

    Models share the device's seconds evenly as long as they have tickets, and so do the parties of
    a model what the model has; a batch may have tickets of several. Among the queues of a model,
    and within what a batch takes among models, the oldest ticket goes first.
    """

    def __init__(self, budget: Budget, *, max_delay_s: float = 0.0) -> None:
        self._budget = budget
        self._max_delay_s = max_delay_s
        # In the order of arrival; a queue without tickets does not exist.
        self._queues: dict[BatchKey, list[Ticket[S, R]]] = {}
        self._growth = GrowthLimit(budget.max_images)
        self._memory = MemoryLimit(budget.max_images)
        self._shares = FairShares()
        # Of each model's seconds, among its parties.
        self._parties: dict[str, FairShares] = {}
        # What the running batch was thought to take.
        self._expected_s = 0.0
        self._costs: dict[str, CostModel] = {}
        self.running: Batch[S, R] | None = None

    @property
    def num_waiting(self) -> int:
        """Tickets that no batch has taken."""
        return sum(map(len, self._queues.values()))

    def waiting_by_model(self) -> Counter[str]:
        """Tickets that no batch has taken, by their model."""
        waiting = Counter[str]()
        for key, queue in self._queues.items():
            waiting[key.model_id] += len(queue)
        return waiting

    def submit(self, ticket: Ticket[S, R], now_s: float) -> None:
        """Queues a ticket behind those of its key.

        Raises:
            Overloaded: it would not be done by its deadline.
        """
        model_id = ticket.key.model_id
        wait_s = self.turn_s(model_id, ticket.party, now_s)
        is_known = self._cost_of(model_id).is_known(now_s)
        done_s = self.turn_s(model_id, ticket.party, now_s, ticket) if is_known else wait_s
        check_deadline(ticket.deadline_s - now_s, wait_s=wait_s, own_s=done_s - wait_s)
        if not self._queues and self.running is None:
            self._shares.level()
            self._parties.clear()
        if not self._waits(model_id):
            self._shares.join(model_id)
        parties = self._parties.setdefault(model_id, FairShares())
        if not self._waits(model_id, ticket.party):
            parties.join(ticket.party)
        self._queues.setdefault(ticket.key, []).append(ticket)

    def withdraw(self, ticket: Ticket[S, R]) -> None:
        """Forgets a ticket, if it still waits; its result is its owner's to cancel."""
        queue = self._queues.get(ticket.key, [])
        if ticket in queue:
            self._keep(ticket.key, [other for other in queue if other is not ticket])

    def refuse_waiting(self, error: Exception) -> None:
        """Ends all tickets that wait."""
        for queue in self._queues.values():
            for ticket in queue:
                refuse(ticket, error)
        self._queues.clear()

    def next_batch(self, now_s: float, *, is_patient: bool = True) -> Batch[S, R] | None:
        """The batch to run now, if any; tickets that it would be in vain for are ended.

        Only where `is_patient` does a batch wait for the operator's delay.
        """
        while True:
            self._drop_hopeless(now_s)
            plans = [self._plan(key, now_s) for key in self._queues]
            due = [plan for plan in plans if plan.due_s <= now_s or not is_patient]
            if not due:
                return None
            chosen = self._choose(due)
            batch = self._take(chosen, now_s)
            # All of them may have been cancelled in this moment.
            if batch.tickets:
                self.running, self._expected_s = batch, chosen.seconds
                self._shares.begin(batch.key.model_id, chosen.seconds)
                parties = self._parties[batch.key.model_id]
                for party, seconds in _by_party(batch, chosen.seconds):
                    parties.begin(party, seconds)
                return batch

    def next_due_s(self, now_s: float) -> float | None:
        """When to ask again, where tickets wait for nothing but the operator's delay."""
        return min((self._plan(key, now_s).due_s for key in self._queues), default=None)

    def finished(
        self, now_s: float, num_instances: int | None, too_large: Sequence[int] = ()
    ) -> None:
        """The batch has been run, and found these instances; None: it failed, and teaches nothing.

        `too_large` are the numbers of its images that did not fit the device's memory. Its tickets
        are its runner's to end.
        """
        batch, self.running = self.running, None
        if batch is None:
            return
        seconds = now_s - batch.started_s
        self._shares.correct(batch.key.model_id, seconds - self._expected_s)
        for party, more_s in _by_party(batch, seconds - self._expected_s):
            self._parties[batch.key.model_id].correct(party, more_s)
        for num_images in too_large:
            self._memory.ran_out(batch.key, num_images)
        if num_instances is None:
            return
        num_images = len(batch.tickets)
        if not too_large:
            self._memory.fitted(batch.key, num_images)
        work = Work(num_images, num_images * batch.key.num_pixels, num_instances)
        self._cost_of(batch.key.model_id).measure(work, seconds, now_s)
        self._growth.measure(batch.key, num_images, seconds)

    def wait_s(self, now_s: float) -> float:
        """Seconds until all that is queued now has been run, as far as costs are known."""
        queued_s = sum(self._queue_s(key, queue) for key, queue in self._queues.items())
        return self._remaining_s(now_s) + queued_s

    def turn_s(
        self,
        model_id: str,
        party: str,
        now_s: float,
        joining: Ticket[S, R] | None = None,
    ) -> float:
        """Seconds until all that a party has queued of a model has been run; so, too, what joins.

        Meanwhile every other model, and every other party, has its fair share, and no more.
        """
        queues: dict[BatchKey, Sequence[Ticket[S, R]]] = {**self._queues}
        if joining is not None:
            queues[joining.key] = [*queues.get(joining.key, ()), joining]
        of_models, of_parties = defaultdict[str, float](float), defaultdict[str, float](float)
        batch_s, image_s = defaultdict[str, float](float), defaultdict[str, float](float)
        for key, queue in queues.items():
            seconds = self._queue_s(key, queue)
            of_models[key.model_id] += seconds
            longest_s = seconds / self._num_batches(key, queue)
            batch_s[key.model_id] = max(batch_s[key.model_id], longest_s)
            if key.model_id == model_id:
                each_s = seconds / len(queue)
                for name, count in Counter(one.party for one in queue).items():
                    of_parties[name] += count * each_s
                    image_s[name] = max(image_s[name], each_s)
        parties = self._parties.get(model_id, FairShares())
        of_models[model_id] = parties.turn_s(party, of_parties, image_s)
        return self._remaining_s(now_s) + self._shares.turn_s(model_id, of_models, batch_s)

    def image_s(self, model_id: str, now_s: float) -> float:
        """What an image of the model takes on average; 0 where that is not known, or not lately."""
        cost = self._cost_of(model_id)
        return cost.seconds_per_image if cost.is_known(now_s) else 0.0

    def _choose(self, due: Sequence[_Plan]) -> _Plan:
        """The most urgent of those whose models, and parties within them, are not ahead."""
        by_model: dict[str, list[_Plan]] = {}
        for plan in _not_ahead(due, lambda plan: self._shares.had_s(plan.key.model_id)):
            by_model.setdefault(plan.key.model_id, []).append(plan)
        candidates = [
            plan for plans in by_model.values() for plan in _not_ahead(plans, self._party_had_s)
        ]
        return max(candidates, key=lambda plan: plan.urgency_s)

    def _party_had_s(self, plan: _Plan) -> float:
        """What the party of the plan's first ticket has had of the model."""
        return self._parties[plan.key.model_id].had_s(plan.tickets[0].party)

    def _waits(self, model_id: str, party: str | None = None) -> bool:
        """Whether the model, or a party of it, has tickets."""
        return any(
            key.model_id == model_id
            and (party is None or any(ticket.party == party for ticket in queue))
            for key, queue in self._queues.items()
        )

    def _in_turn(self, key: BatchKey) -> Sequence[Ticket[S, R]]:
        """A queue's tickets, each party's oldest first, in the order that their shares make."""
        queue = self._queues[key]
        if len({ticket.party for ticket in queue}) == 1:
            return queue
        parties = self._parties[key.model_id]
        each_s = max(self._queue_s(key, queue) / len(queue), MIN_IMAGE_S)
        begins_s = {ticket.party: parties.had_s(ticket.party) for ticket in queue}
        turns_s = []
        for ticket in queue:
            turns_s.append(begins_s[ticket.party])
            begins_s[ticket.party] += each_s
        order = sorted(range(len(queue)), key=turns_s.__getitem__)
        return [queue[index] for index in order]

    def _remaining_s(self, now_s: float) -> float:
        """What is left of the batch that runs."""
        if self.running is None:
            return 0.0
        elapsed_s = now_s - self.running.started_s
        return max(self._seconds(self.running.key, self.running.tickets) - elapsed_s, 0.0)

    def _queue_s(self, key: BatchKey, queue: Sequence[Ticket[S, R]]) -> float:
        return self._seconds(key, queue, self._num_batches(key, queue))

    def _num_batches(self, key: BatchKey, queue: Sequence[Ticket[S, R]]) -> int:
        return math.ceil(len(queue) / min(self._growth.limit(key), self._memory.limit(key)))

    def _drop_hopeless(self, now_s: float) -> None:
        """Ends tickets that cannot be run by their deadline, and forgets cancelled ones."""
        for key, queue in list(self._queues.items()):
            kept = []
            is_known = self._cost_of(key.model_id).is_known(now_s)
            for ticket in queue:
                own_s = self._seconds(key, (ticket,)) if is_known else 0.0
                if now_s + own_s < ticket.deadline_s:
                    if not ticket.result.cancelled():
                        kept.append(ticket)
                else:
                    refuse(ticket, waited_in_vain(self.turn_s(key.model_id, ticket.party, now_s)))
            self._keep(key, kept)

    def _plan(self, key: BatchKey, now_s: float) -> _Plan:
        """As many as the budget, the growth limit and the deadlines allow, in their turn."""
        queue = self._in_turn(key)
        size = min(self._growth.next_size(key), self._memory.limit(key))
        num_images, obstacle = 1, None
        while num_images < min(size, len(queue)) and obstacle is None:
            obstacle = self._obstacle(key, queue[: num_images + 1], now_s)
            num_images += obstacle is None
        tickets = queue[:num_images]
        seconds = self._seconds(key, tickets)
        due_s = now_s
        if obstacle is None and num_images < size:
            first_deadline_s = min(ticket.deadline_s for ticket in tickets)
            oldest_s = min(ticket.queued_s for ticket in tickets)
            due_s = min(oldest_s + self._max_delay_s, first_deadline_s - seconds)
        trigger = obstacle or (Trigger.IDLE if num_images == len(queue) else Trigger.FULL)
        # The oldest goes first. A batch may overtake it by as long as going together saves.
        saved_s = self._seconds(key, tickets, num_images) - seconds
        urgency_s = now_s - queue[0].queued_s + saved_s
        return _Plan(key, tickets, trigger, due_s, urgency_s, seconds)

    def _obstacle(
        self, key: BatchKey, tickets: Sequence[Ticket[S, R]], now_s: float
    ) -> Trigger | None:
        """Why these are too many for one batch, if they are."""
        if len(tickets) * key.num_pixels > self._budget.max_pixels:
            return Trigger.PIXELS
        if sum(ticket.max_instances for ticket in tickets) > self._budget.max_instances:
            return Trigger.INSTANCES
        first_deadline_s = min(ticket.deadline_s for ticket in tickets)
        if now_s + self._seconds(key, tickets) > first_deadline_s:
            return Trigger.DEADLINE
        return None

    def _take(self, plan: _Plan, now_s: float) -> Batch[S, R]:
        """The planned batch, less what was cancelled by now; from here on nothing can be."""
        planned = set(plan.tickets)
        self._keep(plan.key, [one for one in self._queues[plan.key] if one not in planned])
        taken = [one for one in plan.tickets if one.result.set_running_or_notify_cancel()]
        for ticket in taken:
            ticket.started_s = now_s
        return Batch(plan.key, taken, plan.trigger, now_s)

    def _keep(self, key: BatchKey, tickets: list[Ticket[S, R]]) -> None:
        if tickets:
            self._queues[key] = tickets
        else:
            del self._queues[key]

    def _seconds(
        self, key: BatchKey, tickets: Sequence[Ticket[S, R]], num_batches: int = 1
    ) -> float:
        cost = self._cost_of(key.model_id)
        num_instances = sum(
            ticket.max_instances
            if ticket.are_instances_given
            else min(ticket.max_instances, cost.instances_per_image)
            for ticket in tickets
        )
        num_images = len(tickets)
        return cost.seconds(
            Work(num_images, num_images * key.num_pixels, num_instances, num_batches)
        )

    def _cost_of(self, model_id: str) -> CostModel:
        return self._costs.setdefault(model_id, CostModel())


def _not_ahead(plans: Sequence[_Plan], had_s: Callable[[_Plan], float]) -> Sequence[_Plan]:
    """Those that had no more than the one with the least, or not by a batch."""
    least_s = min(map(had_s, plans))
    ahead_s = max(plan.seconds for plan in plans)
    return [plan for plan in plans if had_s(plan) <= least_s or had_s(plan) < least_s + ahead_s]


def _by_party(batch: Batch[Any, Any], seconds: float) -> Iterator[tuple[str, float]]:
    """What of a batch's time each party's tickets took."""
    for party, count in Counter(ticket.party for ticket in batch.tickets).items():
        yield party, seconds * count / len(batch.tickets)
