"""Progress and a deadline into a warning, told early, that the pace will not make it."""

from __future__ import annotations

import math
from collections import deque

import msgspec

from batchrun.events import Progress

LEAST_S, LEAST_ROWS = 30.0, 100
"""How long a run has to go on, and how many rows it has to settle, before its pace is known."""
PACE_TICKS = 600
"""The pace is that of the last ten minutes, so that one pause does not look like a run that stands still."""
AGAIN_S = 600.0
MATERIAL = 0.25


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """What the pace makes of a deadline: rows that will be missing then, and when the last would be settled.

    `done_in_s` is None where nothing moves at all.
    """

    rows_missing: int
    done_in_s: float | None


class Forecaster:
    """Follows the progress of one run and says once, and again when it has changed, what the deadline will see."""

    def __init__(self) -> None:
        """Know no pace yet."""
        self._paces: deque[tuple[float, int]] = deque(maxlen=PACE_TICKS)
        self._first: Progress | None = None
        self._told_missing = 0
        self._told_at_s = -math.inf

    def follow(self, progress: Progress) -> Forecast | None:
        """Return what is worth telling now, None when nothing is; called about once a second.

        The first to be told is one with rows missing. Others follow no sooner than ten minutes later, when the number
        has changed by more than a quarter; that may be to 0.
        """
        if self._first is None:
            self._first = progress
        self._paces.append((progress.elapsed_s, progress.settled))
        forecast = self._forecast(progress, progress.settled - self._first.settled)
        if forecast is None or progress.elapsed_s - self._told_at_s < AGAIN_S:
            return None
        if abs(forecast.rows_missing - self._told_missing) <= MATERIAL * self._told_missing:
            return None
        self._told_missing, self._told_at_s = forecast.rows_missing, progress.elapsed_s
        return forecast

    def _forecast(self, progress: Progress, settled: int) -> Forecast | None:
        """Return the forecast of this moment; None where there is no deadline, or no pace is known yet."""
        if progress.deadline_s is None or progress.draining:
            return None
        if progress.elapsed_s < LEAST_S or settled < LEAST_ROWS:
            return None
        since_s, before = self._paces[0]
        rows_per_s = (progress.settled - before) / max(progress.elapsed_s - since_s, 1e-9)
        left = progress.rows - progress.settled
        return Forecast(
            rows_missing=max(0, math.ceil(left - rows_per_s * progress.deadline_s)),
            done_in_s=left / rows_per_s if rows_per_s > 0 else None,
        )
