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


Needs = tuple[tuple[Bound, Limit, float], ...]
"""The amount of each limit that an attempt takes."""


class Limits:
    """The rates and quotas of one lane; must be made inside the running loop. Times are the loop's."""

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

    def needs(self, tokens: float) -> Needs:
        """Return what an attempt of so many tokens takes, empty where nothing is limited."""
        if not self._limits:
            return ()
        return tuple([(bound, limit, tokens if counts_tokens else 1.0) for bound, limit, counts_tokens in self._limits])

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

    async def pay(self, needs: Needs, waiting: Callable[[Bound], None]) -> bool:
        """Wait until the buckets have taken what is needed; False when `close` came meanwhile.

        `waiting` is told what it waits for. Cancelled, or closed, nothing is paid.
        """
        paid: list[tuple[Bound, Limit, float]] = []
        try:
            async with asyncio.timeout(None) as self._acquiring:
                for bound, limit, amount in needs:
                    waiting(bound)
                    await limit.pay(amount)
                    paid.append((bound, limit, amount))
        except BaseException as error:
            give_back(tuple(paid))
            if not isinstance(error, TimeoutError):
                raise
            return False
        finally:
            self._acquiring = None
        return True

    def close(self) -> None:
        """Send away who pays just now."""
        if self._acquiring is not None and not self._acquiring.expired():
            self._acquiring.reschedule(asyncio.get_running_loop().time())


def take_now(needs: Needs, now: float) -> bool:
    """Take all that is needed where nothing has to be waited for, else nothing and return False."""
    for _, limit, amount in needs:
        if not limit.has_room(amount, now):
            return False
    for _, limit, amount in needs:
        limit.take(amount, now)
    return True


def fullest(needs: Needs, now: float) -> tuple[Bound, float] | None:
    """Return for lack of what there is no room for all that is needed, and for how long; None when there is room."""
    longest: tuple[Bound, float] | None = None
    for bound, limit, amount in needs:
        wait_s = limit.wait_s(amount, now)
        if wait_s > (longest[1] if longest else 0.0):
            longest = bound, wait_s
    return longest


def let_in(needs: Needs, now: float) -> None:
    """Take note that what was paid is sent now."""
    for _, limit, amount in needs:
        limit.let_in(amount, now)


def give_back(needs: Needs) -> None:
    """Take note that what was paid is not sent: it is credit for the next."""
    for _, limit, amount in needs:
        limit.give_back(amount)


def take_back(needs: Needs, now: float) -> None:
    """Take note that what was let in a moment ago is not sent after all."""
    give_back(needs)
    for _, limit, amount in needs:
        limit.let_in(-amount, now)
