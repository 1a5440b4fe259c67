"""Whose turn it is, by the time that each has had: models on a device, keys within a model."""

from collections.abc import Mapping


class FairShares:
    """Seconds of each sharer, those of idle ones brought level when they come back.

    Start-time fair queueing (Goyal, Vin, Cheng 1996): between sharers that all have work waiting,
    the seconds differ by no more than a batch of each; who was idle has no claim for that time.
    """

    def __init__(self) -> None:
        self._had_s: dict[str, float] = {}
        # What the one in service had had when its batch began.
        self._level_s = 0.0

    def of(self, sharer: str) -> float:
        """What it has had, or counts as having had; the one with the least is next."""
        return max(self._had_s.get(sharer, 0.0), self._level_s)

    def join(self, sharer: str) -> None:
        """It has work again, and its turn like everybody else from now on."""
        self._had_s[sharer] = self.of(sharer)

    def begin(self, sharer: str, seconds: float) -> None:
        """A batch of it begins, that will probably take so long."""
        self._level_s = max(self._level_s, self._had_s[sharer])
        self._had_s[sharer] += seconds

    def correct(self, sharer: str, seconds: float) -> None:
        """Its batch took so much longer, or shorter where that is negative."""
        if sharer in self._had_s:
            self._had_s[sharer] += seconds

    def had_s(self, sharer: str) -> float:
        """What one with work waiting has had."""
        return self._had_s[sharer]

    def turn_s(
        self, sharer: str, queued_s: Mapping[str, float], at_once_s: Mapping[str, float]
    ) -> float:
        """Seconds until all that one has queued has been run, while others have their fair share.

        `queued_s` is what each has waiting, `at_once_s` what of it goes without a pause.
        """
        own_s = queued_s.get(sharer, 0.0)
        end_s = self.of(sharer) + own_s
        return own_s + sum(
            # The last of it may begin just before the share is used up.
            min(seconds, max(end_s - self._had_s.get(other, end_s), 0.0) + at_once_s[other])
            for other, seconds in queued_s.items()
            if other != sharer
        )

    def level(self) -> None:
        """Nobody has work any more: nobody owes anything."""
        self._had_s.clear()
        self._level_s = 0.0
