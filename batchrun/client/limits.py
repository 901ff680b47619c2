"""All limits of a lane as one: an attempt takes what it needs of each, or nothing of any (DESIGN.md, section 4).

Where limits a minute are wide, the one that asks all of them finds more than it needs paid and free. That is the lot:
who comes in the same moment, a grain of the windows, takes of it and asks nobody. What was taken of it is told to the
limits as one amount before any of them is asked or told anything else, so that they let in what they would without a
lot. Limits a day are shared by all lanes, so where there is one there is no lot.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from batchrun.client.rate import Limit, Quota, Rate
from batchrun.client.window import Sent
from batchrun.events import Bound

_TOKENS: frozenset[Bound] = frozenset(["tokens", "daily tokens"])


class Quotas(NamedTuple):
    """The limits a day, None where there is none."""

    requests: Quota | None = None
    tokens: Quota | None = None


class Limits:
    """The rates and quotas of one lane; must be made inside the running loop. Times are the loop's.

    An attempt of so many tokens takes those of a limit of tokens, and one of a limit of requests.
    """

    def __init__(
        self, *, requests_per_minute: float | None, tokens_per_minute: float | None, quotas: Quotas | None
    ) -> None:
        """Start with full buckets; None where there is no such limit."""
        limits: tuple[tuple[Bound, Limit | None], ...] = (
            ("tokens", None if tokens_per_minute is None else Rate(tokens_per_minute)),
            ("requests", None if requests_per_minute is None else Rate(requests_per_minute)),
            ("daily tokens", quotas.tokens if quotas else None),
            ("daily requests", quotas.requests if quotas else None),
        )
        self._limits: list[tuple[Bound, Limit, bool]] = [
            (bound, limit, bound in _TOKENS) for bound, limit in limits if limit is not None
        ]
        self._of_tokens = [limit for _, limit, counts_tokens in self._limits if counts_tokens]
        self.counts_tokens = bool(self._of_tokens)
        """Whether any limit is one of tokens; where none is, nobody needs to say how many an attempt takes."""
        self._acquiring: asyncio.Timeout | None = None
        self._lot_at = 0.0
        self._lot_until = -math.inf
        self._lot_tokens = self._lot_requests = 0.0
        self._taken_tokens = self._taken_requests = 0.0

    def used(self, now: float) -> dict[Bound, float]:
        """Return the share of each limit that is used."""
        return {bound: round(limit.window.used(now), 4) for bound, limit, _ in self._told()}

    def correct(self, tokens: float, sent_at: float) -> None:
        """Take note that an attempt sent at `sent_at` used `tokens` more than it took, or less where negative.

        What it used more is no part of the lot any longer.
        """
        if tokens > 0:
            self._lot_tokens -= tokens
            if self._taken_tokens > self._lot_tokens:
                self._end_lot()
        for limit in self._of_tokens:
            limit.correct(tokens, sent_at)

    def resize(self, limits: Mapping[Bound, float], now: float) -> dict[Bound, list[Sent]]:
        """Hold to these limits from now on; return the past that goes with what is given up of each."""
        return {bound: limit.resize(limits[bound], now) for bound, limit, _ in self._told() if bound in limits}

    def past(self) -> dict[Bound, list[Sent]]:
        """Return what was let in of late under each limit."""
        return {bound: limit.window.past() for bound, limit, _ in self._told()}

    def take_on(self, sent: Mapping[Bound, Iterable[Sent]]) -> None:
        """Count what was let in elsewhere under these limits as if it had been here."""
        for bound, limit, _ in self._told():
            limit.window.take_on(sent.get(bound, ()))

    def take_now(self, tokens: float, now: float) -> bool:
        """Take what an attempt needs of each limit where none has to be waited for, else nothing and return False."""
        taken_tokens, taken_requests = self._taken_tokens + tokens, self._taken_requests + 1
        if taken_tokens <= self._lot_tokens and taken_requests <= self._lot_requests and now < self._lot_until:
            self._taken_tokens, self._taken_requests = taken_tokens, taken_requests
            return True
        return self._take_anew(tokens, now)

    def _take_anew(self, tokens: float, now: float) -> bool:
        """Ask all limits, and begin a lot of what they have beyond what was asked for."""
        limits = self._told()
        for _, limit, counts_tokens in limits:
            if not limit.has_room(tokens if counts_tokens else 1.0, now):
                return False
        for _, limit, counts_tokens in limits:
            limit.take(tokens if counts_tokens else 1.0, now)
        self._lot_tokens = self._lot_requests = self._lot_until = math.inf
        for _, limit, counts_tokens in limits:
            free, until = limit.free(now)
            self._lot_until = min(until, self._lot_until)
            if counts_tokens:
                self._lot_tokens = min(free, self._lot_tokens)
            else:
                self._lot_requests = min(free, self._lot_requests)
        self._lot_at = now
        return True

    def _end_lot(self) -> None:
        """Tell each limit what was taken of the lot, and take no more of it.

        It counts for the grain of whoever began the lot, which is there even if a later one is by now.
        """
        if self._taken_requests:
            for _, limit, counts_tokens in self._limits:
                limit.take(self._taken_tokens if counts_tokens else self._taken_requests, self._lot_at)
        self._taken_tokens = self._taken_requests = 0.0
        self._lot_until = -math.inf

    def _told(self) -> list[tuple[Bound, Limit, bool]]:
        """Return all limits, once they were told what was taken of the lot."""
        self._end_lot()
        return self._limits

    async def pay(self, tokens: float, waiting: Callable[[Bound], None]) -> bool:
        """Wait until the buckets have taken what an attempt needs; False when `close` came meanwhile.

        `waiting` is told what it waits for. Cancelled, or closed, nothing is paid.
        """
        paid: list[tuple[Limit, float]] = []
        try:
            async with asyncio.timeout(None) as self._acquiring:
                for bound, limit, counts_tokens in self._told():
                    waiting(bound)
                    amount = tokens if counts_tokens else 1.0
                    await limit.pay(amount)
                    paid.append((limit, amount))
        except BaseException as error:
            for limit, amount in paid:
                limit.give_back(amount)
            if not isinstance(error, TimeoutError):
                raise
            return False
        finally:
            self._acquiring = None
        return True

    def fullest(self, tokens: float, now: float) -> tuple[Bound, float] | None:
        """Return for lack of what there is no room for an attempt, and for how long; None when there is room."""
        longest: tuple[Bound, float] | None = None
        for bound, limit, counts_tokens in self._told():
            wait_s = limit.window.wait_s(tokens if counts_tokens else 1.0, now)
            if wait_s > (longest[1] if longest else 0.0):
                longest = bound, wait_s
        return longest

    def let_in(self, tokens: float, now: float) -> None:
        """Take note that what was paid is sent now."""
        for _, limit, counts_tokens in self._told():
            limit.window.add(tokens if counts_tokens else 1.0, now)

    def give_back(self, tokens: float) -> None:
        """Take note that what was paid is not sent: it is credit for the next."""
        for _, limit, counts_tokens in self._told():
            limit.give_back(tokens if counts_tokens else 1.0)

    def take_back(self, tokens: float, now: float) -> None:
        """Take note that what was let in a moment ago is not sent after all."""
        for _, limit, counts_tokens in self._told():
            amount = tokens if counts_tokens else 1.0
            limit.give_back(amount)
            limit.window.add(-amount, now)

    def close(self) -> None:
        """Send away who pays just now."""
        if self._acquiring is not None and not self._acquiring.expired():
            self._acquiring.reschedule(asyncio.get_running_loop().time())
