"""One request into one outcome: send it, and decide what each attempt means for its row.

`Worker.advance` awaits the edges it is given; what it decides is decided in plain functions. It starts no task, holds
no queue and sleeps nowhere: a row that must wait is handed back with the time it waits.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from operator import itemgetter

import msgspec

from batchrun.accounting import counted, is_owed, totals_of
from batchrun.budget import MostTokens, Reservation
from batchrun.client.breaker import Cause, Trip
from batchrun.client.lane import Attempt, Lane
from batchrun.client.lanes import Lanes, Shun
from batchrun.client.outage import OUTAGES, Weather, may_be_outage
from batchrun.errors import ExitStatus, RecordError
from batchrun.events import LaneState, RowInFlight, Totals
from batchrun.ledger.records import Entry
from batchrun.model.attempt import Reply, Spends, Then, Tries, Trouble
from batchrun.model.outcome import Account, Completion, Failure
from batchrun.model.request import Request
from batchrun.spending import NOTHING, Owed, Spending, owed_of


class OpenRow(msgspec.Struct, kw_only=True):
    """A row that is not settled: its request, or why it has none as `unsendable`; changed as it advances.

    `began` is the monotonic time of its first attempt in this run, in seconds. `in_flight` is true while an attempt's
    exchange goes on. Under a budget `most` bounds what an attempt takes, and `reserved` is held for the one at hand.
    `shun` is the lane that it is not to go to for a while, `doubted` the one that refused its key last.
    """

    row: int
    request: Request | None
    unsendable: str = ""
    replaced: bool = False
    tries: Tries = Tries()
    began: float | None = None
    in_flight: bool = False
    most: MostTokens | None = None
    reserved: Reservation | None = None
    shun: Shun | None = None
    doubted: Lane | None = None


class Step(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What one advance came to.

    `entry` is for the ledger, None when nothing was sent. With an outcome the row is settled; with `wait_s` it waits
    for its next try; with `stop` the run is to be stopped for the reason given, with `status`, and the row stays
    pending. `weather` says whether an outage of the endpoint began, went on or ended.
    """

    entry: Entry | None = None
    wait_s: float | None = None
    stop: str | None = None
    status: ExitStatus = ExitStatus.ENDPOINT
    weather: Weather = Weather.FAIR


class Worker:
    """Advances open rows; shared by all workers of a run."""

    def __init__(
        self,
        *,
        lanes: Lanes,
        clock: Callable[[], float],
        wall_us: Callable[[], int],
        spending: Spending | None = None,
    ) -> None:
        """Use these edges; `clock` is monotonic in seconds, `wall_us` in microseconds since 1970 UTC.

        `spending` holds all attempts to the job's budget, None where it has none.
        """
        self._lanes = lanes
        self._clock = clock
        self._wall_us = wall_us
        self._spending = spending
        self._flying: dict[int, float] = {}

    async def advance(self, row: OpenRow) -> Step:
        """Make one attempt for a row; the slot it takes is given back by the entry's commit."""
        if (request := row.request) is None:
            return self._unsendable(row, row.unsendable)
        if self._spending is not None and row.most is not None:
            try:
                bound_nanousd = self._spending.bound_of(row.most, request.model)
            except RecordError as error:
                return self._unsendable(row, str(error))
            reserved = self._spending.reserve_now(bound_nanousd) or await self._spending.reserve(bound_nanousd)
            if reserved is None:
                return Step(stop=self._spending.take_ending(), status=ExitStatus.BUDGET)
            row.reserved = reserved
        lane: Lane | None = None
        try:
            if (admitted := await self._lanes.enter(request.body, row.shun)) is None:
                return Step(wait_s=None if row.shun is None else row.shun.left_s)  # 0 where it is over by now
            lane = admitted.lane
            began, began_us = self._clock(), self._wall_us()
            if row.began is None:
                row.began = began
            row.in_flight = True
            self._flying[row.row] = began
            attempt = await lane.attempt(request.body, model=request.model, tokens=admitted.tokens)
            row.in_flight = False
            row.tries = counted(row.tries, attempt, began_us)
            step = self._step(row, request, lane, attempt)
        except BaseException:
            if lane is not None:
                lane.gate.leave()
            raise
        finally:
            self._flying.pop(row.row, None)
            if row.reserved is not None:
                self._give_back(row)
        return step

    def _give_back(self, row: OpenRow) -> None:
        """Give back what is reserved for an attempt that was not made; one that is cut in flight keeps it."""
        if self._spending is not None and row.reserved is not None and not row.in_flight:
            self._spending.give_back(row.reserved)
            row.reserved = None

    def close(self) -> None:
        """Send away the rows that wait for the budget."""
        if self._spending is not None:
            self._spending.close()

    def state(self) -> LaneState:
        """Return how far the limits that attempts are held to are used."""
        state = self._lanes.state()
        if self._spending is None:
            return state
        return msgspec.structs.replace(
            state,
            used={**state.used, "budget": round(self._spending.used, 4)},
            waited_s={**state.waited_s, "budget": self._spending.waited_s},
        )

    def oldest(self, count: int) -> list[RowInFlight]:
        """Return the rows that have been in flight longest, the oldest first."""
        now = self._clock()
        first = heapq.nsmallest(count, self._flying.items(), key=itemgetter(1))
        return [RowInFlight(row=row, age_s=now - began) for row, began in first]

    def cut_off(self, row: OpenRow) -> Entry:
        """Return what is to be kept of an attempt that was cancelled in flight: it may have been billed."""
        trouble = Trouble(
            error_class="disconnected",
            message="the run ended before the reply came",
            then=Then.RETRY,
            spends=Spends.AMBIGUOUS,
            maybe_billed=True,
        )
        attempt = Attempt(came_to=trouble, http_status=None, latency_ms=0.0)
        owed = self._settle(row, attempt)
        tries = counted(row.tries, attempt, self._wall_us())
        return Entry(
            row=row.row,
            totals=totals_of(tries, trouble, owed),
            tries=msgspec.structs.replace(tries, ambiguous=row.tries.ambiguous),
            holds_slot=False,
        )

    def _unsendable(self, row: OpenRow, why: str) -> Step:
        tries = row.tries
        account = Account(
            attempts=tries.attempts,
            cost_nanousd=tries.cost_nanousd,
            cost_source=tries.cost_source,
            started_us=tries.first_sent_us,
            finished_us=self._wall_us(),
            flags=_flags(row, ()),
        )
        failure = Failure(row=row.row, error_class="input", message=why, account=account)
        return Step(entry=Entry(row=row.row, totals=Totals(), outcome=failure, holds_slot=False))

    def _step(self, row: OpenRow, request: Request, lane: Lane, attempt: Attempt) -> Step:
        came_to, owed = attempt.came_to, self._settle(row, attempt)
        totals = totals_of(row.tries, came_to, owed)
        if isinstance(came_to, Reply):
            return self._answered(row, request, lane, attempt, came_to, totals)
        self._lanes.changed()
        excused = lane.breaker.excuse() if attempt.weather in OUTAGES else ()
        if not may_be_outage(came_to):
            lane.breaker.seen()
        wait_s, then = self._way_on(row, lane, attempt, came_to)
        if wait_s is None and then is Then.FAIL_ROW and (reply := came_to.instead) is not None:
            return self._answered(row, request, lane, attempt, reply, totals)
        entry = Entry(row=request.row, totals=totals, tries=row.tries, lane=lane.number, reverts=excused)
        if wait_s is not None:
            return Step(entry=entry, wait_s=wait_s, weather=attempt.weather)
        if then is Then.STOP_RUN:
            return self._stopped(row, entry, lane, came_to.message, attempt.weather)
        if (trip := self._tripped(row, lane, came_to)) is not None:
            entry = msgspec.structs.replace(entry, reverts=trip.rows)
            return self._stopped(row, entry, lane, f"{came_to.message} ({trip.why})", attempt.weather)
        failure = Failure(
            row=request.row,
            error_class=came_to.error_class,
            message=came_to.message,
            account=self._account(row, request, lane, attempt, ()),
            usage=came_to.usage,
            raw=came_to.raw,
        )
        entry = msgspec.structs.replace(entry, outcome=failure, tries=None)
        return Step(entry=entry, weather=attempt.weather)

    def _stopped(self, row: OpenRow, entry: Entry, lane: Lane, why: str, weather: Weather) -> Step:
        """Retire the lane; the row stays pending, and is another lane's with all of its tries where one is left."""
        if (stop := self._lanes.retire(lane, why)) is not None:
            return Step(entry=entry, stop=stop, weather=weather)
        row.tries, row.began = row.tries.afresh(), None
        return Step(entry=msgspec.structs.replace(entry, tries=row.tries), wait_s=0.0, weather=weather)

    def _settle(self, row: OpenRow, attempt: Attempt) -> Owed:
        """End what was reserved for an attempt; return what is owed for it although nobody knows its cost."""
        owed, came_to = is_owed(attempt), attempt.came_to
        reserved = row.reserved
        if reserved is None or self._spending is None:
            return owed_of(None) if owed else NOTHING
        row.reserved = None
        return self._spending.settle(reserved, came_to.cost, owed=owed, answered=isinstance(came_to, Reply))

    def _answered(
        self, row: OpenRow, request: Request, lane: Lane, attempt: Attempt, reply: Reply, totals: Totals
    ) -> Step:
        lane.breaker.answered()
        account = self._account(row, request, lane, attempt, reply.flags)
        outcome = Completion(row=row.row, reply=reply, account=account)
        first_token_ms = attempt.first_token_ms
        entry = Entry(row=row.row, totals=totals, outcome=outcome, lane=lane.number, first_token_ms=first_token_ms)
        return Step(entry=entry, weather=attempt.weather)

    def _tripped(self, row: OpenRow, lane: Lane, trouble: Trouble) -> Trip | None:
        """Tell the lane's breaker of a row that is about to fail; return what follows when it trips."""
        if trouble.error_class == "rejected":
            cause = Cause(http_status=trouble.http_status, code=trouble.code)
            return lane.breaker.rejected(row.row, cause, beside=self._lanes.rejected_beside(lane, cause))
        if trouble.error_class == "context_overflow":  # the endpoint answers: it is the row that is too long
            lane.breaker.answered()
        elif may_be_outage(trouble) and lane.retries.may_be_sent(row.tries):
            lane.breaker.failed(row.row)
        return None

    def _way_on(self, row: OpenRow, lane: Lane, attempt: Attempt, trouble: Trouble) -> tuple[float | None, Then]:
        """Return the wait before the next try, or None and what happens instead."""
        if trouble.then is not Then.RETRY:
            return None, trouble.then
        if attempt.excused:  # it is not the row's fault: neither its tries nor its time are spent
            row.began = None
            return 0.0, Then.RETRY
        _doubt(row, lane, trouble)
        elapsed_s = self._clock() - (row.began or 0.0)
        wait_s = lane.retries.wait_s(row.tries, trouble, elapsed_s=elapsed_s)
        if wait_s is None:
            return None, trouble.at_last
        if trouble.pauses and self._lanes.are_several:  # the lane waits, the row is any lane's
            return 0.0, Then.RETRY
        may_go_elsewhere = trouble.hint_s is not None and trouble.at_last is not Then.STOP_RUN
        shun = self._lanes.shun(lane, wait_s, row.shun) if may_go_elsewhere else None
        row.shun = shun or row.shun
        return (wait_s if shun is None else 0.0), Then.RETRY

    def _account(self, row: OpenRow, request: Request, lane: Lane, attempt: Attempt, flags: tuple[str, ...]) -> Account:
        tries = row.tries
        return Account(
            attempts=tries.attempts,
            cost_nanousd=tries.cost_nanousd,
            cost_source=tries.cost_source,
            http_status=attempt.http_status,
            latency_ms=attempt.latency_ms,
            started_us=tries.first_sent_us,
            finished_us=self._wall_us(),
            request_sha256=request.sha256,
            flags=_flags(row, flags) if row.replaced or tries.maybe_billed else flags,
            endpoint=lane.name,
        )


def _doubt(row: OpenRow, lane: Lane, trouble: Trouble) -> None:
    """Count refusals of a key by lane: a key is tried twice where it failed, another lane's says nothing of it."""
    if trouble.at_last is Then.STOP_RUN and row.doubted is not lane:
        row.doubted = lane
        others = [line for line in row.tries.lines if line != trouble.line]
        row.tries = msgspec.structs.replace(row.tries, lines=(*others, trouble.line))


def _flags(row: OpenRow, flags: tuple[str, ...]) -> tuple[str, ...]:
    more = (*row.tries.flags, "text_replaced") if row.replaced else row.tries.flags
    if not more:
        return flags
    return (*flags, *(name for name in more if name not in flags))
