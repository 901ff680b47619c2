"""How long attempts of a lane have waited, and for what. Pure."""

from __future__ import annotations

from collections.abc import Callable

from batchrun.events import Bound

BOUNDS: tuple[Bound, ...] = ("slots", "requests", "tokens", "daily requests", "daily tokens", "pause")


class Waits:
    """Counts the time of who is first in the queue to what it waits for."""

    def __init__(self, *, clock: Callable[[], float]) -> None:
        """Start with nobody waiting; `clock` is monotonic, in seconds."""
        self._clock = clock
        self._waited_s: dict[Bound, float] = dict.fromkeys(BOUNDS, 0.0)
        self._now: tuple[Bound, float] | None = None

    def turn_to(self, bound: Bound | None) -> None:
        """Count from now on to `bound`, to none where nobody waits."""
        if self._now is None and bound is None:
            return
        now = self._clock()
        if self._now is not None:
            if self._now[0] == bound:
                return
            self._waited_s[self._now[0]] += now - self._now[1]
        self._now = None if bound is None else (bound, now)

    def by(self, now: float) -> dict[Bound, float]:
        """Return all waits, with what has gone by of the one that goes on: a day's limit may take hours."""
        waited_s = dict(self._waited_s)
        if self._now is not None:
            waited_s[self._now[0]] += now - self._now[1]
        return waited_s
