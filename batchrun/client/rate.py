"""One limit, a minute's or a day's, as a rate that no window exceeds: aiolimiter's bucket, what it lacks around it.

aiolimiter holds the rate. What it can't do is done here: amounts larger than its bucket, credit and debt when a reply
says what an estimate was worth, and the sum over the last minute, which stays under the limit whatever was owed. Only
the head of the gate's queue comes here, so nobody is served out of turn (DESIGN.md, section 4; TRAPS.md L1 to L4).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Coroutine, Iterable
from typing import Protocol

from batchrun.client.window import TICK_S, Sent, Window

BURST_S = 0.05
BURST_SHARE = 0.01
DAY_S = 86_400.0


def burst_and_period_s(per_minute: float) -> tuple[float, float]:
    """Return the bucket's capacity and the time in which it drains whole, in seconds.

    Capacity is 50 ms' worth, at least 1 and at most 1 % of the minute; the rate is lowered by what the capacity lets
    through at once, so that no window of 60 s exceeds the limit (DESIGN.md, section 4); 90.5 a minute are 90 in each.
    """
    most = max(float(math.floor(per_minute)), min(per_minute, 1.0))
    capacity = max(1.0, min(BURST_S * most / 60, BURST_SHARE * most))
    rate_per_s = (most - capacity + 1) / 60
    return capacity, capacity / rate_per_s


class Limit(Protocol):
    """What an attempt takes an amount of: paid for first, then let in, corrected by its reply.

    What is let in is added to its window, which says how long an amount has to wait for room.
    """

    @property
    def window(self) -> Window:
        """What was let in during the last minute or day."""
        ...

    def has_room(self, amount: float, now: float) -> bool:
        """Say whether the window has room for `amount`, and `pay` would not wait."""
        ...

    def take(self, amount: float, now: float) -> None:
        """Pay `amount`, for which there is room, and let it in."""
        ...

    def free(self, now: float) -> tuple[float, float]:
        """Return how much has room and is paid already, and until when taking it is the same as taking it now."""
        ...

    async def pay(self, amount: float) -> None:
        """Wait until `amount` is paid for; cancelled, nothing is owed for it."""
        ...

    def give_back(self, amount: float) -> None:
        """Take note that what was paid for is not sent now."""
        ...

    def correct(self, by: float, sent_at: float) -> None:
        """Take note that what was sent at `sent_at` was worth `by` more, or less where negative."""
        ...

    def resize(self, limit: float, now: float) -> list[Sent]:
        """Hold to another limit from now on, and to the past that goes with it; see `Window`."""
        ...


class Quota:
    """A limit a day: as fast as other limits let until it is used up, then as the day before falls out of it."""

    def __init__(self, a_day: float, earlier: Iterable[Sent] = ()) -> None:
        """Start with what was sent `earlier`, in this order, at the times of this process's clock it counts for."""
        self.window = Window(limit=a_day, window_s=DAY_S)
        for at, amount in earlier:
            self.window.add(amount, at)

    def has_room(self, amount: float, now: float) -> bool:
        """Say whether the last day has room for `amount`."""
        return not self.window.wait_s(amount, now)

    def take(self, amount: float, now: float) -> None:
        """Let `amount` in."""
        self.window.add(amount, now)

    def free(self, now: float) -> tuple[float, float]:
        """Return that nothing is anybody's for a while: all lanes share what a day has left."""
        return 0.0, now

    async def pay(self, amount: float) -> None:
        """Do nothing: a quota is paced by nothing but its window."""

    def give_back(self, amount: float) -> None:
        """Do nothing: nothing was paid."""

    def correct(self, by: float, sent_at: float) -> None:
        """Take note that what was sent at `sent_at` was worth `by` more, or less where negative."""
        self.window.add(by, sent_at)

    def resize(self, limit: float, now: float) -> list[Sent]:
        """Hold to another limit a day from now on; see `Window`."""
        return self.window.resize(limit, now)


class Rate:
    """A limit a minute. `owed` is what was let in beyond what was paid to the bucket, negative for credit."""

    def __init__(self, per_minute: float) -> None:
        """Start with a full bucket and an empty minute; must be made inside the running loop."""
        self.window = Window(limit=_whole(per_minute), window_s=60.0)
        self._owed = 0.0
        self._new_bucket(per_minute)

    def _new_bucket(self, per_minute: float) -> None:
        from aiolimiter import AsyncLimiter  # noqa: PLC0415 - it looks its own version up, in 12 ms of CPU

        capacity, period_s = burst_and_period_s(per_minute)
        self._bucket = AsyncLimiter(capacity, period_s)
        self._at_once = min(capacity, TICK_S * capacity / period_s)
        self._most_owed = max(per_minute, 1.0)

    def has_room(self, amount: float, now: float) -> bool:
        """Say whether the bucket has room for all that `pay` would put in, and the last minute for `amount`."""
        if self.window.wait_s(amount, now):
            return False
        if self._owed + amount <= 0:
            return True
        owed, taken = self._owed, 0.0
        if owed > 0:
            taken = self._part(owed)
            owed -= taken
        if owed > 0:
            return False
        if owed + amount > 0:
            taken += self._part(owed + amount)
        return not taken or self._bucket.has_capacity(taken)

    def take(self, amount: float, now: float) -> None:
        """Pay `amount`, for which there is room, and let it in."""
        if self._owed + amount <= 0:
            self._owed += amount  # there is credit for it
        else:
            _finish(self.pay(amount))
        self.window.add(amount, now)

    def free(self, now: float) -> tuple[float, float]:
        """Return the credit that the last minute has room for, and until when it counts for the same grain as now."""
        room, until = self.window.free(now)
        return min(room, -self._owed), until

    async def pay(self, amount: float) -> None:
        """Wait until the bucket has taken what was owed and, of `amount`, as much as it holds; the rest is owed.

        So an amount larger than the bucket goes alone, on a full one. Cancelled, it owes and has nothing more.
        """
        while self._owed > 0:
            part = await self._taken(self._owed)
            self._owed -= part  # not in one statement: a correction may come while it waits
        if (due := self._owed + amount) > 0:
            amount -= await self._taken(due)
        self._owed += amount

    async def _taken(self, due: float) -> float:
        part = self._part(due)
        await self._bucket.acquire(part)
        return part

    def _part(self, due: float) -> float:
        return min(self._bucket.max_rate, max(due, self._at_once))

    def give_back(self, amount: float) -> None:
        """Take note that what was paid for is not sent now: it is credit for the next."""
        self._owed -= amount

    def resize(self, limit: float, now: float) -> list[Sent]:
        """Hold to another limit a minute from now on; see `Window`.

        aiolimiter's rate is fixed, so the bucket is a new, empty one (TRAPS.md L4): for a moment that is as much too
        fast as a bucket holds, which no window lets through twice.
        """
        self._new_bucket(limit)
        return self.window.resize(_whole(limit), now)

    def correct(self, by: float, sent_at: float) -> None:
        """Take note that what was sent at `sent_at` was worth `by` more than was reserved, or less where negative.

        No more than a minute's worth is ever owed: a server's wrong count must not stop the lane for days.
        """
        self._owed = min(self._owed + by, self._most_owed)
        self.window.add(by, sent_at)


def _whole(per_minute: float) -> float:
    """Return the most that one minute may see, in whole units, at least one."""
    return max(float(math.floor(per_minute)), 1.0)


def _finish(paying: Coroutine[object, None, None]) -> None:
    """Run what has nothing to wait for to its end."""
    with contextlib.suppress(StopIteration):
        paying.send(None)
        paying.close()
        raise AssertionError("a limit that has room for an amount made it wait")
