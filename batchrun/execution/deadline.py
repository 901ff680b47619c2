"""The deadline of a run: when its new work stops so that what is in flight ends in time, and an early warning."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta

from batchrun.errors import ExitStatus
from batchrun.events import Progress, Watcher
from batchrun.execution.ending import Ending
from batchrun.execution.forecast import Forecaster
from batchrun.ledger.records import Entry
from batchrun.model.outcome import Completion

RECENT_REPLIES = 500
NEARLY_ALL = 0.95

Stop = Callable[[Ending, float], None]
"""Is told why a run ends, and how many seconds are left before the grace time begins."""


class Deadline:
    """The moment by which one run is to end, if there is one; started and followed on the run's event loop.

    It goes by the wall clock, which is read again each second: clocks are set, and machines sleep.
    """

    def __init__(
        self,
        at: datetime | None,
        *,
        named: str,
        most_attempt_s: float,
        watcher: Watcher,
        wall: Callable[[], datetime] = lambda: datetime.now(tz=UTC),
    ) -> None:
        """End at `at`, an aware time; `named` is how the job file says it, `wall` the time of now, aware.

        No attempt takes longer than `most_attempt_s`.
        """
        self._at = at
        self._named = named
        self._most_attempt_s = most_attempt_s
        self._watcher = watcher
        self._wall = wall
        self._latencies_s: deque[float] = deque(maxlen=RECENT_REPLIES)
        self._forecaster = Forecaster()
        self._stop: Stop | None = None
        self._alarm: asyncio.TimerHandle | None = None

    @property
    def left_s(self) -> float | None:
        """Seconds until the deadline, 0 once it is past; None where there is none."""
        return None if self._at is None else max(0.0, (self._at - self._wall()).total_seconds())

    @property
    def attempt_s(self) -> float:
        """How long an attempt takes, but for one in twenty: by the replies of late, 0 before the first of them."""
        if not self._latencies_s:
            return 0.0
        nearly_all = math.ceil(NEARLY_ALL * len(self._latencies_s))
        return min(self._most_attempt_s, sorted(self._latencies_s)[nearly_all - 1])

    def start(self, stop: Stop) -> None:
        """Call `stop` once, when new work has to stop: at once where that is past, else from the loop."""
        if self._at is not None:
            self._stop = stop
            self._set_alarm()

    def end(self) -> None:
        """Let the deadline pass unheard: all is done."""
        self._stop = None
        self._cancel_alarm()

    def add(self, entries: Iterable[Entry]) -> None:
        """Learn from entries how long an attempt takes."""
        if self._at is not None:
            self._latencies_s.extend(
                entry.outcome.account.latency_ms / 1000
                for entry in entries
                if isinstance(entry.outcome, Completion) and entry.outcome.account.latency_ms is not None
            )

    def follow(self, progress: Progress) -> None:
        """Set the alarm by the clock and the replies of now, and warn when the pace will not make the deadline."""
        self._set_alarm()
        if self._at is None or (forecast := self._forecaster.follow(progress)) is None:
            return
        done_in_s = forecast.done_in_s
        self._watcher.noted(
            "the pace will not make the deadline" if forecast.rows_missing else "the pace makes the deadline again",
            rows_missing=forecast.rows_missing,
            done_at=None if done_in_s is None else local_text(self._wall() + timedelta(seconds=done_in_s)),
            deadline=local_text(self._at),
        )

    def _set_alarm(self) -> None:
        self._cancel_alarm()
        left_s = self.left_s
        if self._stop is None or left_s is None:
            return
        if (work_s := left_s - self.attempt_s) > 0:
            self._alarm = asyncio.get_running_loop().call_later(work_s, self._set_alarm)
            return
        stop, self._stop = self._stop, None
        stop(Ending(status=ExitStatus.DEADLINE, reason=self._reason()), left_s)

    def _cancel_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _reason(self) -> str:
        at = "" if self._at is None else f" ({local_text(self._at)})"
        return f'the deadline "{self._named}"{at} ended the run; the same command goes on with the rows that are left'


def local_text(moment: datetime) -> str:
    """Return a moment as people of this machine's time zone read it, to the second, with the offset from UTC."""
    return moment.astimezone().isoformat(" ", timespec="seconds")
