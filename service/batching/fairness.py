"""Whose turn it is, by the device time that each model has had."""


class FairShares:
    """Device seconds of each model, those of idle ones brought level when they come back.

    Start-time fair queueing (Goyal, Vin, Cheng 1996): between models that all have work waiting,
    the seconds differ by no more than a batch of each; who was idle has no claim for that time.
    """

    def __init__(self) -> None:
        self._had_s: dict[str, float] = {}
        # What the model in service had had when its batch began.
        self._level_s = 0.0

    def of(self, model_id: str) -> float:
        """What the model has had, or counts as having had; the one with the least is next."""
        return max(self._had_s.get(model_id, 0.0), self._level_s)

    def join(self, model_id: str) -> None:
        """The model has work again, and its turn like everybody else from now on."""
        self._had_s[model_id] = self.of(model_id)

    def begin(self, model_id: str, seconds: float) -> None:
        """A batch of the model begins, that will probably take so long."""
        self._level_s = max(self._level_s, self._had_s[model_id])
        self._had_s[model_id] += seconds

    def correct(self, model_id: str, seconds: float) -> None:
        """Its batch took so much longer, or shorter where that is negative."""
        if model_id in self._had_s:
            self._had_s[model_id] += seconds

    def had_s(self, model_id: str) -> float:
        """What a model with work waiting has had."""
        return self._had_s[model_id]

    def level(self) -> None:
        """Nobody has work any more: nobody owes anything."""
        self._had_s.clear()
        self._level_s = 0.0
