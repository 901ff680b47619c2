"""Rows that wait until the budget covers their next attempt, first come, first served, before they go to the gate.

An attempt that is out ends within its own bounds, so whoever waits for what it gives back waits within them too; when
none is out and the rest does not cover the head of the queue, the budget is used up.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from batchrun.budget import Budget, MostTokens, Reservation, Spent
from batchrun.errors import RecordError
from batchrun.events import Watcher
from batchrun.model.attempt import Cost
from batchrun.pricing import Tariff, usd, usd_text


class Owed(NamedTuple):
    """What an attempt of unknown cost keeps of the budget: its upper bound, or one attempt at the dearest so far."""

    held_nanousd: int = 0
    uncosted: int = 0


NOTHING = Owed()
_ONE_OF_UNKNOWN_COST = Owed(uncosted=1)


class LaneTariff(NamedTuple):
    """What a lane's replies cost, and the model that it is sent instead of the job's."""

    tariff: Tariff | None
    model: str | None = None


Lender = Callable[[int, int], None]
"""Is told how much more the first in the queue needs, in nano-USD, and how many reservations are out."""


class _Waiter(NamedTuple):
    bound_nanousd: int | None
    granted: asyncio.Future[Reservation | None]


class Spending:
    """Holds one run to its budget; must be made inside the running loop."""

    def __init__(
        self,
        budget: Budget,
        *,
        fields: Mapping[str, object],
        tariff: Tariff | None,
        watcher: Watcher,
        others: Sequence[LaneTariff] = (),
        lender: Lender | None = None,
    ) -> None:
        """Hold requests with the body `fields` to `budget`, by the prices of `tariff` where it knows one.

        `others` are the prices of further lanes: a request is bound by the dearest lane that it may go to. With a
        `lender` the budget is what was lent so far: it is asked for more, and only it can say that there is none.
        """
        self._loop = asyncio.get_running_loop()
        self._budget = budget
        self._fields = fields
        self._lanes = tuple(self._with_model(lane) for lane in (LaneTariff(tariff), *others))
        self._watcher = watcher
        self._waiters: deque[_Waiter] = deque()
        self._closed = False
        self._used_up: str | None = None
        self._waited_s = 0.0
        self._waiting_since: float | None = None
        self._told: set[str] = set()
        self._lender = lender
        self._asked: tuple[int, bool] | None = None

    @property
    def waiting(self) -> int:
        """Rows that wait for the budget."""
        return len(self._waiters)

    @property
    def waited_s(self) -> float:
        """How long rows have waited for the budget, in seconds."""
        self._count_wait()
        return self._waited_s

    @property
    def used(self) -> float:
        """The share of the budget that is spent or reserved."""
        return self._budget.taken_nanousd / max(1, self._budget.limit_nanousd)

    @property
    def taken_nanousd(self) -> int:
        """What is spent or reserved."""
        return self._budget.taken_nanousd

    @property
    def spent(self) -> Spent:
        """What is spent."""
        return self._budget.spent

    def lend(self, nanousd: int) -> None:
        """Have so much more to spend."""
        self._budget.limit_nanousd += nanousd
        self._asked = None
        self._serve()

    def return_free(self) -> int:
        """Give back what is neither spent nor reserved; return how much that is."""
        free = max(0, self._budget.limit_nanousd - self._budget.taken_nanousd)
        self._budget.limit_nanousd -= free
        self._asked = None
        return free

    def bound_of(self, most: MostTokens, model: str | None) -> int | None:
        """Return the most that one attempt of a request can cost, in nano-USD; None where no price is known.

        `model` is the one that the request asks for, None for the job's. Raises RecordError where a price is known
        and the request bounds no output: it could cost any amount.
        """
        bound_nanousd, completion_tokens = 0, most.completion
        for tariff, own_model in self._lanes:
            if tariff is None or (rates := tariff(None, model or own_model)) is None:
                return None
            if completion_tokens is None:
                raise RecordError(
                    "no max_tokens that bounds this row: under limits.max_cost_usd no request may cost just any amount"
                )
            bound_nanousd = max(bound_nanousd, rates.most_nanousd(most.prompt, completion_tokens))
        return bound_nanousd

    def reserve_now(self, bound_nanousd: int | None) -> Reservation | None:
        """Reserve for one attempt with this bound where nothing has to be waited for, else return None."""
        return None if self._closed or self._waiters else self._budget.reserve(bound_nanousd)

    async def reserve(self, bound_nanousd: int | None) -> Reservation | None:
        """Wait until the budget covers one attempt with this bound; None when nothing is to be sent any more."""
        if self._closed:
            return None
        waiter = _Waiter(bound_nanousd, self._loop.create_future())
        self._waiters.append(waiter)
        self._count_wait()
        self._serve()
        try:
            return await waiter.granted
        except asyncio.CancelledError:
            self._leave(waiter)
            raise

    def settle(self, reservation: Reservation, cost: Cost | None, *, owed: bool, answered: bool) -> Owed:
        """End the reservation of an attempt by what it came to; return what it keeps although its cost is not known.

        `owed` says that it may have been billed, `answered` that it brought a reply.
        """
        kept = NOTHING
        if cost is not None:
            nanousd, bound = cost.nanousd, reservation.bound_nanousd
            self._budget.pay(reservation, nanousd)
            if bound is not None and nanousd > bound:
                self._tell("an attempt cost more than its upper bound", usd=usd(nanousd), bound_usd=usd(bound))
        elif owed:
            self._budget.keep(reservation)
            kept = owed_of(reservation)
            if answered:
                counted = usd(self._budget.cost_of(reservation.bound_nanousd))
                self._tell("a reply's cost is not known; the budget counts what it may have been", usd=counted)
        else:
            self._budget.give_back(reservation)
        if self._waiters:
            self._serve()
        return kept

    def give_back(self, reservation: Reservation) -> None:
        """End the reservation of an attempt that was not made."""
        self._budget.give_back(reservation)
        self._serve()

    def close(self) -> None:
        """Let nothing be reserved any more; whoever waits is sent away."""
        self._closed = True
        while self._waiters:
            self._grant(self._waiters.popleft(), None)

    def take_ending(self) -> str | None:
        """Return why the budget ends the run, once; None where it does not, or after that."""
        reason, self._used_up = self._used_up, None
        return reason

    def _with_model(self, lane: LaneTariff) -> LaneTariff:
        """Return a lane with the model of a request that names none, None where that is not known."""
        asked = lane.model or self._fields.get("model")
        return LaneTariff(lane.tariff, asked if isinstance(asked, str) else None)

    def _serve(self) -> None:
        """Let in from the head of the queue whom the budget covers; end it when nothing can come back any more."""
        while self._waiters and (reservation := self._budget.reserve(self._waiters[0].bound_nanousd)) is not None:
            self._grant(self._waiters.popleft(), reservation)
            self._asked = None
        self._count_wait()
        if not self._waiters or self._closed:
            return
        if self._lender is not None:
            self._ask(self._lender)
        elif not self._budget.out:
            self._used_up = self._reason(self._waiters[0].bound_nanousd)
            self.close()

    def _ask(self, lender: Lender) -> None:
        """Ask for what the head of the queue needs, again when that is more, or nothing more is out."""
        budget, bound_nanousd = self._budget, self._waiters[0].bound_nanousd
        need = max(1, budget.taken_nanousd + budget.cost_of(bound_nanousd) - budget.limit_nanousd)
        if self._asked != (asked := (need, budget.out > 0)):
            self._asked = asked
            lender(need, budget.out)

    def _count_wait(self) -> None:
        """Add up the time in which anybody waits."""
        now, since = self._loop.time(), self._waiting_since
        self._waited_s += 0.0 if since is None else now - since
        self._waiting_since = now if self._waiters else None

    def _grant(self, waiter: _Waiter, reservation: Reservation | None) -> None:
        if not waiter.granted.done():
            waiter.granted.set_result(reservation)
        elif reservation is not None:  # cancelled, and not yet told so
            self._budget.give_back(reservation)

    def _leave(self, waiter: _Waiter) -> None:
        """Take back what a cancelled row was given, or its place in the queue."""
        if waiter in self._waiters:
            self._waiters.remove(waiter)
        elif not waiter.granted.cancelled() and (reservation := waiter.granted.result()) is not None:
            self._budget.give_back(reservation)
        self._serve()

    def _reason(self, bound_nanousd: int | None) -> str:
        return used_up(self._budget.limit_nanousd, self._budget.spent, self._budget.cost_of(bound_nanousd))

    def _tell(self, event: str, **facts: float) -> None:
        """Tell an event once."""
        if event not in self._told:
            self._told.add(event)
            self._watcher.noted(event, **facts)


def used_up(limit_nanousd: int, spent: Spent, more_nanousd: int) -> str:
    """Return why a budget ends a run whose next attempt may cost `more_nanousd`."""
    unsure = spent.nanousd - spent.known_nanousd
    known = f"{usd_text(spent.nanousd)} USD are spent"
    if unsure:
        known += f", {usd_text(unsure)} of them for attempts whose cost is not known"
    return (
        f"max_cost_usd = {usd_text(limit_nanousd)} does not cover the next attempt: {known}, "
        f"and it may cost {usd_text(more_nanousd)}; raise it to go on"
    )


def owed_of(reservation: Reservation | None) -> Owed:
    """Return what an attempt that may have been billed keeps; without a budget it is only counted."""
    if reservation is None or reservation.bound_nanousd is None:
        return _ONE_OF_UNKNOWN_COST
    return Owed(held_nanousd=reservation.bound_nanousd)
