"""The endpoint's limits into a 429, or into a place in flight."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from batchrun.simulator.asked import Refusal

if TYPE_CHECKING:
    from batchrun.job.settings import SimulatorSettings

_WINDOW_S = 60.0
_BUSY = Refusal(status=429, message="Model busy, retry later", code="engine_overloaded")
_RATE_LIMITED = Refusal(status=429, message="Rate limited", type="rate_limit_error", code="rate_limit_exceeded")


class Admission:
    """Counts what is in flight and what was admitted in the last 60 s; a refused request takes neither."""

    def __init__(self, settings: SimulatorSettings) -> None:
        """Start with nothing in flight."""
        self._most_in_flight = settings.max_in_flight
        self._most_per_minute = settings.requests_per_minute
        self._admitted_at: deque[float] = deque()
        self.in_flight = 0
        self.max_in_flight = 0

    def enter(self, now_s: float) -> Refusal | None:
        """Take a place in flight, or return why there is none; `now_s` is of a clock that never goes back."""
        if self._most_in_flight and self.in_flight >= self._most_in_flight:
            return _BUSY
        if self._most_per_minute:
            while self._admitted_at and self._admitted_at[0] <= now_s - _WINDOW_S:
                self._admitted_at.popleft()
            if len(self._admitted_at) >= self._most_per_minute:
                return _RATE_LIMITED
            self._admitted_at.append(now_s)
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        return None

    def leave(self) -> None:
        """Give the place in flight back."""
        self.in_flight -= 1
