"""All limits of a lane as one: an attempt takes what it needs of each, or nothing of any (DESIGN.md, section 4)."""

from __future__ import annotations

import asyncio
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
        self._acquiring: asyncio.Timeout | None = None

    def used(self, now: float) -> dict[Bound, float]:
        """Return the share of each limit that is used."""
        return {bound: round(limit.used(now), 4) for bound, limit, _ in self._limits}

    def correct(self, tokens: float, sent_at: float) -> None:
        """Take note that an attempt sent at `sent_at` used `tokens` more than it took, or less where negative."""
        for _, limit, counts_tokens in self._limits:
            if counts_tokens:
                limit.correct(tokens, sent_at)

    def resize(self, limits: Mapping[Bound, float], now: float) -> dict[Bound, list[Sent]]:
        """Hold to these limits from now on; return the past that goes with what is given up of each."""
        return {bound: limit.resize(limits[bound], now) for bound, limit, _ in self._limits if bound in limits}

    def past(self) -> dict[Bound, list[Sent]]:
        """Return what was let in of late under each limit."""
        return {bound: limit.past() for bound, limit, _ in self._limits}

    def take_on(self, sent: Mapping[Bound, Iterable[Sent]]) -> None:
        """Count what was let in elsewhere under these limits as if it had been here."""
        for bound, limit, _ in self._limits:
            limit.take_on(sent.get(bound, ()))

    def take_now(self, tokens: float, now: float) -> bool:
        """Take what an attempt needs of each limit where none has to be waited for, else nothing and return False."""
        for _, limit, counts_tokens in self._limits:
            if not limit.has_room(tokens if counts_tokens else 1.0, now):
                return False
        for _, limit, counts_tokens in self._limits:
            limit.take(tokens if counts_tokens else 1.0, now)
        return True

    async def pay(self, tokens: float, waiting: Callable[[Bound], None]) -> bool:
        """Wait until the buckets have taken what an attempt needs; False when `close` came meanwhile.

        `waiting` is told what it waits for. Cancelled, or closed, nothing is paid.
        """
        paid: list[tuple[Limit, float]] = []
        try:
            async with asyncio.timeout(None) as self._acquiring:
                for bound, limit, counts_tokens in self._limits:
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
        for bound, limit, counts_tokens in self._limits:
            wait_s = limit.wait_s(tokens if counts_tokens else 1.0, now)
            if wait_s > (longest[1] if longest else 0.0):
                longest = bound, wait_s
        return longest

    def let_in(self, tokens: float, now: float) -> None:
        """Take note that what was paid is sent now."""
        for _, limit, counts_tokens in self._limits:
            limit.let_in(tokens if counts_tokens else 1.0, now)

    def give_back(self, tokens: float) -> None:
        """Take note that what was paid is not sent: it is credit for the next."""
        for _, limit, counts_tokens in self._limits:
            limit.give_back(tokens if counts_tokens else 1.0)

    def take_back(self, tokens: float, now: float) -> None:
        """Take note that what was let in a moment ago is not sent after all."""
        for _, limit, counts_tokens in self._limits:
            amount = tokens if counts_tokens else 1.0
            limit.give_back(amount)
            limit.let_in(-amount, now)

    def close(self) -> None:
        """Send away who pays just now."""
        if self._acquiring is not None and not self._acquiring.expired():
            self._acquiring.reschedule(asyncio.get_running_loop().time())
