"""The gate before an attempt: first come, first served, to a slot, requests and tokens of a minute together.

`Limits` hold the rates, `Slots` knows how many attempts the server bears, `Pacing` when it wants none; order is kept
here. Only the head of the queue waits, for a slot first, then for the rates: a thousand waiters cost nothing, a large
prompt is not passed by small ones, and nothing is taken that is not used at once (DESIGN.md, section 4). What comes
back lets in, there and then, all at the front that fit: a row costs one future, and takes no turn of the loop.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable, Mapping
from enum import Enum

import msgspec

from batchrun.client.limits import Limits, Quotas
from batchrun.client.pacing import Pacing
from batchrun.client.slots import Ceiling, Slots
from batchrun.client.waits import Waits
from batchrun.client.waking import Alarm, Nap
from batchrun.client.window import Sent
from batchrun.events import Bound, LaneState


class _Turn(Enum):
    """What a waiter is told."""

    IN = "it has been let in"
    HEAD = "it is the head of the queue, and waits for the rates itself"
    AWAY = "the gate is closed"


class _Waiter(msgspec.Struct, frozen=True, gc=False):
    turn: asyncio.Future[_Turn]
    tokens: float


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
        self._ceiling = Ceiling(slots)
        self._lifting = Alarm(self._lift)
        self._in_flight = 0
        self._limits = Limits(
            requests_per_minute=requests_per_minute, tokens_per_minute=tokens_per_minute, quotas=quotas
        )
        self.counts_tokens = self._limits.counts_tokens
        """Whether tokens are limited here; else `enter` and `correct` need not be told of any."""
        self._pacing = Pacing()
        self._queue: deque[_Waiter] = deque()
        self._has_head = False
        self._closed = False
        self._head_nap = Nap()
        self._next_look = Alarm(self._admit)
        self._waits = Waits(clock=self._loop.time)

    @property
    def in_flight(self) -> int:
        """Slots taken."""
        return self._in_flight

    @property
    def slots(self) -> int:
        """Slots there are now."""
        return min(self._slots.now, self._ceiling.now)

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
        used: dict[Bound, float] = {"slots": round(self._in_flight / self.slots, 4), **self._limits.used(now)}
        return LaneState(
            slots=self.slots,
            in_flight=self._in_flight,
            paused_s=self.paused_s,
            used=used,
            waited_s=self._waits.by(now),
        )

    def now(self) -> float:
        """Return the time by which `correct` counts."""
        return self._loop.time()

    async def enter(self, tokens: float = 0.0) -> bool:
        """Wait for a turn, then take a slot and `tokens` of the minute; False when the gate was closed instead."""
        is_first = not self._queue
        if is_first and self.enter_now(tokens):
            return True
        waiter = _Waiter(self._loop.create_future(), tokens)
        self._queue.append(waiter)
        if is_first or self._closed:
            self._admit()
        try:
            turn = await waiter.turn
        except asyncio.CancelledError:
            self._step_out(waiter)
            raise
        return turn is _Turn.IN or (turn is _Turn.HEAD and await self._enter_as_head(waiter.tokens))

    def enter_now(self, tokens: float = 0.0) -> bool:
        """Take a slot and `tokens` where nothing has to be waited for, else return False."""
        if self._closed or self._queue or self._has_head:
            return False
        return self._take_now(tokens, self._loop.time())

    def _take_now(self, tokens: float, now: float) -> bool:
        """Take a slot and all that is needed beside it; False where anything has to be waited for."""
        is_free = self._in_flight < self._slots.now and self._in_flight < self._ceiling.now
        if not (is_free and now >= self._pacing.slow_until) and self._hindrance(now) is not None:
            return False
        if not self._limits.take_now(tokens, now):
            return False
        self._take(now)
        return True

    def _admit(self) -> None:
        """Let in all at the front of the queue that fit; what stands against the first is looked at again in time."""
        if self._has_head:
            self._head_nap.end()
            return
        now = self._loop.time()
        while self._queue:
            waiter = self._queue[0]
            if waiter.turn.done():  # cancelled
                self._queue.popleft()
            elif self._closed:
                self._queue.popleft().turn.set_result(_Turn.AWAY)
            elif self._take_now(waiter.tokens, now):
                self._queue.popleft().turn.set_result(_Turn.IN)
            elif (hindrance := self._hindrance(now)) is not None:
                bound, again_s = hindrance
                self._waits.turn_to(bound)
                if again_s is not None:
                    self._next_look.set(again_s)
                return
            else:
                self._has_head = True
                self._queue.popleft().turn.set_result(_Turn.HEAD)
                return
        self._waits.turn_to(None)

    def _hindrance(self, now: float) -> tuple[Bound, float | None] | None:
        """Return what stands against any attempt now, and in how many seconds it may be gone by itself."""
        if self._in_flight >= self._slots.now:
            again_s = self._slots.filled()
            if self._in_flight >= self.slots:
                return "slots", again_s
        elif self._in_flight >= self.slots:
            return "slots", None
        if wait_s := self._pacing.wait_s(now):
            return "pause", wait_s
        return None

    def _step_out(self, waiter: _Waiter) -> None:
        """Let the next come up for one that was cancelled, with what it had just been given."""
        if waiter.turn.done() and not waiter.turn.cancelled():
            if waiter.turn.result() is _Turn.IN:
                self._in_flight -= 1
                self._limits.take_back(waiter.tokens, self._loop.time())
            elif waiter.turn.result() is _Turn.HEAD:
                self._has_head = False
        self._admit()

    async def _enter_as_head(self, tokens: float) -> bool:
        """Take all that is needed, or nothing: a pause that comes in between gives back what was paid."""
        paid = False
        try:
            while not self._closed:
                now = self._loop.time()
                hindrance = self._hindrance(now) or (self._limits.fullest(tokens, now) if paid else None)
                if hindrance is not None:
                    bound, again_s = hindrance
                    if paid and bound == "pause":
                        self._limits.give_back(tokens)
                        paid = False
                    self._waits.turn_to(bound)
                    await self._head_nap.take(again_s)
                elif not paid:
                    paid = await self._limits.pay(tokens, self._waits.turn_to)
                else:
                    self._limits.let_in(tokens, now)
                    self._take(now)
                    return True
        except asyncio.CancelledError:  # another lane has taken the row in
            if paid:
                self._limits.give_back(tokens)
            raise
        finally:
            self._has_head = False
            self._admit()
        return False

    def _take(self, now: float) -> None:
        self._in_flight += 1
        if now < self._pacing.slow_until:
            self._pacing.sent(now, self.slots)
        if self._in_flight >= self._slots.now:
            self._slots.filled()

    def correct(self, tokens: float, sent_at: float) -> None:
        """Take note that an attempt sent at `sent_at` used `tokens` more than it took, or less where negative."""
        self._limits.correct(tokens, sent_at)

    def leave(self, slots: int = 1) -> None:
        """Give slots back."""
        self._in_flight -= slots
        self._admit()

    def succeeded(self) -> None:
        """Take note of a reply: slots that are all used may grow."""
        if self._slots.grows and self._slots.succeeded(all_used=self._in_flight >= self._slots.now):
            self._admit()

    def refused(self, still_in_flight: int) -> None:
        """Take note of a refusal without a hint: there are fewer slots from now on."""
        self._slots.refused(still_in_flight)

    def narrow(self, slots: int) -> None:
        """Let at most `slots` be taken from now on; those that are taken come back when they do."""
        self._ceiling.narrow(slots)

    def widen(self) -> None:
        """Take a narrowing back."""
        self._ceiling.narrow(None)
        self._admit()

    def fit(self, slots: int, *, for_s: float) -> None:
        """Let at most `slots` be taken for `for_s` seconds, narrowed or not; of several ends the first counts."""
        self._ceiling.fit(slots)
        self._lifting.set(for_s)

    def _lift(self) -> None:
        self._ceiling.fit(None)
        self._admit()

    def resize(self, slots: int, limits: Mapping[Bound, float]) -> dict[Bound, list[Sent]]:
        """Hold to so many slots and to these limits from now on; return the past that goes with what is given up.

        Slots that are taken come back when they do. Limits that are not named stay as they are.
        """
        self._slots.resize(slots)
        self._ceiling.resize(slots)
        past = self._limits.resize(limits, self._loop.time())
        self._admit()
        return past

    def past(self) -> dict[Bound, list[Sent]]:
        """Return what was let in of late under each limit."""
        return self._limits.past()

    def take_on(self, sent: Mapping[Bound, Iterable[Sent]]) -> None:
        """Count what was let in elsewhere under these limits as if it had been here."""
        self._limits.take_on(sent)

    @property
    def most_slots(self) -> int:
        """The most slots there may be."""
        return self._ceiling.most

    def pause(self, wait_s: float) -> None:
        """Let nothing in for `wait_s` seconds; of several pauses the latest end counts."""
        self._pacing.pause(wait_s, self._loop.time())

    def space(self, gap_s: float) -> None:
        """Leave at least `gap_s` seconds between attempts for a while: the server calls its limit nearly used."""
        self._pacing.space(gap_s, self._loop.time())

    def close(self) -> None:
        """Let nothing in any more; whoever waits is sent away."""
        self._closed = True
        self._admit()
        self._limits.close()
