"""Who may come in: decided before anything is decoded, so that a refusal costs next to nothing."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from service.batching.device_thread import DeviceThread
from service.batching.scheduler import check_deadline
from service.errors import Draining, ModelLoading, Overloaded, Unhealthy

# A queue whose deadlines are near is worked off in smaller batches than the estimate assumes: of
# the wait, so large a share must be to spare. With less, many are let in that then expire.
SPARE_SHARE = 0.5


class Stage(Protocol):
    """Threads that a request passes on its way to the device, or from it."""

    def turn_s(self, party: str, /) -> float:
        """Seconds until the threads would begin with what a party brings now."""

    @property
    def job_s(self) -> float:
        """What a job takes them on average; 0 while that is not known."""


class Admission:
    """Counts the requests that were accepted and are not on the device. Owned by the event loop.

    They wait for a decoder, for the device or for an encoder; all of these together are the queue
    that `max_queue` bounds. Of a full queue, a party or a model that has less than its even share
    is let in all the same, so that none keeps the others out: parties up to the length of the queue
    once more, and models likewise. Those that wait for a model to be loaded have a bound of
    their own, so that they keep nobody from the models that are there.
    """

    def __init__(
        self, device: DeviceThread[Any, Any], *, max_queue: int, stages: Sequence[Stage] = ()
    ) -> None:
        self._device = device
        self._max_queue = max_queue
        self._stages = stages
        # By party.
        self._inside = Counter[str]()
        # By model.
        self._loading = Counter[str]()
        self.is_closed = False

    @property
    def num_accepted(self) -> int:
        """Requests that have been accepted and not yet ended."""
        return self._inside.total() + self._loading.total()

    @property
    def fill(self) -> float:
        """How full the queue is; at 1, requests are refused."""
        return min(max(self._num_waiting(), 0) / self._max_queue, 1.0)

    def check(self, model_id: str | None, party: str) -> None:
        """Turns away whoever could not be accepted now; None where the model is not known yet.

        Raises:
            Draining: the service is shutting down.
            Unhealthy: the device cannot compute.
            Overloaded: the queue is full.
        """
        self._check_state()
        self._check_room(model_id, party, 1)

    @contextmanager
    def admit(self, party: str) -> Iterator[None]:
        """Accepts a party's request, of whatever model, for the length of the block.

        Raises:
            Draining, Unhealthy, Overloaded: it is not accepted; see `check`.
        """
        self._check_state()
        self._check_room(None, party, 1)
        self._enter(party)
        try:
            yield
        finally:
            self._leave(party)

    @contextmanager
    def step_aside(self, model_id: str, party: str) -> Iterator[None]:
        """Lets an accepted request wait for its model, outside of the queue.

        Raises:
            ModelLoading: too many do so already.
        """
        num_loading = self._loading.total() + 1
        if num_loading > self._max_queue and not self._has_model_room(
            model_id, num_loading, self._loading
        ):
            raise ModelLoading("Too many requests wait for models to be loaded: try again later.")
        self._leave(party)
        self._loading[model_id] += 1
        try:
            yield
        finally:
            self._loading -= Counter((model_id,))
            self._enter(party)

    def check_turn(self, model_id: str, party: str, spare_s: float) -> None:
        """Turns away an accepted request about an image that is not decoded yet.

        Raises:
            Overloaded: its model has its share of a full queue already, or the estimate is past
                its deadline.
        """
        self._check_room(model_id, party, 0)
        wait_s = self._device.turn_s(model_id, party)
        own_s = self._device.image_s(model_id)
        for stage in self._stages:
            wait_s += stage.turn_s(party)
            own_s += stage.job_s
        check_deadline(spare_s - SPARE_SHARE * wait_s, wait_s=wait_s, own_s=own_s)

    def _enter(self, party: str) -> None:
        self._inside[party] += 1

    def _leave(self, party: str) -> None:
        # Whoever has none is not counted among those who share.
        self._inside -= Counter((party,))

    def _num_waiting(self) -> int:
        return self._inside.total() - self._device.num_running

    def _check_state(self) -> None:
        if self._device.failure is not None:
            raise Unhealthy("The device has failed: try another replica.")
        if self.is_closed:
            raise Draining("The service is shutting down: ask another replica.")
        if not self._device.is_alive:
            raise Unhealthy("The service cannot compute any more: try another replica.")

    def _check_room(self, model_id: str | None, party: str, num_more: int) -> None:
        num_waiting = self._num_waiting() + num_more
        if (
            num_waiting <= self._max_queue
            or self._has_party_room(party, num_more)
            or self._has_model_room(model_id, num_waiting, self._device.waiting_by_model())
        ):
            return
        raise Overloaded(
            "The queue is full: try again later.",
            reason="queue_full",
            retry_after_s=self._device.wait_s(),
        )

    def _has_party_room(self, party: str, num_more: int) -> bool:
        """Whether a party has less than its share of a full queue, while others have more."""
        num_parties = len(self._inside.keys() | {party})
        return num_parties > 1 and self._inside[party] + num_more <= self._max_queue / num_parties

    def _has_model_room(
        self, model_id: str | None, num_waiting: int, by_model: Counter[str]
    ) -> bool:
        """Whether a model has less than its share of a full queue, while others have more.

        Whoever is not known to wait for another model counts as waiting for this one.
        """
        if model_id is None:
            return num_waiting <= 2 * self._max_queue and len(by_model) > 0
        others = [count for name, count in by_model.items() if name != model_id]
        num_own = num_waiting - sum(others)
        return bool(others) and num_own <= self._max_queue / (1 + len(others))
