"""The limits of a job cut into shares of whole units, whose sum is never more than the limits. Pure.

A limit is a bound of a lane; those a day are all lanes' and stand with the first. With a part of a limit goes the same
part of what was let in under it of late, so that all windows together are the window of the whole.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence

from batchrun.client.window import cut
from batchrun.events import Bound
from batchrun.job.lanes import lanes_of
from batchrun.job.settings import Job
from batchrun.ledger.records import SpentMinute

Share = Mapping[str, int]
"""Units of each limit; a limit is named by the number of its lane and its bound, as "0 slots"."""
Past = Mapping[str, Sequence[tuple[float, float]]]
"""Of each limit when what was let in, in seconds of the machine's monotonic clock, and how much."""


LEAST_TOKENS = 100_000
"""A share of a limit of tokens has so many: hardly a request is larger, and who has fewer is not bound by a core."""


def name_of(lane: int, bound: Bound) -> str:
    """Return the name of a limit."""
    return f"{lane} {bound}"


def whole_share(job: Job) -> Share:
    """Return all limits of a job in whole units."""
    limits = job.limits
    share: dict[str, float | None] = {}
    for number, lane in enumerate(lanes_of(job)):
        share[name_of(number, "slots")] = lane.concurrency
        share[name_of(number, "requests")] = lane.requests_per_minute
        share[name_of(number, "tokens")] = lane.tokens_per_minute
    share[name_of(0, "daily requests")] = limits.requests_per_day
    share[name_of(0, "daily tokens")] = limits.tokens_per_day
    return {name: math.floor(units) for name, units in share.items() if units is not None}


def most_shares(share: Share) -> int:
    """Return how many shares there may be, at least 1, with a unit of each limit in each, of tokens with many.

    A request that is larger than its share goes alone, but for what goes under the shares of others.
    """
    return max(1, min(units // (LEAST_TOKENS if name.endswith("tokens") else 1) for name, units in share.items()))


def slots_in(share: Share) -> int:
    """Return the slots of all lanes in a share."""
    return sum(units for name, units in share.items() if name.endswith(" slots"))


def split(share: Share, count: int) -> list[Share]:
    """Cut a share into `count` that are alike but for one unit."""
    return [
        {name: units // count + (number < units % count) for name, units in share.items()} for number in range(count)
    ]


def least(share: Share, other: Share) -> Share:
    """Return of each limit what both shares have."""
    return {name: min(units, other.get(name, 0)) for name, units in share.items()}


class Pool:
    """Units that nobody has now, with the past that goes with them."""

    def __init__(self) -> None:
        """Start empty."""
        self._units: dict[str, int] = {}
        self._past: dict[str, list[tuple[float, float]]] = {}

    @property
    def share(self) -> Share:
        """What is there."""
        return dict(self._units)

    @property
    def past(self) -> Past:
        """What goes with it."""
        return dict(self._past)

    def put(self, share: Share, past: Past) -> None:
        """Add what was given up."""
        for name, units in share.items():
            self._units[name] = self._units.get(name, 0) + units
        for name, sent in past.items():
            self._past.setdefault(name, []).extend(sent)

    def take(self, share: Share) -> Past:
        """Take out a share that is there; return the past that goes with it."""
        past: dict[str, list[tuple[float, float]]] = {}
        for name, units in share.items():
            there = self._units.get(name, 0)
            if units > there:
                raise ValueError(f"{units} of {there} units")
            self._units[name] = there - units
            if sent := self._past.get(name):
                part = units / there if there else 0.0
                taken = [amount for _, amount in sent] if units == there else cut([amount for _, amount in sent], part)
                past[name] = [(at, amount) for (at, _), amount in zip(sent, taken, strict=True)]
                self._past[name] = [(at, held - mine) for (at, held), mine in zip(sent, taken, strict=True)]
        return past


def past_of_a_death(
    share: Share, whole: Share, before: Iterable[SpentMinute], own: Iterable[SpentMinute], *, now: float
) -> Past:
    """Return the past of a share whose holder has died just now: at worst it had used a minute's limits up.

    Of limits a day `before` is what all had used by the main ledger, of which it bore its share, and `own` what it had
    by its ledger.
    """
    ago_s = now - time.time()
    past = {name: [(now, float(units))] for name, units in share.items()}
    for name in share:
        if "daily" in name:
            part, counts = share[name] / whole[name], "tokens" if name.endswith("tokens") else "requests"
            past[name] = [
                (min(minute.minute * 60 + 60 + ago_s, now), getattr(minute, counts) * weight)
                for minutes, weight in ((before, part), (own, 1.0))
                for minute in minutes
            ]
    return past


def minus(share: Share, other: Share) -> Share:
    """Return what a share has more of than another."""
    return {name: units - other.get(name, 0) for name, units in share.items() if units > other.get(name, 0)}


def plus(shares: Iterable[Share]) -> Share:
    """Return the sum of shares."""
    total: dict[str, int] = {}
    for share in shares:
        for name, units in share.items():
            total[name] = total.get(name, 0) + units
    return total
