"""What was let in under a limit during its last minute or day, as a sum that never exceeds it. Pure.

A window can be cut: with a part of a limit goes the same part of what was let in under it of late, so that the windows
of several processes together are the window of the whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

GRAINS = 1200
TICK_S = 0.002
"""Timers tick in milliseconds: less than two of them at once makes the head of the queue spin."""


class Sent(NamedTuple):
    """An amount that was let in `at` a time of the loop's clock."""

    at: float
    amount: float


def cut(amounts: Iterable[float], part: float) -> list[float]:
    """Return a part of each amount such that their sum is whole: of whole units nobody can use a fraction."""
    taken: list[float] = []
    due = given = 0.0
    for amount in amounts:
        due += amount * part
        taken.append(math.floor(due + 1e-9) - given)
        given += taken[-1]
    return taken


class Window:
    """What was let in during the last `window_s` seconds, in grains of a 1,200th of it, and the most that may be."""

    def __init__(self, *, limit: float, window_s: float) -> None:
        """Start empty."""
        self._limit = limit
        self._rounding = 1e-9 * limit
        self._window_s = window_s
        self._grain_s = window_s / GRAINS
        self._grains: dict[float, float] = {}
        """By whole number, rising, so the first is the oldest; it leaves the window at `_leaves_at`."""
        self._newest = 0.0
        self._leaves_at = math.inf
        self._sum = 0.0

    def wait_s(self, amount: float, now: float) -> float:
        """Return how long until `amount` more fits, 0 when it does; more than the limit waits for an empty window."""
        if now >= self._leaves_at:
            self._forget(now)
        over = self._sum + min(amount, self._limit) - self._limit
        if over <= self._rounding:
            return 0.0
        for grain, held in self._grains.items():
            over -= held
            if over <= self._rounding:
                return max(self._end_of(grain) - now, TICK_S)
        return TICK_S  # only what was corrected downwards is left

    def free(self, now: float) -> tuple[float, float]:
        """Return how much fits for certain, and until when it would be let in within the same grain as now."""
        return self._limit - self._sum, (now // self._grain_s + 1) * self._grain_s

    def used(self, now: float) -> float:
        """Return the share of the limit that is held."""
        self._forget(now)
        return self._sum / self._limit

    def add(self, amount: float, at: float) -> None:
        """Take note of what was let in at `at`, or of its correction; what has left the window counts no more."""
        grain, grains = at // self._grain_s, self._grains
        if grain in grains:
            grains[grain] += amount
        elif grain > self._newest or not grains:
            grains[grain] = amount
            self._newest = grain
            if self._leaves_at == math.inf:
                self._leaves_at = self._end_of(grain)
        else:
            return
        self._sum += amount

    def resize(self, limit: float, now: float) -> list[Sent]:
        """Hold to another limit from now on; return what was let in under the part of the old one that is given up.

        Whoever takes that part over takes this on, so that all windows together stay what they were.
        """
        self._forget(now)
        given: list[Sent] = []
        if limit < self._limit:
            kept = cut(list(self._grains.values()), limit / self._limit)
            given = [Sent(at, held - mine) for (at, held), mine in zip(self.past(), kept, strict=True)]
            self._grains = dict(zip(self._grains, kept, strict=True))
            self._sum = sum(kept)
        self._limit = limit
        self._rounding = 1e-9 * limit
        return given

    def past(self) -> list[Sent]:
        """Return what was let in."""
        return [Sent((grain + 0.5) * self._grain_s, held) for grain, held in self._grains.items()]

    def take_on(self, sent: Iterable[Sent]) -> None:
        """Count what was let in elsewhere as if it had been here."""
        grains = dict(self._grains)
        for at, amount in sent:
            grain = at // self._grain_s
            grains[grain] = grains.get(grain, 0.0) + amount
            self._sum += amount
        self._grains = dict(sorted(grains.items()))
        if grains:
            self._newest = max(grains)
            self._leaves_at = self._end_of(min(grains))

    def _forget(self, now: float) -> None:
        while now >= self._leaves_at:
            self._sum -= self._grains.pop(next(iter(self._grains)))
            self._leaves_at = self._end_of(next(iter(self._grains))) if self._grains else math.inf
        if not self._grains:
            self._sum = 0.0

    def _end_of(self, grain: float) -> float:
        """Return when a grain leaves the window."""
        return (grain + 1) * self._grain_s + self._window_s
