"""When the next attempt of a lane may go, by what the server said: pauses, the return from them, gaps. Pure."""

from __future__ import annotations

RETURN_S = 0.6
"""After a pause the slots are filled over this time, so that the return is not a herd."""
SETTLE_S, SETTLE_SHARE_S = 2.0, 0.42
"""For this long after that, no more than the slots go in 0.42 s: the first replies would let a second herd in."""
SPACED_S = 5.0
"""How long a reply that calls a limit nearly used slows the lane down."""


class Pacing:
    """The times before which nothing is sent; all on one monotonic clock, in seconds."""

    def __init__(self) -> None:
        """Start without any."""
        self.paused_until = 0.0
        self.slow_until = 0.0
        """Until then attempts are to be told of by `sent`."""
        self._returning_until = self._settling_until = 0.0
        self._spaced_until = 0.0
        self._gap_s = 0.0
        self._next = 0.0

    def pause(self, wait_s: float, now: float) -> None:
        """Send nothing for `wait_s` seconds; of several pauses the latest end counts."""
        if wait_s > 0 and now + wait_s > self.paused_until:
            self.paused_until = self._next = now + wait_s
            self._returning_until = self.paused_until + RETURN_S
            self._settling_until = self._returning_until + SETTLE_S
            self.slow_until = max(self.slow_until, self._settling_until)

    def space(self, gap_s: float, now: float) -> None:
        """Leave at least `gap_s` seconds between attempts for a while."""
        self._gap_s = gap_s
        self._spaced_until = now + SPACED_S
        self.slow_until = max(self.slow_until, self._spaced_until)

    def wait_s(self, now: float) -> float:
        """Return the seconds until the next attempt may go, 0 when it may."""
        if now >= self.slow_until:
            return 0.0
        return max(0.0, min(self._next, self.slow_until) - now)

    def sent(self, now: float, slots: int) -> None:
        """Take note that an attempt goes now, while there are so many slots."""
        gap_s = SETTLE_SHARE_S / slots if now < self._settling_until else 0.0
        if now < self._returning_until:
            gap_s = RETURN_S / slots
        if now < self._spaced_until:
            gap_s = max(gap_s, self._gap_s)
        self._next = max(now, self._next) + gap_s
