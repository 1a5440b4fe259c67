"""Who may come in: decided before anything is decoded, so that a refusal costs next to nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from service.batching.device_thread import DeviceThread
from service.batching.scheduler import check_deadline
from service.errors import Draining, ModelLoading, Overloaded, Unhealthy


class Admission:
    """Counts the requests that were accepted and are not on the device. Owned by the event loop.

    They wait for a decoder, for the device or for an encoder; all of these together are the queue
    that `max_queue` bounds. Those that wait for a model to be loaded have a bound of their own, so
    that they keep nobody from the models that are there.
    """

    def __init__(self, device: DeviceThread[Any, Any], *, max_queue: int) -> None:
        self._device = device
        self._max_queue = max_queue
        self._num_inside = 0
        self._num_loading = 0
        self.is_closed = False

    @property
    def num_accepted(self) -> int:
        """Requests that have been accepted and not yet ended."""
        return self._num_inside + self._num_loading

    @property
    def fill(self) -> float:
        """How full the queue is; at 1, requests are refused."""
        return max(self._num_inside - self._device.num_running, 0) / self._max_queue

    def check(self) -> None:
        """Turns away whoever could not be accepted now.

        Raises:
            Draining: the service is shutting down.
            Unhealthy: the device cannot compute.
            Overloaded: the queue is full.
        """
        if self.is_closed:
            raise Draining("The service is shutting down: ask another replica.")
        if not self._device.is_alive:
            raise Unhealthy("The service cannot compute any more: try another replica.")
        self._check_room(self._num_inside + 1)

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Accepts a request for the length of the block.

        Raises:
            Draining, Unhealthy, Overloaded: it is not accepted; see `check`.
        """
        self.check()
        self._num_inside += 1
        try:
            yield
        finally:
            self._num_inside -= 1

    @contextmanager
    def step_aside(self) -> Iterator[None]:
        """Lets an accepted request wait for its model, outside of the queue.

        Raises:
            ModelLoading: too many do so already.
            Overloaded: there is no place in the queue afterwards.
        """
        if self._num_loading >= self._max_queue:
            raise ModelLoading("Too many requests wait for models to be loaded: try again later.")
        self._num_inside -= 1
        self._num_loading += 1
        try:
            yield
        finally:
            self._num_loading -= 1
            self._num_inside += 1
        self._check_room(self._num_inside)

    def check_deadline(self, model_id: str, spare_s: float) -> None:
        """Turns away a request about an image that is not decoded yet, if it cannot be in time.

        Raises:
            Overloaded: the estimate is past its deadline.
        """
        wait_s = self._device.wait_s()
        check_deadline(spare_s, wait_s=wait_s, done_s=wait_s + self._device.image_s(model_id))

    def _check_room(self, num_inside: int) -> None:
        if num_inside - self._device.num_running > self._max_queue:
            raise Overloaded(
                "The queue is full: try again later.",
                reason="queue_full",
                retry_after_s=self._device.wait_s(),
            )
