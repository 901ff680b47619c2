"""The gate before an attempt: first come, first served, to a slot, requests and tokens of a minute together.

`Rate` holds the rates, `Slots` knows how many attempts the server bears, `Pacing` when it wants none; the order is kept
here. Only the head of the queue waits, for a slot first, then for the rates: a thousand waiters cost nothing, a large
prompt is not passed by small ones, and nothing is taken that is not used at once (DESIGN.md, section 4).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Generator, Iterable
from typing import NamedTuple

from batchrun.client.pacing import Pacing
from batchrun.client.rate import Limit, Quota, Rate
from batchrun.client.slots import Slots
from batchrun.events import Bound, LaneState

BOUNDS: tuple[Bound, ...] = ("slots", "requests", "tokens", "daily requests", "daily tokens", "pause")
_TOKENS: frozenset[Bound] = frozenset(["tokens", "daily tokens"])


class Quotas(NamedTuple):
    """The limits a day, None where there is none."""

    requests: Quota | None = None
    tokens: Quota | None = None


class _Need(NamedTuple):
    """An amount of one limit that an attempt takes."""

    bound: Bound
    limit: Limit
    amount: float


class Gate:
    """Admits attempts of one lane: at most as many at a time as there are slots, and no faster than its rates.

    Must be made inside the running loop. A slot taken by `enter` is given back by `leave`.
    """

    def __init__(
        self,
        *,
        slots: int,
        requests_per_minute: float | None,
        tokens_per_minute: float | None = None,
        quotas: Quotas | None = None,
        adaptive: Slots | None = None,
    ) -> None:
        """Start with all slots free and full buckets; `adaptive` slots move below `slots`."""
        self._loop = asyncio.get_running_loop()
        self._slots = adaptive or Slots(most=slots, adaptive=False, learned=None, clock=time.monotonic)
        self._ceiling = self._most = self._fitting = slots
        self._lifting: asyncio.TimerHandle | None = None
        self._in_flight = 0
        limits: tuple[tuple[Bound, Limit | None], ...] = (
            ("tokens", None if tokens_per_minute is None else Rate(tokens_per_minute)),
            ("requests", None if requests_per_minute is None else Rate(requests_per_minute)),
            ("daily tokens", quotas.tokens if quotas else None),
            ("daily requests", quotas.requests if quotas else None),
        )
        self._limits: list[tuple[Bound, Limit]] = [(bound, limit) for bound, limit in limits if limit is not None]
        self._pacing = Pacing()
        self._turn = asyncio.Lock()
        self._queued = 0
        self._closed = False
        self._woken: asyncio.Future[None] | None = None
        self._acquiring: asyncio.Timeout | None = None
        self._waited_s: dict[Bound, float] = dict.fromkeys(BOUNDS, 0.0)
        self._waits: tuple[Bound, float] | None = None

    @property
    def in_flight(self) -> int:
        """Slots taken."""
        return self._in_flight

    @property
    def slots(self) -> int:
        """Slots there are now."""
        return min(self._slots.now, self._most, self._fitting)

    @property
    def learned_slots(self) -> int | None:
        """What the slots of the next run may start at, None where nothing was learned."""
        return self._slots.learned

    @property
    def paused_s(self) -> float:
        """Seconds until the lane's pause is over, 0 when it is not paused."""
        return max(0.0, self._pacing.paused_until - self._loop.time())

    def state(self) -> LaneState:
        """Return how far the limits are used."""
        now = self._loop.time()
        used: dict[Bound, float] = {"slots": round(self._in_flight / self.slots, 4)}
        for bound, limit in self._limits:
            used[bound] = round(limit.used(now), 4)
        return LaneState(
            slots=self.slots,
            in_flight=self._in_flight,
            paused_s=self.paused_s,
            used=used,
            waited_s=self._waited_s_by(now),
        )

    def _waited_s_by(self, now: float) -> dict[Bound, float]:
        """Return all waits, with what has gone by of the one that goes on: a day's limit may take hours."""
        waited_s = dict(self._waited_s)
        if self._waits is not None:
            waited_s[self._waits[0]] += now - self._waits[1]
        return waited_s

    @contextlib.contextmanager
    def _waiting(self, bound: Bound) -> Generator[None, None, None]:
        began = self._loop.time()
        self._waits = bound, began
        try:
            yield
        finally:
            self._waits = None
            self._waited_s[bound] += self._loop.time() - began

    def now(self) -> float:
        """Return the time by which `correct` counts."""
        return self._loop.time()

    async def enter(self, tokens: float = 0.0) -> bool:
        """Wait for a turn, then take a slot and `tokens` of the minute; False when the gate was closed instead."""
        if (
            not self._queued
            and not self._limits
            and not self._closed
            and self._in_flight < self.slots
            and not self._pacing.wait_s(self._loop.time())
        ):
            self._take()
            return True
        self._queued += 1
        try:
            async with self._turn:
                return await self._enter_as_head(self._needed(tokens))
        finally:
            self._queued -= 1

    async def enter_now(self, tokens: float = 0.0) -> bool:
        """Take a slot and `tokens` where nothing has to be waited for, else return False; never waits."""
        now, needed = self._loop.time(), self._needed(tokens)
        if self._closed or self._queued or self._in_flight >= self.slots or self._pacing.wait_s(now):
            return False
        if not all(need.limit.affords(need.amount) for need in needed) or _fullest(needed, now) is not None:
            return False
        await self._pay(needed)  # at once: all of them afford it
        self._let_in(needed, now)
        return True

    async def _enter_as_head(self, needed: tuple[_Need, ...]) -> bool:
        """Take all that is needed, or nothing: a pause that comes in between gives back what was paid."""
        paid = False
        try:
            while not self._closed:
                now = self._loop.time()
                again_s = self._slots.filled() if self._in_flight >= self._slots.now else None
                if self._in_flight >= self.slots:
                    await self._change("slots", at_most_s=again_s)
                elif wait_s := self._pacing.wait_s(now):
                    if paid:
                        _give_back(needed)
                        paid = False
                    await self._change("pause", at_most_s=wait_s)
                elif not paid:
                    paid = await self._pay(needed)
                elif (full := _fullest(needed, now)) is not None:
                    await self._change(full[1], at_most_s=full[0])
                else:
                    self._let_in(needed, now)
                    return True
        except asyncio.CancelledError:  # another lane has taken the row in
            if paid:
                _give_back(needed)
            raise
        return False

    def _let_in(self, needed: tuple[_Need, ...], now: float) -> None:
        for _, limit, amount in needed:
            limit.let_in(amount, now)
        self._take()

    def _needed(self, tokens: float) -> tuple[_Need, ...]:
        return tuple([_Need(bound, limit, tokens if bound in _TOKENS else 1.0) for bound, limit in self._limits])

    def _take(self) -> None:
        self._in_flight += 1
        self._pacing.sent(self._loop.time(), self.slots)
        if self._in_flight >= self._slots.now:
            self._slots.filled()

    async def _change(self, bound: Bound, *, at_most_s: float | None = None) -> None:
        """Wait until a slot comes back, the gate closes, or `at_most_s` seconds have gone by."""
        self._woken = self._loop.create_future()
        timer = None if at_most_s is None else self._loop.call_later(at_most_s, self._wake)
        try:
            with self._waiting(bound):
                await self._woken
        finally:
            if timer is not None:
                timer.cancel()

    def _wake(self) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    async def _pay(self, needed: tuple[_Need, ...]) -> bool:
        """Wait until the buckets have taken what is needed; False when the gate closed meanwhile."""
        done: list[_Need] = []
        try:
            async with asyncio.timeout(None) as self._acquiring:
                for need in needed:
                    with self._waiting(need.bound):
                        await need.limit.pay(need.amount)
                    done.append(need)
        except BaseException as error:
            _give_back(done)
            if not isinstance(error, TimeoutError):
                raise
            return False
        finally:
            self._acquiring = None
        return True

    def correct(self, tokens: float, sent_at: float) -> None:
        """Take note that an attempt sent at `sent_at` used `tokens` more than it took, or less where negative."""
        for bound, limit in self._limits:
            if bound in _TOKENS:
                limit.correct(tokens, sent_at)

    def leave(self) -> None:
        """Give a slot back."""
        self._in_flight -= 1
        self._wake()

    def succeeded(self) -> None:
        """Take note of a reply: slots that are all used may grow."""
        before = self._slots.now
        self._slots.succeeded(all_used=self._in_flight >= self._slots.now)
        if self._slots.now > before:
            self._wake()

    def refused(self, still_in_flight: int) -> None:
        """Take note of a refusal without a hint: there are fewer slots from now on."""
        self._slots.refused(still_in_flight)

    def narrow(self, slots: int) -> None:
        """Let at most `slots` be taken from now on; those that are taken come back when they do."""
        self._most = min(slots, self._ceiling)

    def widen(self) -> None:
        """Take a narrowing back."""
        self._most = self._ceiling
        self._wake()

    def fit(self, slots: int, *, for_s: float) -> None:
        """Let at most `slots` be taken for `for_s` seconds from the first fitting on, narrowed or not."""
        self._fitting = min(slots, self._ceiling)
        if self._lifting is None:
            self._lifting = self._loop.call_later(for_s, self._lift)

    def _lift(self) -> None:
        self._lifting = None
        self._fitting = self._ceiling
        self._wake()

    def pause(self, wait_s: float) -> None:
        """Let nothing in for `wait_s` seconds; of several pauses the latest end counts."""
        self._pacing.pause(wait_s, self._loop.time())

    def space(self, gap_s: float) -> None:
        """Leave at least `gap_s` seconds between attempts for a while: the server calls its limit nearly used."""
        self._pacing.space(gap_s, self._loop.time())

    def close(self) -> None:
        """Let nothing in any more; whoever waits is sent away."""
        self._closed = True
        self._wake()
        if self._acquiring is not None and not self._acquiring.expired():
            self._acquiring.reschedule(self._loop.time())


def _give_back(needed: Iterable[_Need]) -> None:
    for _, limit, amount in needed:
        limit.give_back(amount)


def _fullest(needed: Iterable[_Need], now: float) -> tuple[float, Bound] | None:
    """Return how long until there is room for all that is needed, and for lack of what; None when there is."""
    waits: list[tuple[float, Bound]] = [(limit.wait_s(amount, now), bound) for bound, limit, amount in needed]
    longest = max(waits, default=(0.0, "slots"))
    return longest if longest[0] > 0 else None
