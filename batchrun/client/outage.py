"""When failures are the endpoint's and not the rows': an outage, its probes, its end (DESIGN.md, section 4). Pure."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from batchrun.model.attempt import Then, Trouble

IN_A_ROW = 20
FIRST_PROBE_S = 1.0
LONGEST_PROBE_S = 60.0
OUTAGE_ERRORS: frozenset[str] = frozenset({"connect", "timeout", "disconnected", "server"})


def may_be_outage(trouble: Trouble) -> bool:
    """Say whether trouble may be the endpoint's; any other says that it is there."""
    return trouble.error_class in OUTAGE_ERRORS and trouble.then is Then.RETRY


class Weather(Enum):
    """What one more exchange says about the endpoint."""

    FAIR = "fair"
    BEGINS = "an outage begins"
    GOES_ON = "the outage goes on"
    TOO_LONG = "the outage is longer than the job allows"
    ENDS = "the outage ends"
    CROWDED = "this machine can open no more connections, the run goes on with those it has; `ulimit -n` may be too low"


OUTAGES = frozenset({Weather.BEGINS, Weather.GOES_ON, Weather.TOO_LONG})


class Outage:
    """Counts the exchanges in a row that ended in connect, timeout, disconnect or 5xx, with no other between."""

    def __init__(self, *, max_outage_s: float, clock: Callable[[], float]) -> None:
        """Bear `max_outage_s` seconds, counted on the monotonic `clock` from the first failure in the row."""
        self._max_outage_s = max_outage_s
        self._clock = clock
        self.in_a_row = 0
        """Failures since the endpoint was last seen to be there."""
        self._since = 0.0
        self._probes = 0
        self.is_on = False

    def answered(self) -> Weather:
        """Take note of an exchange that ended in any other way: the endpoint is there."""
        self.in_a_row = self._probes = 0
        was_on, self.is_on = self.is_on, False
        return Weather.ENDS if was_on else Weather.FAIR

    def failed(self) -> Weather:
        """Take note of a failure that may be the endpoint's."""
        self.in_a_row += 1
        if self.in_a_row == 1:
            self._since = self._clock()
        if self.in_a_row < IN_A_ROW:
            return Weather.FAIR
        if self._clock() - self._since >= self._max_outage_s:
            return Weather.TOO_LONG
        began, self.is_on = not self.is_on, True
        return Weather.BEGINS if began else Weather.GOES_ON

    def probe_wait_s(self) -> float:
        """Return the wait before the next probe: doubling up to a minute, and never past the end that is allowed."""
        left_s = self._since + self._max_outage_s - self._clock()
        wait_s = min(LONGEST_PROBE_S, FIRST_PROBE_S * 2.0**self._probes)
        self._probes = min(self._probes + 1, 10)
        return max(0.0, min(wait_s, left_s))
