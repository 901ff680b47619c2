"""What the limits of pace let a job send, and by when, as far as they alone decide. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from batchrun.client.rate import DAY_S
from batchrun.job.lanes import lanes_of
from batchrun.job.settings import Job


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """Requests that may be sent: `per_s` a second, and `per_day` in any 24 hours; None where they are not limited."""

    per_s: float | None
    per_day: int | None

    @property
    def keys(self) -> Sequence[str]:
        """The keys of [limits] that set it."""
        limits = {"requests_per_minute": self.per_s, "requests_per_day": self.per_day}
        return [key for key, limit in limits.items() if limit is not None]

    def days(self, rows: int) -> int | None:
        """Return how many days a request for each of `rows` takes at least; None where a day has no limit."""
        return None if self.per_day is None else -(-rows // self.per_day)

    def shortest_s(self, rows: int) -> float | None:
        """Return the seconds that a request for each of `rows` takes at least; None where nothing limits them."""
        if not self.keys:
            return None
        full_days = max(0, (self.days(rows) or 0) - 1)
        last_day = rows - full_days * (self.per_day or 0)
        if self.per_s is None:
            return full_days * DAY_S
        return max(full_days * DAY_S + last_day / self.per_s, rows / self.per_s)

    def rows_by(self, s: float | None, rows: int) -> int | None:
        """Return how many of `rows` can be sent within `s` seconds; None where that or the pace has no limit."""
        shortest_s = self.shortest_s(rows)
        if s is None or shortest_s is None:
            return None
        if shortest_s <= s:
            return rows
        by_rate = rows if self.per_s is None else int(self.per_s * s)
        if self.per_day is None:
            return by_rate
        full_days, rest_s = divmod(s, DAY_S)
        last_day = self.per_day if self.per_s is None else min(self.per_day, int(self.per_s * rest_s))
        return min(by_rate, int(full_days) * self.per_day + last_day)


def pace_of(job: Job) -> Pace:
    """Return the pace that a job's limits allow, over all of its endpoints."""
    limits = job.limits
    lanes = lanes_of(job) if limits.strategy == "spread" else lanes_of(job)[:1]
    rates = [lane.requests_per_minute for lane in lanes if lane.requests_per_minute is not None]
    return Pace(
        per_s=sum(rates) / 60 if len(rates) == len(lanes) else None,
        per_day=None if limits.requests_per_day is None else max(1, int(limits.requests_per_day)),
    )
