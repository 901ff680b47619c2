"""A job's budget lent to worker processes: what is spent and what is lent never come to more than it. Pure.

A worker reserves each attempt out of what it is lent. When that does not do, it asks; what the pool does not have is
recalled from the others, who give back what they have neither spent nor reserved. Where all are short, nothing is in
flight and the pool can serve none, the budget is used up.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from batchrun.budget import Spent

PIECES = 8
"""A worker is lent at least this part of its even share at a time, so that it need not ask for each attempt."""


class Account(msgspec.Struct, kw_only=True):
    """What one worker is lent and has spent of it; `short` is what its next attempt lacks, while `out` are made."""

    lent: int = 0
    spent: Spent = Spent()
    short: int = 0
    out: int = 0
    is_recalled: bool = False

    @property
    def may_have_more(self) -> bool:
        """Whether what it is lent is more than what it has spent, as far as it told."""
        return self.lent > self.spent.nanousd


class Bank:
    """The budget of one run."""

    def __init__(self, limit_nanousd: int, spent: Spent, *, workers: int) -> None:
        """Start with what earlier runs of the output spent."""
        self.limit_nanousd = limit_nanousd
        self._base = spent
        self._piece = max(1, limit_nanousd // (PIECES * workers))
        self._accounts: dict[int, Account] = {}

    @property
    def spent(self) -> Spent:
        """What is spent, as far as workers told."""
        every = [self._base, *(account.spent for account in self._accounts.values())]
        return Spent(
            known_nanousd=sum(one.known_nanousd for one in every),
            held_nanousd=sum(one.held_nanousd for one in every),
            uncosted=sum(one.uncosted for one in every),
            dearest_nanousd=max(one.dearest_nanousd for one in every),
        )

    @property
    def adopted_nanousd(self) -> int:
        """What is spent by the main ledger."""
        return self._base.nanousd

    @property
    def pool_nanousd(self) -> int:
        """What is neither spent nor lent."""
        dearest = self.spent.dearest_nanousd
        gone = msgspec.structs.replace(self._base, dearest_nanousd=dearest).nanousd
        for account in self._accounts.values():
            spent = msgspec.structs.replace(account.spent, dearest_nanousd=dearest).nanousd
            gone += max(account.lent, spent)
        return self.limit_nanousd - gone

    @property
    def shortest(self) -> int:
        """What the least demanding of those who are short lacks, 0 where none is."""
        return min((account.short for account in self._accounts.values() if account.short), default=0)

    def close(self, worker: int, spent: Spent) -> None:
        """Have one worker less; `spent` is by the main ledger, which has adopted what it spent."""
        self._accounts.pop(worker, None)
        self._base = spent

    def ask(self, worker: int, short: int, out: int, spent: Spent) -> None:
        """Take note of what a worker lacks."""
        account = self._accounts.setdefault(worker, Account())
        account.short, account.out, account.spent = short, out, spent

    def returned(self, worker: int, nanousd: int, spent: Spent) -> None:
        """Take note of what a worker gave back; where it is short, it is so by that much more."""
        account = self._accounts.setdefault(worker, Account())
        account.lent -= nanousd
        account.spent, account.is_recalled = spent, False
        account.short += nanousd if account.short else 0

    def lend(self, working: Collection[int]) -> dict[int, int]:
        """Lend to those who work and are short, the least demanding first, as far as the pool goes.

        Return how much to whom.
        """
        lent: dict[int, int] = {}
        for worker, account in sorted(self._accounts.items(), key=lambda item: item[1].short):
            pool = self.pool_nanousd
            if worker in working and account.short and account.short <= pool and not account.is_recalled:
                lent[worker] = min(max(account.short, self._piece), pool)
                account.lent += lent[worker]
                account.short = 0
        return lent

    def recall(self, working: Collection[int]) -> list[int]:
        """Return whom to ask for what they do not need, where somebody is short; nobody is asked twice at a time."""
        if not self.shortest:
            return []
        asked = [
            worker
            for worker, account in self._accounts.items()
            if worker in working and account.may_have_more and not account.is_recalled
        ]
        for worker in asked:
            self._accounts[worker].is_recalled = True
        return asked

    def is_used_up(self, working: Collection[int]) -> bool:
        """Say whether all of those who work are short, nothing of theirs is in flight, and nothing is to come back."""
        accounts = [self._accounts.get(worker, Account()) for worker in working]
        return (
            bool(accounts)
            and all(account.short and not account.out and not account.may_have_more for account in accounts)
            and not any(account.is_recalled for account in accounts)
            and self.shortest > self.pool_nanousd
        )
