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
        self._lifting: asyncio.TimerHandle | None = None
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
        self._woken: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
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
            self._wake()
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
                self._waits.turn_to(hindrance[0])
                self._look_again(hindrance[1])
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

    def _look_again(self, after_s: float | None) -> None:
        if after_s is None:
            return
        at = self._loop.time() + after_s
        if self._timer is not None:
            if self._timer_at <= at:
                return
            self._timer.cancel()
        self._timer, self._timer_at = self._loop.call_later(after_s, self._timed), at

    def _timed(self) -> None:
        self._timer = None
        self._admit()

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
                if (hindrance := self._hindrance(self._loop.time())) is not None:
                    if paid and hindrance[0] == "pause":
                        self._limits.give_back(tokens)
                        paid = False
                    await self._change(*hindrance)
                elif not paid:
                    paid = await self._limits.pay(tokens, self._waits.turn_to)
                elif (full := self._limits.fullest(tokens, self._loop.time())) is not None:
                    await self._change(*full)
                else:
                    now = self._loop.time()
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

    async def _change(self, bound: Bound, at_most_s: float | None) -> None:
        """Wait until a slot comes back, the gate closes, or `at_most_s` seconds have gone by."""
        self._waits.turn_to(bound)
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
        """Let at most `slots` be taken for `for_s` seconds from the first fitting on, narrowed or not."""
        self._ceiling.fit(slots)
        if self._lifting is None:
            self._lifting = self._loop.call_later(for_s, self._lift)

    def _lift(self) -> None:
        self._lifting = None
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
