"""Who may come in: decided before anything is decoded, so that a refusal costs next to nothing."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from service.batching.device_thread import DeviceThread
from service.batching.scheduler import check_deadline
from service.errors import Draining, ModelLoading, Overloaded, Unhealthy


class Admission:
    """Counts the requests that were accepted and are not on the device. Owned by the event loop.

    They wait for a decoder, for the device or for an encoder; all of these together are the queue
    that `max_queue` bounds. While several models have requests in it, one that has less than its
    even share of a full queue is let in all the same, so that no model keeps the others out; there
    are never more than twice as many. Those that wait for a model to be loaded have a bound of
    their own, so that they keep nobody from the models that are there.
    """

    def __init__(self, device: DeviceThread[Any, Any], *, max_queue: int) -> None:
        self._device = device
        self._max_queue = max_queue
        self._num_inside = 0
        # By model.
        self._loading = Counter[str]()
        self.is_closed = False

    @property
    def num_accepted(self) -> int:
        """Requests that have been accepted and not yet ended."""
        return self._num_inside + self._loading.total()

    @property
    def fill(self) -> float:
        """How full the queue is; at 1, requests are refused."""
        return min(max(self._num_waiting(), 0) / self._max_queue, 1.0)

    def check(self, model_id: str | None) -> None:
        """Turns away whoever could not be accepted now; None where the model is not known yet.

        Raises:
            Draining: the service is shutting down.
            Unhealthy: the device cannot compute.
            Overloaded: the queue is full.
        """
        self._check_state()
        self._check_room(model_id, self._num_waiting() + 1)

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Accepts a request, of whatever model, for the length of the block.

        Raises:
            Draining, Unhealthy, Overloaded: it is not accepted; see `check`.
        """
        self._check_state()
        self._check_room(None, self._num_waiting() + 1)
        self._num_inside += 1
        try:
            yield
        finally:
            self._num_inside -= 1

    @contextmanager
    def step_aside(self, model_id: str) -> Iterator[None]:
        """Lets an accepted request wait for its model, outside of the queue.

        Raises:
            ModelLoading: too many do so already.
        """
        if not self._has_room(model_id, self._loading.total() + 1, self._loading):
            raise ModelLoading("Too many requests wait for models to be loaded: try again later.")
        self._num_inside -= 1
        self._loading[model_id] += 1
        try:
            yield
        finally:
            self._loading -= Counter((model_id,))
            self._num_inside += 1

    def check_turn(self, model_id: str, spare_s: float) -> None:
        """Turns away an accepted request about an image that is not decoded yet.

        Raises:
            Overloaded: its model has its share of a full queue already, or the estimate is past
                its deadline.
        """
        self._check_room(model_id, self._num_waiting())
        wait_s = self._device.turn_s(model_id)
        check_deadline(spare_s, wait_s=wait_s, done_s=wait_s + self._device.image_s(model_id))

    def _num_waiting(self) -> int:
        return self._num_inside - self._device.num_running

    def _check_state(self) -> None:
        if self._device.failure is not None:
            raise Unhealthy("The device has failed: try another replica.")
        if self.is_closed:
            raise Draining("The service is shutting down: ask another replica.")
        if not self._device.is_alive:
            raise Unhealthy("The service cannot compute any more: try another replica.")

    def _check_room(self, model_id: str | None, num_waiting: int) -> None:
        if num_waiting > self._max_queue and not self._has_room(
            model_id, num_waiting, self._device.waiting_by_model()
        ):
            raise Overloaded(
                "The queue is full: try again later.",
                reason="queue_full",
                retry_after_s=self._device.wait_s(),
            )

    def _has_room(self, model_id: str | None, num_waiting: int, by_model: Counter[str]) -> bool:
        """Whether there is a place, or the model has less than its share.

        Whoever is not known to wait for another model counts as waiting for this one.
        """
        if num_waiting <= self._max_queue:
            return True
        if model_id is None:
            return num_waiting <= 2 * self._max_queue and len(by_model) > 0
        others = [count for name, count in by_model.items() if name != model_id]
        num_own = num_waiting - sum(others)
        return bool(others) and num_own <= self._max_queue / (1 + len(others))
