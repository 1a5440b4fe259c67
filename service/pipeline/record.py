"""What becomes known about a request on its way, for its headers, its log line and the metrics."""

import re
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

# In the order of a request's way; `read` to `decode` and `encode` are the HTTP side's.
STAGES = ("read", "decode", "queue", "preprocess", "network", "postprocess", "encode")

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


@dataclass(slots=True)
class Record:
    """One request; whoever learns something notes it here. Owned by the event loop."""

    request_id: str
    # Of the caller's trace, where it is part of one. W3C Trace Context.
    trace_id: str | None = None
    # Whose key it came with.
    key_name: str | None = None
    arrived_s: float = field(default_factory=time.monotonic)
    stage_seconds: dict[str, float] = field(default_factory=dict)
    model_id: str | None = None
    # The stable code of the error that was answered.
    code: str | None = None
    # Why a request was turned away that another time or another replica could have answered.
    refusal: str | None = None
    body_bytes: int | None = None
    image_pixels: int | None = None
    num_instances: int | None = None
    status: int | None = None
    response_bytes: int = 0
    media_type: str | None = None
    # Where not, all its times are told as 0, so that one picture has one answer.
    is_timed: bool = True

    @property
    def outcome(self) -> str:
        """How it ended, in one word of a closed set."""
        if self.code is not None:
            return self.code
        return "success" if self.status is not None else "cut_off"

    def elapsed_s(self) -> float:
        """Seconds since the request arrived."""
        return time.monotonic() - self.arrived_s

    def add_stages(self, seconds: Mapping[str, float]) -> None:
        """Adds to the times of some of STAGES."""
        for stage, more in seconds.items():
            self.stage_seconds[stage] = self.stage_seconds.get(stage, 0.0) + more

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Adds the time that its block takes, however it ends."""
        begun_s = time.monotonic()
        try:
            yield
        finally:
            self.add_stages({stage: time.monotonic() - begun_s})

    def timing_ms(self) -> dict[str, float]:
        """Milliseconds of every stage up to now, and of the whole."""
        if not self.is_timed:
            return dict.fromkeys((*STAGES, "total"), 0.0)
        seconds = {stage: self.stage_seconds.get(stage, 0.0) for stage in STAGES}
        seconds["total"] = self.elapsed_s()
        return {stage: round(1000 * value, 3) for stage, value in seconds.items()}


def new_record(client_request_id: str | None) -> Record:
    """A record under the client's id for the request where that is a usable one."""
    if client_request_id is not None and REQUEST_ID.fullmatch(client_request_id):
        return Record(client_request_id)
    return Record(secrets.token_hex(16))
