"""Which models may be on the device: LRU eviction, with leases and least times to stay.

It has no thread, no tensor and no clock: it is told the time, in seconds of the monotonic clock.
"""

import math
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from service.errors import OutOfMemory


@dataclass(slots=True, eq=False)
class _Resident:
    """A model on the device, or one whose place there is taken already."""

    num_bytes: int
    used_s: float
    # Until then it makes room for nobody: to have it come again would cost more.
    stays_until_s: float = math.inf
    num_leases: int = 0
    # Its last leases are waited for, and no new ones are given.
    is_leaving: bool = False


class Residency:
    """The models on the device, within a budget; and the copies in host memory, within another.

    Who was used longest ago goes first, never one with a lease, and never one of `kept`. Where all
    fit, none ever goes. The device's budget is exceeded only by a model that turns out to be larger
    than it was said to be, until others have gone for it.
    """

    def __init__(self, device_bytes: int, host_bytes: int, kept: Iterable[str] = ()) -> None:
        self.device_bytes = device_bytes
        self._host_bytes = host_bytes
        self._kept = frozenset(kept)
        self._residents: dict[str, _Resident] = {}
        # In the order of their last use.
        self._copies = OrderedDict[str, int]()

    @property
    def used_bytes(self) -> int:
        """What all models take on the device, those that are arriving too."""
        return sum(resident.num_bytes for resident in self._residents.values())

    def bytes_on_device(self, model_id: str) -> int | None:
        """What the model takes on the device; None where it is not there."""
        resident = self._residents.get(model_id)
        return None if resident is None else resident.num_bytes

    def bytes_on_host(self, model_id: str) -> int | None:
        """What the model's copy takes in host memory; None where there is none."""
        return self._copies.get(model_id)

    def is_staying(self, model_id: str) -> bool:
        """Whether the model is on the device, and not about to leave."""
        resident = self._residents.get(model_id)
        return resident is not None and not resident.is_leaving

    def lease(self, model_id: str, now_s: float) -> bool:
        """Keeps a model on the device until it is released; False where it cannot be had."""
        if not self.is_staying(model_id):
            return False
        self.extend(model_id, now_s)
        return True

    def extend(self, model_id: str, now_s: float) -> None:
        """One more lease of a model that is on the device, be it leaving or not."""
        resident = self._residents[model_id]
        resident.num_leases += 1
        resident.used_s = now_s

    def release(self, model_id: str, now_s: float) -> None:
        """Gives a lease back."""
        resident = self._residents[model_id]
        resident.num_leases -= 1
        resident.used_s = now_s

    def make_room(self, model_id: str, num_bytes: int, now_s: float) -> float | None:
        """Takes a place for a newcomer: None if it has one now, else when to ask again, in seconds.

        Who has to go for it is leaving from then on; the place is free when all of them have left.

        Raises:
            OutOfMemory: it does not fit, whoever goes.
        """
        kept_bytes = sum(
            resident.num_bytes
            for name, resident in self._residents.items()
            if name in self._kept and not resident.is_leaving
        )
        if kept_bytes + num_bytes > self.device_bytes:
            raise OutOfMemory(
                f"{model_id} takes {num_bytes} bytes, and does not fit into what models may take "
                "here: DENSEPOSE_DEVICE_MEMORY, less what is preloaded."
            )
        missing_bytes = self.used_bytes + num_bytes - self.device_bytes
        if missing_bytes <= 0:
            self._residents[model_id] = _Resident(num_bytes, now_s)
            return None
        missing_bytes -= sum(one.num_bytes for one in self._residents.values() if one.is_leaving)
        candidates = self._by_last_use()
        free = [one for one in candidates if one.stays_until_s <= now_s]
        if missing_bytes > sum(one.num_bytes for one in free):
            # Nobody goes before it is of use.
            return min(
                (one.stays_until_s - now_s for one in candidates if one not in free),
                default=math.inf,
            )
        _dismiss(free, missing_bytes)
        return math.inf

    def arrived(self, model_id: str, num_bytes: int, now_s: float, *, stay_s: float) -> None:
        """The newcomer is on the device, and takes what it does; for `stay_s` it need not go."""
        resident = self._residents[model_id]
        resident.num_bytes = num_bytes
        resident.used_s = now_s
        excess_bytes = self.used_bytes - self.device_bytes
        others = [one for one in self._by_last_use() if one is not resident]
        _dismiss(others, excess_bytes - sum(o.num_bytes for o in others if o.is_leaving))
        resident.stays_until_s = now_s + stay_s

    def dismiss(self, model_id: str) -> None:
        """Has a model leave as soon as nobody uses it; so does its copy."""
        self._copies.pop(model_id, None)
        resident = self._residents.get(model_id)
        if resident is not None and resident.stays_until_s < math.inf:
            resident.is_leaving = True

    def recall(self, model_id: str) -> bool:
        """Lets a model that has not left yet stay after all; False where it is gone."""
        resident = self._residents.get(model_id)
        if resident is None:
            return False
        resident.is_leaving = False
        return True

    def departing(self) -> list[str]:
        """Models that are leaving and that nobody uses any more."""
        return [
            model_id
            for model_id, resident in self._residents.items()
            if resident.is_leaving and resident.num_leases == 0
        ]

    def left(self, model_id: str) -> None:
        """The model is off the device, or did not get there."""
        del self._residents[model_id]

    def has_room_for_copy(self, num_bytes: int = 1) -> bool:
        """Whether a copy of that size could be kept at all."""
        return num_bytes <= self._host_bytes

    def keep_copy(self, model_id: str, num_bytes: int) -> list[str]:
        """A copy is in host memory from now on; whose copies go for it."""
        dropped = []
        self._copies.pop(model_id, None)
        while sum(self._copies.values()) + num_bytes > self._host_bytes:
            dropped.append(self._copies.popitem(last=False)[0])
        self._copies[model_id] = num_bytes
        return dropped

    def use_copy(self, model_id: str) -> None:
        """A copy was of use."""
        self._copies.move_to_end(model_id)

    def _by_last_use(self) -> list[_Resident]:
        """Who might go, the one that was used longest ago first; those in use come last."""
        candidates = [
            resident
            for model_id, resident in self._residents.items()
            if model_id not in self._kept
            and not resident.is_leaving
            and resident.stays_until_s < math.inf
        ]
        return sorted(candidates, key=lambda one: (one.num_leases > 0, one.used_s))


def _dismiss(candidates: Iterable[_Resident], num_bytes: int) -> None:
    """Has the first ones leave, until that makes for so many bytes."""
    for resident in candidates:
        if num_bytes <= 0:
            return
        resident.is_leaving = True
        num_bytes -= resident.num_bytes
