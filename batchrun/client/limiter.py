"""The gate before an attempt: first come, first served, to a slot and to the request rate together.

aiolimiter holds the rate; the order is kept here, because its own waiters are served smallest first. Only the head
of the queue waits for a slot and in the limiter, so a thousand waiters cost nothing (DESIGN.md, section 4).
"""

from __future__ import annotations

import asyncio
import math

from aiolimiter import AsyncLimiter

BURST_S = 0.05
BURST_SHARE = 0.01


def burst_and_period_s(requests_per_minute: float) -> tuple[float, float]:
    """Return the bucket's capacity and the time in which it drains whole, in seconds.

    Capacity is 50 ms' worth of sends, at least 1 and at most 1 % of the minute; the rate is lowered by what the
    capacity lets through at once, so that no window of 60 s exceeds the limit (DESIGN.md, section 4); 90.5 a minute are
    90 in each.
    """
    most = max(float(math.floor(requests_per_minute)), min(requests_per_minute, 1.0))
    capacity = max(1.0, min(BURST_S * most / 60, BURST_SHARE * most))
    rate_per_s = (most - capacity + 1) / 60
    return capacity, capacity / rate_per_s


class Gate:
    """Admits attempts of one lane: at most `slots` at a time, and no faster than its rate.

    Must be made inside the running loop. A slot taken by `enter` is given back by `leave`.
    """

    def __init__(self, *, slots: int, requests_per_minute: float | None) -> None:
        """Start with all slots free and a full bucket."""
        self._loop = asyncio.get_running_loop()
        self._slots = slots
        self._most = slots
        self._fitting = slots
        self._lifting: asyncio.TimerHandle | None = None
        self._limit = slots
        self._in_flight = 0
        self._limiter: AsyncLimiter | None = None
        if requests_per_minute is not None:
            self._limiter = AsyncLimiter(*burst_and_period_s(requests_per_minute))
        self._turn = asyncio.Lock()
        self._queued = 0
        self._closed = False
        self._paused_until = 0.0
        self._woken: asyncio.Future[None] | None = None
        self._acquiring: asyncio.Timeout | None = None

    @property
    def in_flight(self) -> int:
        """Slots taken."""
        return self._in_flight

    @property
    def paused_s(self) -> float:
        """Seconds until the lane's pause is over, 0 when it is not paused."""
        return max(0.0, self._paused_until - self._loop.time())

    async def enter(self) -> bool:
        """Wait for a turn, then take a slot; False when the gate was closed instead."""
        if (
            self._in_flight < self._limit
            and not self._queued
            and self._limiter is None
            and not self._closed
            and not self.paused_s
        ):
            self._in_flight += 1
            return True
        self._queued += 1
        try:
            async with self._turn:
                return await self._enter_as_head()
        finally:
            self._queued -= 1

    async def _enter_as_head(self) -> bool:
        rated = self._limiter is None
        while not self._closed:
            if self._in_flight >= self._limit:
                await self._change()
            elif self.paused_s:
                await self._change(at_most_s=self.paused_s)
                rated = self._limiter is None  # a permit held over a pause would come on top of the next minute's
            elif not rated:
                rated = await self._acquire()
            else:
                self._in_flight += 1
                return True
        return False

    async def _change(self, *, at_most_s: float | None = None) -> None:
        """Wait until a slot comes back, the gate closes, or `at_most_s` seconds have gone by."""
        self._woken = self._loop.create_future()
        timer = None if at_most_s is None else self._loop.call_later(at_most_s, self._wake)
        try:
            await self._woken
        finally:
            if timer is not None:
                timer.cancel()

    def _wake(self) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    async def _acquire(self) -> bool:
        """Wait in the limiter; False when the gate closed meanwhile."""
        if self._limiter is None:
            return True
        try:
            async with asyncio.timeout(None) as self._acquiring:
                await self._limiter.acquire()
        except TimeoutError:
            return False
        finally:
            self._acquiring = None
        return True

    def leave(self) -> None:
        """Give a slot back."""
        self._in_flight -= 1
        self._wake()

    def narrow(self, slots: int) -> None:
        """Let at most `slots` be taken from now on; those that are taken come back when they do."""
        self._most = min(slots, self._slots)
        self._limit = min(self._most, self._fitting)

    def widen(self) -> None:
        """Take a narrowing back."""
        self._most = self._slots
        self._limit = min(self._most, self._fitting)
        self._wake()

    def fit(self, slots: int, *, for_s: float) -> None:
        """Let at most `slots` be taken for `for_s` seconds from the first fitting on, narrowed or not."""
        self._fitting = min(slots, self._slots)
        self._limit = min(self._most, self._fitting)
        if self._lifting is None:
            self._lifting = self._loop.call_later(for_s, self._lift)

    def _lift(self) -> None:
        self._lifting = None
        self._fitting = self._slots
        self._limit = self._most
        self._wake()

    def pause(self, wait_s: float) -> None:
        """Let nothing in for `wait_s` seconds; of several pauses the latest end counts."""
        self._paused_until = max(self._paused_until, self._loop.time() + wait_s)

    def close(self) -> None:
        """Let nothing in any more; whoever waits is sent away."""
        self._closed = True
        self._wake()
        if self._acquiring is not None and not self._acquiring.expired():
            self._acquiring.reschedule(self._loop.time())
